"""
Step 7b: the real openstack-placement in this process. Invariant: one writer at a time, in this process and in all
others.

Placement on SQLite is not safe for concurrent writers (oslo.db begins transactions without a lock: "database is
locked" comes back as 500), nor for two that create the schema at once. So a lock of this process and a lock file stand
round every request that is not a GET, and round loading. See docs/decisions.
"""

import contextlib
import io
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import webob
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter

from stocktake.errors import PlacementUnreachable, SettingsError
from stocktake.settings.state_files import FileId, FileLock, disk_of, file_id, make_directory, make_file, sqlite_fault

# requests adds query parameters only to http URLs; no name server knows this one.
URL = "http://placement.invalid"
LOCK_WAIT_S = 60.0
# How long SQLite itself waits for a reader or with another program, in seconds.
_BUSY_S = 30

_WsgiApp = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]


class _Loaded:
    """The one application of this process: Placement's configuration is global."""

    guard = threading.Lock()
    # Of the process: a lock file does not keep two transports of one process apart.
    writing = threading.RLock()
    connection: str | None = None
    app: _WsgiApp | None = None
    # The SQLite file that it has open.
    file: FileId | None = None
    faults = threading.local()


class Embedded(BaseAdapter):
    """
    A transport for `requests` that calls Placement's WSGI application.

    Loading costs three quarters of a second and 64 MB, and is done at the first request.
    """

    def __init__(self, connection: str, *, state_path: Path) -> None:
        """Take an SQLAlchemy URL; the lock file is beside an SQLite file, else in the state path."""
        super().__init__()
        self._connection, self._file = _opened_by(connection)
        self._lock = FileLock(Path(f"{self._file}.lock") if self._file else state_path / "placement.lock")
        self._mutex = _Loaded.writing
        self._app: _WsgiApp | None = None

    def send(self, request: PreparedRequest, *args: object, **options: object) -> Response:
        """
        Answer a request of `requests` in this thread; time limits, certificates and proxies have no meaning here.

        Raises:
            SettingsError, PlacementUnreachable: as `answer`.
        """
        del args, options
        asked = webob.Request.blank(
            request.url or URL, method=request.method, headers=dict(request.headers), body=_bytes_of(request.body)
        )
        answer = self.answer(asked)
        response = Response()
        response.status_code, response.reason = answer.status_int, answer.status.partition(" ")[2]
        response.headers.update(answer.headers)
        response.url, response.request, response.encoding = request.url or URL, request, "utf-8"
        response.raw = io.BytesIO(answer.body)
        return response

    def answer(self, asked: webob.Request) -> webob.Response:
        """
        Answer a request in this thread.

        Raises:
            SettingsError: this process has loaded Placement on another database.
            PlacementUnreachable: the database can't be used, or another process kept the lock file for too long.
        """
        if self._app is None:
            with self._alone():
                self._app = _load(self._connection, self._file)
        _check_file(self._file)
        if asked.method == "GET":
            return self._answered(self._app, asked)
        with self._alone():
            return self._answered(self._app, asked)

    def _answered(self, app: _WsgiApp, asked: webob.Request) -> webob.Response:
        """Call the application; what its database could not do is said instead of its 500."""
        _Loaded.faults.last = None
        answer = asked.get_response(app)
        error: sqlite3.Error | None = _Loaded.faults.last
        if answer.status_int < HTTPStatus.INTERNAL_SERVER_ERROR or error is None or self._file is None:
            return answer
        fault = sqlite_fault(error, self._file, "placement")
        what = f"the database {self._file} can't be used: {error}"
        raise PlacementUnreachable(what, where="placement (embedded)", remedy=fault.remedy)

    def close(self) -> None:
        """Nothing to close: the application lives as long as the process."""

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold both locks."""
        if not self._mutex.acquire(timeout=LOCK_WAIT_S):
            raise _locked(f"another thread keeps the lock for {LOCK_WAIT_S:.0f} s")
        try:
            with self._file_lock():
                yield
        finally:
            self._mutex.release()

    @contextlib.contextmanager
    def _file_lock(self) -> Iterator[None]:
        with contextlib.ExitStack() as held:
            try:
                # Later the directory was there, and is not made anew.
                if _Loaded.app is None:
                    make_directory(self._lock.path.parent)
                held.enter_context(self._lock.hold(LOCK_WAIT_S))
            except TimeoutError as error:
                raise _locked(f"another process keeps the lock for {LOCK_WAIT_S:.0f} s") from error
            except OSError as error:
                raise _locked(f"the lock file can't be used: {error}") from error
            yield


def _opened_by(connection: str) -> tuple[str, Path | None]:
    """Give the URL to open a database by, and its file if it has one: that is opened, and never made, by SQLite."""
    place, _, query = connection.partition("?")
    name = place.removeprefix("sqlite:///")
    if name == place or name in ("", ":memory:") or name.startswith("file:"):
        return connection, None
    file = Path(name).absolute()
    timeout = "" if "timeout=" in query else f"&timeout={_BUSY_S}"
    return f"sqlite:///file:{quote(str(file))}?mode=rw&uri=true{timeout}{query and '&'}{query}", file


def _check_file(file: Path | None) -> None:
    """Refuse a file other than the one that is open: SQLite would go on with one that nobody finds any more."""
    if file is None or (found := file_id(file)) == _Loaded.file:
        return
    what = "the file was removed while it was open" if found is None else "another file took the place of the open one"
    remedy = "Put the file back; or restart what has it open, which reports to what is there then."
    raise PlacementUnreachable(what, where=str(file), remedy=remedy)


def _load(connection: str, file: Path | None) -> _WsgiApp:
    """Load the application, and create or upgrade its schema."""
    with _Loaded.guard:
        if _Loaded.connection not in (None, connection):
            raise SettingsError(
                f"this process has an embedded Placement on {_Loaded.connection} already",
                where=connection,
                remedy="Placement can be loaded once per process: use another process, or a remote one.",
            )
        # Before the attempt: Placement keeps the database it was first given, even if loading then fails.
        _Loaded.connection = connection
        if _Loaded.app is None:
            if file is not None:
                _make(file)
            _Loaded.app = _deployed(connection, file)
            _Loaded.file = file_id(file) if file is not None else None
        return _Loaded.app


def _make(file: Path) -> None:
    try:
        make_file(file)
    except OSError as error:
        remedy = f"Check the directory and its disk ({disk_of(file)}), or set placement.connection."
        raise PlacementUnreachable(f"can't make it: {error.strerror}", where=str(file), remedy=remedy) from error


def _deployed(connection: str, file: Path | None) -> _WsgiApp:
    # Schema steps and every request are logged at INFO; an operator who looks for them can lower these again.
    for name in ("placement", "alembic", "oslo_db", "oslo_policy"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
    from oslo_config import cfg
    from oslo_db.exception import DBError
    from sqlalchemy import Engine, event
    from sqlalchemy.exc import SQLAlchemyError

    from placement import conf, db_api, deploy

    options = cfg.ConfigOpts()
    conf.register_opts(options)
    options.set_override("connection", connection, "placement_database")
    options.set_override("sync_on_startup", True, "placement_database")
    options.set_override("auth_strategy", "noauth2", "api")
    options([], project="placement", default_config_files=[], default_config_dirs=[])
    db_api.configure(options)
    event.listen(Engine, "handle_error", _note_fault)
    # These log a page of Python for what is said as an error of ours.
    for name in ("placement.fault_wrap", "oslo_db.sqlalchemy.exc_filters"):
        logging.getLogger(name).addFilter(lambda _record: getattr(_Loaded.faults, "last", None) is None)
    try:
        app: _WsgiApp = deploy.loadapp(options)
    except (DBError, SQLAlchemyError) as error:
        remedy = "Check that the file is Placement's and that it and its folder can be written; else move it away."
        cause: sqlite3.Error | None = getattr(_Loaded.faults, "last", None)
        if cause is not None:
            remedy = sqlite_fault(cause, file, "placement").remedy or remedy
        raise PlacementUnreachable(
            f"the database can't be used: {' '.join(str(cause or error).split())}",
            where=str(file or connection),
            remedy=remedy,
        ) from error
    return app


def _note_fault(context: Any) -> None:
    """Remember what SQLite said last in this thread: Placement makes a 500 of it that says nothing."""
    if isinstance(context.original_exception, sqlite3.Error):
        _Loaded.faults.last = context.original_exception


def _bytes_of(body: bytes | str | None) -> bytes:
    return body.encode() if isinstance(body, str) else body or b""


def _locked(what: str) -> PlacementUnreachable:
    return PlacementUnreachable(what, where="placement (embedded)", remedy="Try again.")
