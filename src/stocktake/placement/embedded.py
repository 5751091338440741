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
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import fasteners
import webob
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter

from stocktake.errors import PlacementUnreachable, SettingsError

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


class Embedded(BaseAdapter):
    """
    A transport for `requests` that calls Placement's WSGI application.

    Loading costs three quarters of a second and 64 MB, and is done at the first request.
    """

    def __init__(self, connection: str, *, state_path: Path) -> None:
        """Take an SQLAlchemy URL; the lock file is beside an SQLite file, else in the state path."""
        super().__init__()
        file = connection.partition("?")[0].removeprefix("sqlite:///")
        local = connection.startswith("sqlite:///") and file not in ("", ":memory:")
        timeout = f"{'&' if '?' in connection else '?'}timeout={_BUSY_S}"
        self._connection = connection + timeout if local and "timeout=" not in connection else connection
        lock = Path(file + ".lock") if local else state_path / "placement.lock"
        self._file_lock = fasteners.InterProcessLock(str(lock))
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
                self._app = _load(self._connection)
        if asked.method == "GET":
            return asked.get_response(self._app)
        with self._alone():
            return asked.get_response(self._app)

    def close(self) -> None:
        """Nothing to close: the application lives as long as the process."""

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold both locks."""
        if not self._mutex.acquire(timeout=LOCK_WAIT_S):
            raise _locked(f"another thread keeps the lock for {LOCK_WAIT_S:.0f} s")
        try:
            self._take_file_lock()
            try:
                yield
            finally:
                self._file_lock.release()
        finally:
            self._mutex.release()

    def _take_file_lock(self) -> None:
        try:
            locked = self._file_lock.acquire(timeout=LOCK_WAIT_S, delay=0.005, max_delay=0.05)
        except OSError as error:
            raise _locked(f"the lock file can't be used: {error}") from error
        if not locked:
            # fasteners leaves the file open that it could not lock.
            self._file_lock.lockfile.close()
            raise _locked(f"another process keeps the lock for {LOCK_WAIT_S:.0f} s")


def _load(connection: str) -> _WsgiApp:
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
            _Loaded.app = _deployed(connection)
        return _Loaded.app


def _deployed(connection: str) -> _WsgiApp:
    # Schema steps and every request are logged at INFO; an operator who looks for them can lower these again.
    for name in ("placement", "alembic", "oslo_db", "oslo_policy"):
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)
    from oslo_config import cfg
    from oslo_db.exception import DBError
    from sqlalchemy.exc import SQLAlchemyError

    from placement import conf, db_api, deploy

    options = cfg.ConfigOpts()
    conf.register_opts(options)
    options.set_override("connection", connection, "placement_database")
    options.set_override("sync_on_startup", True, "placement_database")
    options.set_override("auth_strategy", "noauth2", "api")
    options([], project="placement", default_config_files=[], default_config_dirs=[])
    db_api.configure(options)
    try:
        app: _WsgiApp = deploy.loadapp(options)
    except (DBError, SQLAlchemyError) as error:
        remedy = "Check that the file is Placement's and that it and its folder can be written; else move it away."
        raise PlacementUnreachable(
            f"the database can't be used: {' '.join(str(error).split())}", where=connection, remedy=remedy
        ) from error
    return app


def _bytes_of(body: bytes | str | None) -> bytes:
    return body.encode() if isinstance(body, str) else body or b""


def _locked(what: str) -> PlacementUnreachable:
    return PlacementUnreachable(what, where="placement (embedded)", remedy="Try again.")
