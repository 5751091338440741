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
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import fasteners
from requests import PreparedRequest, Response
from requests.adapters import BaseAdapter
from requests.exceptions import ConnectionError as NoConnection

from stocktake.errors import PlacementUnreachable, SettingsError

# requests adds query parameters only to http URLs; no name server knows this one.
URL = "http://placement.invalid"
LOCK_WAIT_S = 60.0
# SQLite's own patience with a reader or with another program, in seconds.
_BUSY_S = 30

_WsgiApp = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]


class _Loaded:
    """The one application of this process: Placement's configuration is global."""

    guard = threading.Lock()
    # Of the process, not of a door: a lock file does not keep two doors of one process apart.
    writing = threading.RLock()
    connection: str | None = None
    app: _WsgiApp | None = None


class Embedded(BaseAdapter):
    """
    A door for `requests` that calls Placement's WSGI application.

    Loading costs three quarters of a second and 64 MB, and is done at the first request.
    """

    def __init__(self, connection: str, *, state_path: Path) -> None:
        """Take an SQLAlchemy URL; the lock file is beside an SQLite file, else in the state path."""
        super().__init__()
        file = connection.partition("?")[0].removeprefix("sqlite:///")
        local = connection.startswith("sqlite:///") and file not in ("", ":memory:")
        patience = f"{'&' if '?' in connection else '?'}timeout={_BUSY_S}"
        self._connection = connection + patience if local and "timeout=" not in connection else connection
        lock = Path(file + ".lock") if local else state_path / "placement.lock"
        self._file_lock = fasteners.InterProcessLock(str(lock))
        self._mutex = _Loaded.writing
        self._app: _WsgiApp | None = None

    def send(self, request: PreparedRequest, *args: object, **options: object) -> Response:
        """
        Answer a request in this thread; time limits, certificates and proxies have no meaning here.

        Raises:
            NoConnection, SettingsError, PlacementUnreachable: as `answer`.
        """
        del args, options
        return self.answer(request)

    def answer(self, request: PreparedRequest, *, mount: str = "") -> Response:
        """
        Answer a request in this thread.

        Args:
            mount: what the URL's path begins with before Placement's own; links and locations begin with it too.

        Raises:
            NoConnection: another process kept the lock file for too long.
            SettingsError: this process has loaded Placement on another database.
            PlacementUnreachable: the database can't be used.
        """
        if self._app is None:
            with self._alone(request):
                self._app = _load(self._connection)
        if request.method == "GET":
            return _called(self._app, request, mount)
        with self._alone(request):
            return _called(self._app, request, mount)

    def close(self) -> None:
        """Nothing to close: the application lives as long as the process."""

    @contextlib.contextmanager
    def _alone(self, request: PreparedRequest) -> Iterator[None]:
        """Hold both locks."""
        if not self._mutex.acquire(timeout=LOCK_WAIT_S):
            raise NoConnection(f"another thread keeps the lock for {LOCK_WAIT_S:.0f} s", request=request)
        try:
            self._lock_file(request)
            try:
                yield
            finally:
                self._file_lock.release()
        finally:
            self._mutex.release()

    def _lock_file(self, request: PreparedRequest) -> None:
        try:
            locked = self._file_lock.acquire(timeout=LOCK_WAIT_S, delay=0.005, max_delay=0.05)
        except OSError as error:
            raise NoConnection(f"the lock file can't be used: {error}", request=request) from error
        if not locked:
            # fasteners leaves the file open that it could not lock.
            self._file_lock.lockfile.close()
            raise NoConnection(f"another process keeps the lock for {LOCK_WAIT_S:.0f} s", request=request)


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


def _called(app: _WsgiApp, request: PreparedRequest, mount: str) -> Response:
    said: dict[str, Any] = {}

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: object = None) -> None:
        del exc_info
        said["status"], said["headers"] = status, headers

    chunks = app(_environ(request, mount), start_response)
    try:
        body = b"".join(chunks)
    finally:
        close = getattr(chunks, "close", None)
        if close is not None:
            close()
    response = Response()
    code, _, reason = said["status"].partition(" ")
    response.status_code, response.reason = int(code), reason
    response.headers.update(said["headers"])
    response.url = request.url or URL
    response.request = request
    response.encoding = "utf-8"
    response.raw = io.BytesIO(body)
    return response


def _environ(request: PreparedRequest, mount: str) -> dict[str, Any]:
    parts = urlsplit(request.url or URL)
    body = request.body or b""
    raw = body.encode() if isinstance(body, str) else body
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": mount,
        "PATH_INFO": unquote(parts.path.removeprefix(mount)) or "/",
        "QUERY_STRING": parts.query,
        "SERVER_NAME": parts.hostname,
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "CONTENT_LENGTH": str(len(raw)),
        "CONTENT_TYPE": request.headers.get("Content-Type", ""),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": parts.scheme,
        "wsgi.input": io.BytesIO(raw),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for name, value in request.headers.items():
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            environ["HTTP_" + key] = value
    return environ
