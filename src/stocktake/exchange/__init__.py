"""Asking other hosts over HTTP: one exchange with its limits, and signing in."""
