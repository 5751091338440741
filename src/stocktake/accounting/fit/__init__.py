"""Step 6: what fits where. Invariant: values in, values out; a "no" has every reason."""
