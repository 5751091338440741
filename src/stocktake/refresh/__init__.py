"""Step 2: one pass over the nodes, and what it asks of each. Invariant: one node's trouble is no other's."""
