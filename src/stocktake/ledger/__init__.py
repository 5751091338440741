"""Step 7a, the database: what is promised and what was counted. Law: nothing but this room speaks SQL."""

from stocktake.ledger.base import Ledger
from stocktake.ledger.engine import Database
from stocktake.ledger.nouns import NodeSave, SaveOutcome
from stocktake.ledger.opening import open_ledger
from stocktake.ledger.transaction import Transaction

__all__ = ["Database", "Ledger", "NodeSave", "SaveOutcome", "Transaction", "open_ledger"]
