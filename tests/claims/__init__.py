"""Claims: made, moved, settled, given back; on real databases."""
