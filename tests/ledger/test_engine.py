"""The database's errors into ours: which may pass by themselves, and what cures the others."""

import sqlite3
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError, DBAPIError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from stocktake.errors import InvalidData, LedgerError, LedgerUnreachable, StocktakeError
from stocktake.ledger.engine import Database, typed


def _of_sqlite(code: int, what: str = "it failed") -> DBAPIError:
    cause = sqlite3.OperationalError(what)
    cause.sqlite_errorcode = code
    return OperationalError("SELECT 1", None, cause)


def _of_postgresql(state: str | None, *, cut: bool = False) -> DBAPIError:
    cause = psycopg.OperationalError("it failed\nand why")
    cause.sqlstate = state
    return OperationalError("SELECT 1", None, cause, connection_invalidated=cut)


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (_of_sqlite(sqlite3.SQLITE_BUSY), LedgerUnreachable, "trying again is safe"),
        (_of_sqlite(sqlite3.SQLITE_BUSY_SNAPSHOT), LedgerUnreachable, "trying again is safe"),
        (_of_sqlite(sqlite3.SQLITE_IOERR_READ), LedgerUnreachable, "trying again is safe"),
        (_of_sqlite(sqlite3.SQLITE_CANTOPEN), LedgerUnreachable, "trying again is safe"),
        (_of_sqlite(sqlite3.SQLITE_FULL), LedgerError, "Free some space"),
        (_of_sqlite(sqlite3.SQLITE_READONLY), LedgerError, "write permission"),
        (_of_sqlite(sqlite3.SQLITE_CORRUPT), LedgerError, "damaged"),
        (_of_sqlite(sqlite3.SQLITE_NOTADB), LedgerError, "no ledger"),
        (_of_sqlite(sqlite3.SQLITE_ERROR, "no such table: services"), LedgerError, "stocktake ledger upgrade"),
        (_of_sqlite(sqlite3.SQLITE_ERROR), LedgerError, "it failed"),
        (_of_postgresql(None), LedgerUnreachable, "trying again is safe"),
        (_of_postgresql("XX000", cut=True), LedgerUnreachable, "trying again is safe"),
        (_of_postgresql("08006"), LedgerUnreachable, "trying again is safe"),
        (_of_postgresql("40P01"), LedgerUnreachable, "trying again is safe"),
        (_of_postgresql("53300"), LedgerUnreachable, "trying again is safe"),
        (_of_postgresql("55P03"), LedgerUnreachable, "trying again is safe"),
        (_of_postgresql("57014"), LedgerUnreachable, "trying again is safe"),
        (_of_postgresql("57P01"), LedgerUnreachable, "trying again is safe"),
        (_of_postgresql("42P01"), LedgerError, "stocktake ledger upgrade"),
        (DataError("SELECT 1", None, psycopg.DataError("too big")), InvalidData, "the database can't hold it: too big"),
        (PoolTimeout("full"), LedgerUnreachable, "all connections"),
        (InvalidRequestError("odd"), LedgerError, "odd"),
        (OverflowError("too large"), InvalidData, "the database can't hold it: too large"),
    ],
)
def test_given_a_database_error_when_named_then_it_says_whether_trying_again_helps(
    error: Exception, kind: type[StocktakeError], remedy: str
) -> None:
    """On one line, with the database's name."""
    named = typed(error, "sqlite:///x")
    assert type(named) is kind
    assert remedy in str(named)
    assert "\n" not in str(named)
    assert named.where == "sqlite:///x"


def test_given_a_full_disk_when_written_then_nothing_is_lost(tmp_path: Path) -> None:
    """SQLite's own limit of pages stands for the disk's."""
    (tmp_path / "l.db").touch()
    database = Database(f"sqlite:///{tmp_path}/l.db")
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE t (x)"))

    def fill() -> None:
        with database.writing() as connection:
            connection.execute(text("PRAGMA max_page_count = 1"))
            connection.execute(text("INSERT INTO t VALUES (zeroblob(1000000))"))

    with pytest.raises(LedgerError, match="Free some space on its disk"):
        fill()
    with database.reading() as connection:
        assert connection.execute(text("SELECT count(*) FROM t")).scalar_one() == 0
    database.close()
