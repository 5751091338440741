"""
A private PostgreSQL: own data, own sockets, loopback only, and nothing of the machine's is touched.

PostgreSQL refuses to run as root; if root starts it, it runs as `postgres`. It does not sync to disk: its data lives as
long as the tests.

Usable from pytest (`postgres_url`, a fixture) and from any script:

    with private_postgres() as server:
        url = server.create_database()
"""

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

START_TIMEOUT_S = 150.0
USER = "stocktake"
_SYSTEM_USER = "postgres"
_POLL_S = 0.02
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "listen_addresses": "127.0.0.1",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "log_timezone": "UTC",
    # Another zone than UTC shows whether anybody relies on the server's.
    "timezone": "Asia/Kolkata",
}


@dataclass(slots=True)
class PrivatePostgres:
    """One server in a directory of its own; databases come and go, it can be stopped and started again."""

    directory: Path
    port: int
    process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def url(self, database: str) -> str:
        """Give a database's URL, over the loopback interface."""
        return f"postgresql://{USER}@127.0.0.1:{self.port}/{database}"

    def create_database(self, template: str = "template0") -> str:
        """Make a database, a copy of `template` that nobody is connected to, and give its URL."""
        name = f"books{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return self.url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database, whoever is connected."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {url.rpartition('/')[2]} WITH (FORCE)".encode())

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        options = [part for name, value in _SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [program_of("postgres"), "-D", str(self.directory / "data"), "-p", str(self.port)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-k", str(self.directory), *options], stdout=log, stderr=log, cwd="/", user=_system_user()
            )
        limit = time.monotonic() + START_TIMEOUT_S
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
                return
            if self.process.poll() is not None and "is still in use" in (self.directory / "log").read_text()[-500:]:
                # Sessions of one that was killed have not ended yet.
                self.start()
                return
            if self.process.poll() is not None or time.monotonic() > limit:
                log_text = (self.directory / "log").read_text(errors="replace")
                self.stop()
                pytest.fail(f"PostgreSQL did not start:\n{log_text[-2000:]}")
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """End the server at once, as a fast shutdown: sessions are cut, data stays."""
        if self.process is not None:
            # SIGINT is PostgreSQL's fast shutdown.
            self.process.send_signal(2)
            try:
                self.process.wait(START_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def kill(self) -> None:
        """Kill (-9) the postmaster; its sessions end when they notice."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None


@contextlib.contextmanager
def private_postgres() -> Iterator[PrivatePostgres]:
    """Start a server in a new temporary directory; stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="stocktake-pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, _SYSTEM_USER, _SYSTEM_USER)
        command = [program_of("initdb"), "-D", str(directory / "data"), "-U", USER, "-A", "trust"]
        kind = ["-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run([*command, *kind], check=True, capture_output=True, cwd="/", user=_system_user())
        server = PrivatePostgres(directory, _free_port())
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def program_of(name: str) -> str:
    """Find one of PostgreSQL's programs, the newest there is."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        told = subprocess.run(["pg_config", "--bindir"], check=True, capture_output=True, text=True)
        found = Path(told.stdout.strip()) / name
        if found.exists():
            return str(found)
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    if not versions:
        pytest.fail(f"no {name}: install PostgreSQL (`make test` does)")
    return str(versions[-1])


def _system_user() -> str | None:
    return _SYSTEM_USER if os.geteuid() == 0 else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def postgres() -> Iterator[PrivatePostgres]:
    """One private server for all tests of a pytest process (with xdist: one per worker)."""
    with private_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PrivatePostgres) -> Iterator[str]:
    """A database of its own, empty."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)
