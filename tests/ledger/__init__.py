"""The ledger's parts that need no second database; its contract is in `tests/contract/ledger`."""
