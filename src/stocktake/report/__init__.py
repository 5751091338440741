"""Step 7: save what changed, then make the scheduler agree. Invariant: nothing that is not saved is reported."""
