"""Step 7a, the database: promises and what was counted. Invariant: nothing but this room speaks SQL."""

from stocktake.ledger.base import DatabaseLedger, Ledger, Transaction, open_ledger
from stocktake.ledger.calls import Rows, ledger_call
from stocktake.ledger.engine import EVERYONE, Database
from stocktake.ledger.nodes import NodeSave, SaveOutcome
from stocktake.ledger.snapshot import Snapshot

__all__ = [
    "EVERYONE",
    "Database",
    "DatabaseLedger",
    "Ledger",
    "NodeSave",
    "Rows",
    "SaveOutcome",
    "Snapshot",
    "Transaction",
    "ledger_call",
    "open_ledger",
]
