"""Step 7a, the database: what is promised and what was counted. Invariant: nothing but this room speaks SQL."""

from stocktake.ledger.base import DatabaseLedger
from stocktake.ledger.engine import Database
from stocktake.ledger.notify import EVERYONE
from stocktake.ledger.nouns import NodeSave, SaveOutcome, Snapshot
from stocktake.ledger.opening import open_ledger
from stocktake.ledger.protocol import Job, Ledger
from stocktake.ledger.transaction import Transaction

__all__ = [
    "EVERYONE",
    "Database",
    "DatabaseLedger",
    "Job",
    "Ledger",
    "NodeSave",
    "SaveOutcome",
    "Snapshot",
    "Transaction",
    "open_ledger",
]
