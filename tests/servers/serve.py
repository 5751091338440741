"""
`stocktake serve`, the real program in a process of its own, or the same application in this one.

    with served(tmp_path, url) as server:
        answer = server.client("viewer").get("/v1/nodes")

Both have a token for each role: `viewer`, `agent` (of `HOST`), `other` (an agent of another host), `operator`, and
`expired`, `revoked` and `wrong` that let nobody in.
"""

import contextlib
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import uvicorn
from starlette.testclient import TestClient

from stocktake.claims.opening import claims_with
from stocktake.clock import Clock, RandomIds, SystemClock
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.ledger.engine import WAIT_S
from stocktake.model.access import digest_of
from stocktake.placement.embedded import Embedded
from stocktake.placement.opening import open_scheduler
from stocktake.settings import ServerSection, read_settings
from stocktake.web.app import make_app
from stocktake.web.calls import Route
from stocktake.web.connections import HttpConnection
from stocktake.web.context import Web
from stocktake.web.limits import Gate
from stocktake.web.routes import ROUTES
from stocktake.web.serving import listen

HOST = "compute-1"
OTHER_HOST = "compute-2"
GOOD = ("viewer", "agent", "other", "operator")
BAD = ("expired", "revoked", "wrong")
START_TIMEOUT_S = 150.0
_ROOT = "http://127.0.0.1"
_CLIENT = ("127.0.0.1", 50000)


def secret_of(name: str) -> str:
    """Give the token of a name; always the same."""
    return "stk_" + hashlib.sha256(name.encode()).hexdigest()


def add_tokens(ledger: DatabaseLedger, clock: Clock) -> None:
    """Put the tokens into a ledger, once."""
    if ledger.tokens.find(digest_of(secret_of("viewer"))) is not None:
        return
    ledger.tokens.add(digest_of(secret_of("viewer")), role="viewer")
    ledger.tokens.add(digest_of(secret_of("agent")), role="agent", host=HOST)
    ledger.tokens.add(digest_of(secret_of("other")), role="agent", host=OTHER_HOST)
    ledger.tokens.add(digest_of(secret_of("operator")), role="operator", note="Ada")
    past = clock.now() - timedelta(seconds=1)
    ledger.tokens.add(digest_of(secret_of("expired")), role="operator", expires_at=past)
    revoked = ledger.tokens.add(digest_of(secret_of("revoked")), role="operator")
    ledger.tokens.revoke(revoked.uuid)


def headers_of(name: str | None) -> dict[str, str]:
    """Give the header that shows a token; none for None."""
    return {} if name is None else {"Authorization": f"Bearer {secret_of(name)}"}


@dataclass(slots=True)
class Served:
    """A running server in a process of its own; `url` is its root."""

    directory: Path
    database: str
    settings: Mapping[str, object]
    environ: Mapping[str, str] = field(default_factory=dict)
    louder: int = 0
    files_max: int | None = None
    url: str = ""
    verify: Any = True
    process: "subprocess.Popen[str] | None" = field(default=None, repr=False)

    def start(self) -> None:
        """Start it and wait until it listens; started again, it has the port that it had."""
        given = {
            "host": HOST,
            "server.listen": self.url.rpartition("//")[2] or "127.0.0.1:0",
            "placement.mode": "none",
            "database.connection": self.database,
            "server.rate_per_s": 0,
            **self.settings,
        }
        file = self.directory / "stocktake.toml"
        file.touch()
        limit = (self.files_max,) * 2
        few = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, {limit}); " if self.files_max else ""
        command = [sys.executable, "-c", f"{few}from stocktake.cli.main import main; main(prog_name='stocktake')"]
        command += [
            "--config",
            str(file),
            "--state-path",
            str(self.directory),
            "--log-json",
            *["-v"] * self.louder,
            "serve",
        ]
        command += [part for name, value in given.items() for part in ("--set", f"{name}={_text(value)}")]
        environ = {name: value for name, value in os.environ.items() if not name.startswith("STOCKTAKE_")}
        with self.log.open("a") as log:
            start = log.tell()
            self.process = subprocess.Popen(command, stderr=log, text=True, env={**environ, **self.environ})
        self.url = self._listening(start)

    def _listening(self, start: int) -> str:
        """Wait for the line that says where it listens."""
        line = self._said(start, lambda line: line.startswith("Serving "))
        return line.rpartition(" on ")[2].strip()

    def told(self, sign: signal.Signals, text: str) -> None:
        """Send a signal, and wait until it says that it was heard."""
        assert self.process is not None
        start = self.log.stat().st_size
        self.process.send_signal(sign)
        self._said(start, lambda line: text in line)

    def said(self, start: int, text: str) -> None:
        """Wait until its log, from a place in it on, has a line with a text."""
        self._said(start, lambda line: text in line)

    def when_asked(self, path: str) -> None:
        """Wait until a request of a path has arrived; the server has to be `louder`."""
        self._said(0, lambda line: '"DEBUG"' in line and path in line)

    def when_closed(self) -> None:
        """Wait until nobody can connect any more."""
        host, port = self.url.rpartition("//")[2].split(":")
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            try:
                socket.create_connection((host, int(port)), timeout=5).close()
            except ConnectionRefusedError:
                return
            except ConnectionResetError:
                # It closed meanwhile.
                continue
            time.sleep(0.05)
        raise RuntimeError("it still listens")

    def _said(self, start: int, wanted: Callable[[str], bool]) -> str:
        """Wait for a line of the log, from a place in it on."""
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            with self.log.open() as log:
                log.seek(start)
                for line in log:
                    if wanted(line) and line.endswith("\n"):
                        return line
            if self.process is None or self.process.poll() is not None:
                break
            time.sleep(0.05)
        raise RuntimeError(self.log.read_text()[-4000:])

    @property
    def log(self) -> Path:
        """What it wrote to stderr."""
        return self.directory / "serve.log"

    def records(self, logger: str) -> list[dict[str, Any]]:
        """Give what it logged as one of its loggers."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("logger") == logger]

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Stop it, by its own id, and give its exit code."""
        if self.process is None:
            return 0
        self.process.send_signal(sign)
        code = self.process.wait(timeout=150)
        self.process = None
        return code

    @contextmanager
    def client(self, name: str | None = None, **more: Any) -> Iterator[httpx2.Client]:
        """Open a client that shows the token of a name."""
        with httpx2.Client(base_url=self.url, headers=headers_of(name), timeout=30, verify=self.verify, **more) as one:
            yield one


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


@contextmanager
def served(
    directory: Path,
    database: str | None = None,
    *,
    louder: int = 0,
    files_max: int | None = None,
    tokens: bool = True,
    **settings: object,
) -> Iterator[Served]:
    """
    Run a server on a free loopback port over a ledger (by its URL; a new SQLite file without one).

    Args:
        louder: how often --verbose is given.
        files_max: how many files it may have open.
        tokens: put those tokens into the ledger.
        settings: dotted names with `__` for the dot, such as `server__rate_per_s`.
    """
    database = database or f"sqlite:///{directory / 'ledger.db'}"
    clock = SystemClock()
    if tokens:
        with contextlib.closing(open_ledger(database, clock=clock, ids=RandomIds())) as ledger:
            add_tokens(ledger, clock)
    server = Served(directory, database, {name.replace("__", "."): value for name, value in settings.items()})
    server.louder, server.files_max = louder, files_max
    try:
        server.start()
        yield server
    finally:
        server.stop(signal.SIGKILL)


@contextmanager
def served_in_thread(web: Web, gate: Gate | None = None) -> Iterator[str]:
    """Serve an application over a real socket, from a thread of this process; give its URL."""
    app = make_app(web)
    with listen(ServerSection(listen="127.0.0.1:0")) as listener:
        listener.listen()
        listener.gate = gate or listener.gate
        kind = type("HttpConnection", (HttpConnection,), {"gate": listener.gate})
        server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, access_log=False, http=kind, timeout_keep_alive=600)
        )
        # A server in a thread can't have the signals, and does not ask for them.
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(timeout=150)
        assert not thread.is_alive()


@dataclass(frozen=True, slots=True)
class ServedHere:
    """The application in this process, over HTTP without a network."""

    web: Web
    raw: TestClient

    def client(self, name: str | None = None) -> TestClient:
        """Give a client that shows the token of a name."""
        one = TestClient(self.raw.app, base_url=_ROOT, client=_CLIENT)
        one.headers.update(headers_of(name))
        # Its loop is the one that runs already.
        one.portal = self.raw.portal
        return one


@contextmanager
def served_here(
    directory: Path,
    database: str | None = None,
    *,
    clock: Clock | None = None,
    tokens: bool = True,
    loopback: bool = True,
    wait_s: float = WAIT_S,
    routes: Sequence[Route] = ROUTES,
    **settings: Any,
) -> Iterator[ServedHere]:
    """
    Make the application over a ledger; see `served`.

    Args:
        tokens: put those tokens into the ledger.
        loopback: only this machine can reach it.
        wait_s: how long to wait for the ledger's lock.
        routes: others than the real ones.
    """
    clock, ids = clock or SystemClock(), RandomIds()
    database = database or f"sqlite:///{directory / 'ledger.db'}"
    given: dict[str, object] = {name.replace("__", "."): value for name, value in settings.items()}
    fixed = {"host": HOST, "state_path": directory, "placement.mode": "none", "server.rate_per_s": 0}
    read = read_settings(None, environ={}, overrides={**fixed, "database.connection": database, **given})
    with contextlib.ExitStack() as opened:
        ledger = open_ledger(database, clock=clock, ids=ids, wait_s=wait_s)
        opened.callback(ledger.close)
        scheduler = open_scheduler(read.placement, clock, state_path=directory)
        opened.callback(scheduler.close)
        if tokens:
            add_tokens(ledger, clock)
        connection = read.placement.connection
        embedded = Embedded(connection, state_path=directory) if read.placement.mode == "embedded" else None
        web = Web(
            settings=read,
            ledger=ledger,
            scheduler=scheduler,
            claims=claims_with(read, ledger, scheduler, clock, ids),
            clock=clock,
            ids=ids,
            placement=embedded,
            loopback=loopback,
        )
        raw = opened.enter_context(TestClient(make_app(web, routes), base_url=_ROOT, client=_CLIENT))
        yield ServedHere(web, raw)
