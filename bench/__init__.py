"""
Measurements of whole passes, each beside the floor that any implementation must pay. Invariant: ratios of one run.
"""
