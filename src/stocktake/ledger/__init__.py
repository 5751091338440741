"""Step 7a, the database: what is promised and what was counted. Invariant: nothing but this room speaks SQL."""

from stocktake.ledger.base import Ledger
from stocktake.ledger.engine import Database
from stocktake.ledger.notify import EVERYONE
from stocktake.ledger.nouns import NodeSave, SaveOutcome, Standing
from stocktake.ledger.opening import open_ledger
from stocktake.ledger.protocol import AnyLedger, Job
from stocktake.ledger.transaction import Transaction

__all__ = [
    "EVERYONE",
    "AnyLedger",
    "Database",
    "Job",
    "Ledger",
    "NodeSave",
    "SaveOutcome",
    "Standing",
    "Transaction",
    "open_ledger",
]
