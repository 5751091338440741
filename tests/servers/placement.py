"""
A private openstack-placement over HTTP: the real one, on waitress, with an SQLite file of its own.

A small front stands before it. It lets `X-Auth-Token: admin` (Placement's own `noauth2`) and the basic credentials
op:pw pass, takes one write at a time (Placement on SQLite needs that), counts requests, and misbehaves on demand:

    with private_placement(directory) as server:
        server.misbehave("PUT", "/inventories", status=409, code="placement.concurrent_update", times=1)
        print(server.url, server.counts())

Placement can be loaded once per process only. Tests that use the embedded one in this process must all use the
database that the fixture `embedded_connection` names, and names of nodes of their own.
"""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

START_TIMEOUT_S = 150.0
TOKEN = "admin"
USER, PASSWORD = "op", "pw"
_CONTROL = "/control/"


@dataclass(slots=True)
class PlacementServer:
    """A running server; `url` stays the same when it is stopped and started again."""

    directory: Path
    port: int
    process: "subprocess.Popen[str] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        command = [sys.executable, __file__, str(self.directory / "placement.db"), str(self.port)]
        log = (self.directory / "server.log").open("a")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.strip() != "ready":
            self.stop()
            raise RuntimeError((self.directory / "server.log").read_text()[-4000:])

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> None:
        """Stop it, by its own id."""
        if self.process is None:
            return
        self.process.send_signal(sign)
        self.process.wait(timeout=150)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None

    def misbehave(
        self,
        method: str,
        path: str,
        *,
        status: int = 0,
        code: str = "",
        how: str = "answer",
        times: int | None = None,
        skip: int = 0,
    ) -> None:
        """
        Misbehave on requests of this method whose path contains `path`.

        Args:
            how: `answer` (with status and code), `hang` (answer after 30 s) or `close` (end in mid-answer); `lose` and
                `stall` do what they were asked to first, then end in mid-answer, or give none until told to behave.
            times: how often; None for ever.
            skip: let so many pass first.
        """
        fault = {"method": method, "path": path, "status": status, "code": code, "how": how, "times": times}
        self._control("faults", {**fault, "skip": skip})

    def behave(self) -> None:
        """Forget all misbehaviour."""
        self._control("behave", {})

    def counts(self) -> dict[str, int]:
        """Give how many requests of each method it got, its own control requests left out."""
        counts: dict[str, int] = self._control("counts", {})
        return counts

    def _control(self, name: str, body: object) -> Any:
        request = urllib.request.Request(self.url + _CONTROL + name, data=json.dumps(body).encode(), method="POST")
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def private_placement(directory: Path) -> Iterator[PlacementServer]:
    """Run a server on a free loopback port; its files are in `directory`."""
    server = PlacementServer(directory=directory, port=free_port())
    server.start()
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def free_port() -> int:
    """Find a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def placement_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlacementServer]:
    """One server for all tests of this process; they use nodes of their own."""
    with private_placement(tmp_path_factory.mktemp("placement")) as server:
        yield server


@pytest.fixture(scope="session")
def embedded_connection() -> Iterator[str]:
    """The one database of the Placement that is embedded in this test process, an SQLAlchemy URL."""
    with tempfile.TemporaryDirectory(prefix="placement-") as directory:
        yield f"sqlite:///{directory}/placement.db"


# What follows runs in the server's process.

_App = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]


class _Front:
    def __init__(self, app: _App) -> None:
        self._app = app
        self._mutex = threading.Lock()
        self._writing = threading.Lock()
        self._faults: list[dict[str, Any]] = []
        self._counts: dict[str, int] = {}
        self._behave = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path.startswith(_CONTROL):
            return self._controlled(path.removeprefix(_CONTROL), environ, start_response)
        with self._mutex:
            self._counts[method] = self._counts.get(method, 0) + 1
            fault = self._fault(method, f"{path}?{environ['QUERY_STRING']}")
        if fault is not None and fault["how"] == "hang":
            self._behave.wait(30)
        if fault is not None and fault["how"] == "close":
            return _cut_short(start_response)
        if fault is not None and fault["how"] == "answer":
            error = {"status": fault["status"], "title": "told to", "detail": "told to", "code": fault["code"]}
            return _json(start_response, f"{fault['status']} told to", {"errors": [error]})
        if not self._known(environ):
            error = {"status": 401, "title": "Unauthorized", "detail": "wrong credentials"}
            return _json(start_response, "401 Unauthorized", {"errors": [error]})
        unheard = fault is not None and fault["how"] in ("lose", "stall")
        answer = self._asked(environ, (lambda *_: None) if unheard else start_response)
        if fault is not None and fault["how"] == "stall":
            self._behave.wait(30)
        return _cut_short(start_response) if unheard else answer

    def _asked(self, environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "GET":
            return self._app(environ, start_response)
        with self._writing:
            return list(self._app(environ, start_response))

    def _known(self, environ: dict[str, Any]) -> bool:
        given = environ.pop("HTTP_AUTHORIZATION", "")
        if given.startswith("Basic "):
            if base64.b64decode(given.removeprefix("Basic ")).decode() != f"{USER}:{PASSWORD}":
                return False
            environ["HTTP_X_AUTH_TOKEN"] = TOKEN
        return environ["PATH_INFO"] in ("", "/") or environ.get("HTTP_X_AUTH_TOKEN") == TOKEN

    def _fault(self, method: str, path: str) -> dict[str, Any] | None:
        for fault in self._faults:
            if fault["method"] in (method, "*") and fault["path"] in path:
                if fault["skip"] > 0:
                    fault["skip"] -= 1
                    continue
                if fault["times"] is None:
                    return fault
                if fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return None

    def _controlled(self, name: str, environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
        body = json.loads(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0)) or b"{}")
        with self._mutex:
            if name == "faults":
                self._behave.clear()
                self._faults.append(body)
            elif name == "behave":
                self._behave.set()
                self._faults.clear()
            return _json(start_response, "200 OK", self._counts)


def _cut_short(start_response: Callable[..., object]) -> list[bytes]:
    """Answer less than was announced: waitress closes the connection."""
    start_response("200 OK", [("Content-Length", "1000"), ("Content-Type", "application/json")])
    return [b"{"]


def _json(start_response: Callable[..., object], status: str, body: object) -> list[bytes]:
    raw = json.dumps(body).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(raw)))])
    return [raw]


def _exit_with_parent() -> None:
    """A server whose test process was killed must not stay."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _serve(file: str, port: int) -> None:
    import waitress
    from oslo_config import cfg

    from placement import conf, db_api, deploy

    _exit_with_parent()
    options = cfg.ConfigOpts()
    conf.register_opts(options)
    options.set_override("connection", f"sqlite:///{file}?timeout=30", "placement_database")
    options.set_override("sync_on_startup", True, "placement_database")
    options.set_override("auth_strategy", "noauth2", "api")
    options([], project="placement", default_config_files=[], default_config_dirs=[])
    db_api.configure(options)
    server = waitress.create_server(_Front(deploy.loadapp(options)), host="127.0.0.1", port=port, threads=16)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    server.run()


if __name__ == "__main__":
    # The folder of this script would hide Placement's own package behind this file's name.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    _serve(sys.argv[1], int(sys.argv[2]))
