"""
The schema's version, and bringing it up to date. Invariant: one program at a time does it, and a newer schema is never
touched.
"""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import Connection, inspect, text

from stocktake.errors import LedgerError, LedgerUnreachable
from stocktake.ledger.engine import Database
from stocktake.settings.state_files import FileLock, disk_of, make_directory, make_file

# The versions this program knows, oldest first; a test compares them with the alembic scripts.
REVISIONS: Final = ("0001", "0002", "0003", "0004", "0005", "0006")
HEAD: Final = REVISIONS[-1]

# Any number would do, as long as it is always the same.
_ADVISORY_LOCK = 7_317_230_917
_FIRST = threading.Lock()


def version(database: Database) -> str | None:
    """
    Read the schema's version; None for an empty database.

    Raises:
        LedgerUnreachable, LedgerError: as every call.
    """
    with database.reading() as connection:
        return _version(connection)


def upgrade(database: Database, *, make: bool = True) -> None:
    """
    Make an empty database a ledger, an older ledger a current one.

    Args:
        make: make the SQLite file, and its directory, if there is none.

    Programs that start at once wait for each other; none sees a half-made schema, and a failure leaves the old one.

    Raises:
        LedgerUnreachable: another program holds it for too long.
        LedgerError: the schema is newer than this program, or the database is no ledger.
    """
    if database.path is not None and make:
        _prepare_file(database, database.path)
    if _known(version(database), database) == HEAD:
        return
    with database.writing() as connection:
        if not database.sqlite:
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
        # Another program may have been faster.
        if _known(_version(connection), database) != HEAD:
            _run_scripts(connection)


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _known(found: str | None, database: Database) -> str | None:
    if found is not None and found not in REVISIONS:
        raise LedgerError(
            f"the ledger's schema is {found!r}, which this program (up to {HEAD!r}) does not know",
            where=database.name,
            remedy="It was written by a newer stocktake: install that version; nothing was touched.",
        )
    return found


def _run_scripts(connection: Connection) -> None:
    # Alembic takes as long to load as everything else together, and is needed once.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "alembic").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _prepare_file(database: Database, path: Path) -> None:
    """Make the directory and the file, and connect alone for the first time, which turns on write-ahead logging."""
    # The file's lock is between processes, the other between this one's threads.
    with _FIRST:
        try:
            make_directory(path.parent)
            if _is_wal(path):
                return
            # Connections that turn it on at once don't wait for each other: SQLite refuses all but one.
            with FileLock(Path(f"{path}.lock")).hold(database.wait_s):
                make_file(path)
                version(database)
        except TimeoutError as error:
            what = f"another program has been making it for {database.wait_s:g} s"
            raise LedgerUnreachable(what, where=str(path), remedy="Try again.") from error
        except OSError as error:
            remedy = f"Check the directory and its disk ({disk_of(path)}), or set state_path or database.connection."
            raise LedgerUnreachable(f"can't make it: {error.strerror}", where=str(path), remedy=remedy) from error


def _is_wal(path: Path) -> bool:
    """
    Ask whether the file does write-ahead logging already.

    Through SQLite, and never by opening the file: a process that closes a file loses all its locks on it, those of its
    other connections too, and the next program to leave would then take the log away under them.
    """
    if not path.exists():
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=rw", uri=True, timeout=0)) as opened:
            (mode,) = opened.execute("PRAGMA journal_mode").fetchone()
            return bool(mode == "wal")
    except sqlite3.Error:
        # Locked, or no ledger at all: who connects next says it in full.
        return False
