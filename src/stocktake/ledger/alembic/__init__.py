"""The schema's versions, run by `stocktake.ledger.schema`. Law: a version that was released never changes."""
