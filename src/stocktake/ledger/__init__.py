"""Step 7a, the database: what is promised and what was counted. Law: nothing but this room speaks SQL."""

from stocktake.ledger.base import Ledger
from stocktake.ledger.engine import Database
from stocktake.ledger.opening import open_ledger
from stocktake.ledger.transaction import Transaction
from stocktake.ledger.write import NodeSave, SaveOutcome

__all__ = ["Database", "Ledger", "NodeSave", "SaveOutcome", "Transaction", "open_ledger"]
