"""The ledger's contract: one suite, run over SQLite and a real PostgreSQL."""
