"""Step 6: who uses what. Invariant: pure; values in, values out, the same whatever the order they come in."""
