"""Step 6: who uses what. Law: pure; values in, values out, the same whatever the order they come in."""
