"""
Opening a ledger. Invariant: whoever gets one finds it at the schema that this program knows.
"""

from contextlib import ExitStack

from stocktake.clock import Clock, Ids
from stocktake.ledger.base import DatabaseLedger
from stocktake.ledger.engine import WAIT_S, Database
from stocktake.model.history import Ages


def open_ledger(
    url: str,
    *,
    replica_url: str | None = None,
    clock: Clock,
    ids: Ids,
    upgrade: bool = True,
    wait_s: float = WAIT_S,
    ages: Ages | None = None,
) -> DatabaseLedger:
    """
    Open the ledger at a database URL, and bring its schema up to date.

    Args:
        url: `sqlite:////path/to/file`, whose directory is made, or `postgresql://user:password@host/name`.
        replica_url: another URL that may serve reads, with the same schema.
        upgrade: False connects to nothing and makes nothing; the first call does.
        wait_s: how long to wait for a lock or a connection.
        ages: how much history is kept.

    Raises:
        SettingsError: not a URL of SQLite or PostgreSQL.
        LedgerUnreachable: locked, gone, can't connect.
        LedgerError: the schema is newer than this program.
    """
    database = Database(url, wait_s=wait_s, create=upgrade)
    replica = Database(replica_url, wait_s=wait_s, create=False) if replica_url else None
    ledger = DatabaseLedger(database, replica, clock, ids, ages)
    with ExitStack() as opened:
        opened.callback(ledger.close)
        if upgrade:
            ledger.upgrade()
        opened.pop_all()
    return ledger
