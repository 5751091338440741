"""The schema's versions, run by `stocktake.ledger.schema`. Invariant: a version that was released never changes."""
