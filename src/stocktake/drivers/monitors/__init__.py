"""Host metrics: read in step 3, saved with the node in step 7."""
