"""Measurements of whole passes, each beside the floor that any implementation must pay. Law: ratios of one run."""
