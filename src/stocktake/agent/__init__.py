"""Step 1: when. Invariant: the interval is the guarantee; events only make a pass come sooner."""
