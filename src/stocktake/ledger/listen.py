"""
Step 7a, hearing that promises changed. Invariant: a wake says "read again", and whoever lost the database wakes when it
is back.

One thread with a connection of its own waits for PostgreSQL's notices, or looks at a SQLite file's `user_version`.
"""

import logging
import select
import socket
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from sqlalchemy.exc import SQLAlchemyError

from stocktake.ledger.engine import CHANNEL, EVERYONE, Database, read_version

LOG = logging.getLogger(__name__)

# A look costs a thread's waking and a stat: ten a second were measured at a tenth of a per cent of a core, and that is
# half of what an agent may take that nothing happens to.
LOOK_EVERY_S = 0.2
BACK_OFF_FIRST_S = 1.0
_ALL = frozenset({EVERYONE})
BACK_OFF_LONGEST_S = 30.0


class Lost(Exception):
    """The database can't be heard any more, and why."""


class Source(Protocol):
    """One connection that hears of changes."""

    def heard(self, ear: "Ear") -> frozenset[str]:
        """
        Wait for something, at most for a while; name the hosts whose promises may have changed, or EVERYONE.

        Raises:
            Lost: the connection is gone.
        """
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Ear:
    """What a thread waits at that has to end when it is told to."""

    def __init__(self) -> None:
        self._mouth, self._ear = socket.socketpair()
        self._poll = select.poll()
        self._poll.register(self._ear, select.POLLIN)
        self.ended = False

    def wait(self, timeout_s: float | None, file: int | None = None) -> bool:
        """Wait until the file can be read, or the time is over; say whether it can. Returns at once when ended."""
        if self.ended:
            return False
        if file is not None:
            self._poll.register(file, select.POLLIN)
        try:
            ready = self._poll.poll(None if timeout_s is None else timeout_s * 1000)
        finally:
            if file is not None:
                self._poll.unregister(file)
        return any(number == file for number, _ in ready)

    def end(self) -> None:
        """Let every wait return, from any thread."""
        self.ended = True
        self._mouth.send(b".")

    def close(self) -> None:
        """Let go of it, once nobody waits any more."""
        self._mouth.close()
        self._ear.close()


class DatabaseWatch:
    """
    Calls `hear` soon after somebody changed promises, until it is closed.

    Args:
        hear: given the hosts, or EVERYONE; called from the watch's thread, and must not wait.
    """

    def __init__(self, database: Database, hear: Callable[[frozenset[str]], None]) -> None:
        self._open: Callable[[], Source] = partial(SqliteSource if database.sqlite else PostgresqlSource, database)
        self._name = database.name
        self._hear = hear
        self._ear = Ear()
        self._source: Source | None = None
        # Here and now, so that nothing is missed between the first pass and the thread's start.
        self._try()
        self._thread = threading.Thread(target=self._run, name="stocktake-ledger-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; nobody is woken afterwards."""
        if not self._ear.ended:
            self._ear.end()
            self._thread.join(timeout=5.0)
            if not self._thread.is_alive():
                self._ear.close()

    def _run(self) -> None:
        back_off_s = BACK_OFF_FIRST_S
        while not self._ear.ended:
            if self._source is None:
                self._ear.wait(back_off_s)
                back_off_s = min(back_off_s * 2, BACK_OFF_LONGEST_S)
                # Nobody told what was changed meanwhile.
                if not self._ear.ended and self._try():
                    back_off_s = BACK_OFF_FIRST_S
                    LOG.info("listening to the ledger's changes again", extra={"about": self._name})
                    self._hear(_ALL)
                continue
            try:
                hosts = self._source.heard(self._ear)
                if hosts and not self._ear.ended:
                    self._hear(hosts)
            except Lost as error:
                self._lose(error)
        if self._source is not None:
            self._source.close()

    def _try(self) -> bool:
        try:
            self._source = self._open()
        except Lost as error:
            LOG.debug("can't listen to the ledger's changes: %s", error)
        return self._source is not None

    def _lose(self, error: Lost) -> None:
        LOG.info("can't listen to the ledger's changes for now: %s", error, extra={"about": self._name})
        assert self._source is not None, "it was just heard"
        self._source.close()
        self._source = None


class SqliteSource:
    """
    Looks at a file's `user_version`, and whether it is the same file still, once its log was written to.

    That is done by whoever writes anything, and is seen by a stat, which is cheaper.
    """

    def __init__(self, database: Database) -> None:
        assert database.path is not None, "a SQLite ledger has a file"
        self._path = database.path.absolute()
        self._log_path = Path(f"{self._path}-wal")
        self._lost = partial(lost, sqlite3.Error)
        with self._lost(), ExitStack() as opened:
            self._file = self._path.stat().st_ino
            self._connection = sqlite3.connect(
                # Never made anew: that would be a ledger without promises.
                f"file:{quote(str(self._path))}?mode=rw",
                uri=True,
                timeout=1.0,
                isolation_level=None,
                check_same_thread=False,
            )
            opened.callback(self._connection.close)
            self._seen = self._version()
            opened.pop_all()
        self._log: tuple[int, ...] = ()
        self._look_again = True

    def heard(self, ear: Ear) -> frozenset[str]:
        """Wait a little, and look."""
        ear.wait(LOOK_EVERY_S)
        before, self._log = self._log, self._log_status()
        # Two writes in one tick of the file system's clock may look like one: what follows the first is looked at too.
        look, self._look_again = self._look_again or before != self._log, before != self._log
        if not look:
            return frozenset()
        with self._lost():
            if self._path.stat().st_ino != self._file:
                raise Lost("its file is another one")
            seen, self._seen = self._seen, self._version()
        return _ALL if seen != self._seen else frozenset()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _log_status(self) -> tuple[int, ...]:
        try:
            status = self._log_path.stat()
        except OSError:
            return ()
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _version(self) -> int:
        return read_version(self._connection.execute("PRAGMA user_version").fetchone()[0])


class PostgresqlSource:
    """Listens on a connection that is taken out of the pool."""

    def __init__(self, database: Database) -> None:
        self._lost = partial(lost, database.engine.dialect.loaded_dbapi.Error)
        with self._lost(), ExitStack() as opened:
            pooled = database.engine.raw_connection()
            self._connection: Any = pooled.dbapi_connection
            pooled.detach()
            assert self._connection is not None, "it was opened just now"
            opened.callback(self._connection.close)
            self._connection.rollback()
            self._connection.autocommit = True
            self._connection.execute(f"LISTEN {CHANNEL}")
            opened.pop_all()

    def heard(self, ear: Ear) -> frozenset[str]:
        """Wait until the server says something."""
        with self._lost():
            if not ear.wait(None, self._connection.fileno()):
                return frozenset()
            notices = list(self._connection.notifies(timeout=0))
        return frozenset(str(notice.payload) for notice in notices)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@contextmanager
def lost(driver_error: type[Exception]) -> Iterator[None]:
    """Call every way in which a database fails by one name."""
    try:
        yield
    except (driver_error, OSError, SQLAlchemyError) as error:
        raise Lost(f"{type(error).__name__}: {error}") from error
