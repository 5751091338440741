"""
A URL to a database, and the one place where its errors become ours. Invariant: no call waits without end, and every
writing transaction takes its lock at the start.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from stocktake.errors import (
    UNKNOWN_REMEDY,
    InvalidData,
    LedgerError,
    LedgerUnreachable,
    OutcomeUnknown,
    SettingsError,
    StocktakeError,
    quoted,
)
from stocktake.settings.state_files import FileId, file_id, sqlite_fault

WAIT_S: Final = 5.0
STATEMENT_S: Final = 60
# When the server, which should have ended a statement by then, says nothing at all.
ANSWER_S: Final = STATEMENT_S + 5.0
POOL_SIZE: Final = 5
POOL_OVERFLOW: Final = 20
# A transaction collects the hosts; at its end PostgreSQL gets a NOTIFY for each, and a SQLite file, which has nobody to
# notify, another `user_version`. What an agent saves itself is no promise and is not told.
CHANNEL = "stocktake"
# The payload that means all hosts.
EVERYONE = ""

_OPTION = "stocktake_told"
# SQLite's `user_version` is a signed number of 32 bits.
_VERSIONS = 2**31

_MISSING_REMEDY = (
    "`stocktake refresh` and `stocktake ledger init` make it; or check database.connection and state_path."
)
_LOST_REMEDY = (
    "Nothing was saved. Put the file back; or restart what has it open, which goes on with what is there then, "
    "and makes an empty ledger if nothing is."
)
_UNREACHABLE_REMEDY = "Check that the database runs and is not locked; nothing was saved, trying again is safe."
# Classes and codes of SQLSTATE that trying again may cure: connection, resources, lock and statement time-outs,
# deadlocks, a server that starts or stops.
_PG_AWAY = ("08", "53", "40", "55P03", "57014", "57P01", "57P02", "57P03", "57P05", "25P03")
# No such table, no such column.
_PG_OUTDATED = ("42P01", "42703")


class Database:
    """
    One database and its pool of connections; threads may share it, forked processes may not.

    Attributes:
        name: the URL without its password, for errors.
        path: the SQLite file; None for a server.
        wait_s: how long to wait for a lock or a connection.
        engine: SQLAlchemy's.

    A SQLite file is made by `schema.upgrade`, never here; one that is removed or replaced is not written to any more.
    """

    def __init__(self, url: str, *, wait_s: float = WAIT_S) -> None:
        parsed = parse_url(url)
        self.name = parsed.render_as_string(hide_password=True)
        self.sqlite = parsed.get_backend_name() == "sqlite"
        self.path = Path(parsed.database) if self.sqlite and parsed.database else None
        self.wait_s = wait_s
        self._file: FileId | None = None
        try:
            self.engine: Engine = _sqlite(parsed, wait_s) if self.sqlite else _postgresql(parsed, wait_s)
        except ImportError as error:
            remedy = "Install stocktake[postgresql]."
            raise SettingsError(f"the database driver is missing: {error}", where=self.name, remedy=remedy) from error
        if self.path is not None:
            event.listen(self.engine, "connect", self._note_file)

    def _note_file(self, *_connected: object) -> None:
        """Remember which file is open, since the first connection to it."""
        if self._file is None and self.path is not None:
            self._file = file_id(self.path)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """
        Open a transaction that sees one state of the ledger, whoever writes meanwhile.

        Raises:
            LedgerUnreachable: locked, gone, can't connect.
            LedgerError: the database refused a statement.
        """
        with self._errors(), self.engine.connect() as connection:
            if not self.sqlite:
                connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
            yield connection

    @contextmanager
    def asking(self) -> Iterator[Connection]:
        """
        Ask one short question, which sees one state of the ledger by itself: no transaction is opened for it.

        Raises:
            LedgerUnreachable, LedgerError: as `reading`; in SQLite it is the same.
        """
        with self._errors(), self.engine.connect() as connection:
            if not self.sqlite:
                connection.execution_options(isolation_level="AUTOCOMMIT")
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """
        Open a transaction that writes: committed at the end, or nothing of it if anything is raised.

        Raises:
            LedgerUnreachable: locked, gone, can't connect; nothing was saved.
            OutcomeUnknown: the connection was lost at COMMIT.
            LedgerError: the database refused a statement.
        """
        with self._errors(), self.engine.connect() as connection:
            connection.execution_options(stocktake_writes=True, **{_OPTION: set[str]()})
            committing = False
            try:
                with connection.begin():
                    yield connection
                    _send(connection)
                    committing = True
            except DBAPIError as error:
                if not (committing and _may_be_saved(error)):
                    raise
                what = f"lost while it was saved: {_first_line(error.orig)}"
                raise OutcomeUnknown(what, where=self.name, remedy=UNKNOWN_REMEDY) from error

    def close(self) -> None:
        """Close the pool's connections; who uses it again opens what is there then."""
        self.engine.dispose()
        self._file = None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn the database's errors into ours, here and nowhere else."""
        if self.path is not None:
            self._check_file(self.path)
        try:
            yield
        except (SQLAlchemyError, OverflowError, UnicodeEncodeError) as error:
            raise typed(error, self.name, self.path) from error

    def _check_file(self, path: Path) -> None:
        """Refuse a file other than the one that is open: SQLite would go on with one that nobody finds any more."""
        try:
            found = file_id(path)
        except OSError as error:
            raise LedgerUnreachable(f"can't be looked at: {error.strerror}", where=self.name) from error
        if found is None:
            what = "the file is not there" if self._file is None else "the file was removed while it was open"
            remedy = _MISSING_REMEDY if self._file is None else _LOST_REMEDY
            raise LedgerUnreachable(what, where=self.name, remedy=remedy)
        if self._file not in (None, found):
            raise LedgerUnreachable(
                "another file took the place of the one that is open", where=self.name, remedy=_LOST_REMEDY
            )


def tell(connection: Connection, hosts: Iterable[str | None]) -> None:
    """Note that promises on these hosts change in this transaction."""
    connection.get_execution_options()[_OPTION].update(host for host in hosts if host is not None)


def _send(connection: Connection) -> None:
    """Say it, as the transaction's last act."""
    hosts = connection.get_execution_options()[_OPTION]
    if not hosts:
        return
    if connection.dialect.name == "sqlite":
        version = read_version(connection.exec_driver_sql("PRAGMA user_version").scalar())
        connection.exec_driver_sql(f"PRAGMA user_version = {(version + 1) % _VERSIONS}")
        return
    notices = text("SELECT pg_notify(:channel, host) FROM unnest(CAST(:hosts AS text[])) AS host")
    connection.execute(notices, {"channel": CHANNEL, "hosts": sorted(hosts)})


def read_version(answer: object) -> int:
    """Take the answer to `PRAGMA user_version`."""
    assert isinstance(answer, int), "SQLite always has one"
    return answer


def parse_url(url: str) -> URL:
    """
    Read a database URL; `postgresql://` means psycopg 3.

    Raises:
        SettingsError: not a URL, another database than SQLite and PostgreSQL, or a SQLite ledger without a file.
    """
    remedy = "Give sqlite:////path/to/file or postgresql://user:password@host/name."
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        backend = parsed.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        # The text may hold a password: it is not repeated.
        raise SettingsError("not a database URL", where="database.connection", remedy=remedy) from error
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite", "postgresql+psycopg"):
        raise SettingsError(f"no such ledger database: {parsed.drivername}", where="database.connection", remedy=remedy)
    if backend == "sqlite" and (parsed.host or parsed.username):
        what = "a SQLite ledger is a file, on no host"
        raise SettingsError(what, where="database.connection", remedy="Give sqlite:////path/to/file, four slashes.")
    if backend == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise SettingsError("a SQLite ledger needs a file", where="database.connection", remedy=remedy)
    return parsed


def typed(error: Exception, where: str, file: Path | None = None) -> StocktakeError:
    """
    Name a database error: LedgerUnreachable if trying again may help, InvalidData for a value, else LedgerError.

    Args:
        file: the SQLite file.
    """
    if isinstance(error, PoolTimeout):
        return LedgerUnreachable("all connections to it are in use", where=where, remedy=_UNREACHABLE_REMEDY)
    if isinstance(error, DataError | OverflowError | UnicodeEncodeError):
        text = _first_line(error.orig if isinstance(error, DataError) else error)
        return InvalidData(f"the database can't hold it: {text}", where=where)
    if not isinstance(error, DBAPIError):
        return LedgerError(_first_line(error), where=where)
    cause = error.orig
    text = _first_line(cause)
    if isinstance(cause, sqlite3.Error):
        fault = sqlite_fault(cause, file, "ledger")
        away, remedy = fault.away, fault.remedy
        outdated = "no such table" in text or "no such column" in text
    else:
        state = getattr(cause, "sqlstate", None)
        # Without a state it never got as far as the server.
        away = (
            error.connection_invalidated
            or (state is None and isinstance(error, OperationalError | InterfaceError))
            or _starts(state, _PG_AWAY)
        )
        remedy = ""
        outdated = _starts(state, _PG_OUTDATED)
    if away:
        return LedgerUnreachable(text, where=where, remedy=remedy or _UNREACHABLE_REMEDY)
    if outdated:
        remedy = "Run `stocktake ledger upgrade`."
    return LedgerError(text, where=where, remedy=remedy)


def _may_be_saved(error: DBAPIError) -> bool:
    """Say whether a COMMIT that failed so may have been done: its answer was lost, or the disk failed in it."""
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
    state = getattr(cause, "sqlstate", None)
    return state is None or state.startswith(("08", "57P"))


def _starts(state: str | None, prefixes: tuple[str, ...]) -> bool:
    return state is not None and state.startswith(prefixes)


def _first_line(error: BaseException | None) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return quoted(lines[0]) if lines else type(error).__name__


def _sqlite(url: URL, wait_s: float) -> Engine:
    path = Path(url.database or "").absolute()
    engine = create_engine(
        url.set(database=f"file:{quote(str(path))}", query={**url.query, "mode": "rw", "uri": "true"}),
        connect_args={"timeout": wait_s, "check_same_thread": False},
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=wait_s,
    )

    @event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: object) -> None:
        # The driver must not begin transactions by itself: it would begin them deferred.
        connection.isolation_level = None
        cursor = connection.cursor()
        # The file remembers this one; asking again costs nothing.
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # A deferred transaction that turns to writing may find the database changed, and no waiting cures that.
        writes = connection.get_execution_options().get("stocktake_writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _postgresql(url: URL, wait_s: float) -> Engine:
    engine = create_engine(
        url,
        # Whatever the server's default is: under `serializable` every second claim would fail.
        isolation_level="READ COMMITTED",
        connect_args={
            "connect_timeout": max(2, round(wait_s)),
            "application_name": "stocktake",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        },
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=wait_s,
        pool_pre_ping=True,
    )

    @event.listens_for(engine, "do_connect")
    def _connect(_dialect: object, _record: object, words: Any, options: Any) -> Any:
        from stocktake.ledger.bounded import bounded

        return bounded(ANSWER_S).connect(*words, **options)

    @event.listens_for(engine, "connect")
    def _settle(connection: Any, _record: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute(f"SET lock_timeout = {round(wait_s * 1000)}")
            cursor.execute(f"SET statement_timeout = {STATEMENT_S * 1000}")
            cursor.execute(f"SET idle_in_transaction_session_timeout = {STATEMENT_S * 1000}")
        connection.commit()

    return engine
