"""
A private RabbitMQ: own data, own cookie, own name server, loopback only, and nothing of the machine's is touched.

Erlang's name server, epmd, would otherwise be started on its well-known port and stay: this one runs in the foreground
on a port of its own and ends with the node. `queue` listens as a consumer of Nova's notifications does, through kombu
alone; tests take topics of their own.

Usable from pytest (`rabbitmq`, a fixture) and from any script:

    with private_rabbitmq() as server, server.queue("notifications.info") as queue:
        print(server.url, queue.get())
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kombu
import pytest

START_TIMEOUT_S = 150.0
USER, PASSWORD = "stocktake", "p@ss:word"
_ESCAPED = "p%40ss%3Aword"
_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"
_POLL_S = 0.05


@dataclass(slots=True)
class PrivateRabbit:
    """One node in a directory of its own; `url` stays the same when it is stopped and started again."""

    directory: Path
    port: int
    processes: "list[subprocess.Popen[bytes]]" = field(default_factory=list, repr=False)

    @property
    def url(self) -> str:
        """As an operator writes it for `notifications.transport_url`; the password has to be escaped."""
        return f"rabbit://{USER}:{_ESCAPED}@127.0.0.1:{self.port}/"

    def start(self) -> None:
        """Start name server and node, and wait until a client can sign in."""
        environ = self._environ()
        self._spawn(["epmd", "-port", environ["ERL_EPMD_PORT"], "-address", "127.0.0.1"], environ)
        self._spawn([_SERVER], environ)
        limit_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self.processes[-1].poll() is not None or time.monotonic() > limit_s:
                self.stop()
                pytest.fail(f"RabbitMQ did not start:\n{(self.directory / 'log').read_text(errors='replace')[-3000:]}")
            time.sleep(_POLL_S)

    def stop(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """End node and name server, by their ids; what is in durable queues stays."""
        while self.processes:
            process = self.processes.pop()
            process.send_signal(sign)
            process.wait(timeout=150)

    def freeze(self) -> None:
        """Let the node answer nothing, its connections left open."""
        self.processes[-1].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.processes[-1].send_signal(signal.SIGCONT)

    @contextlib.contextmanager
    def queue(self, topic: str, *, exchange: str = "nova") -> "Iterator[Listener]":
        """Listen on a topic; its queue goes at the end. Messages that came before are kept, if anybody made it."""
        with kombu.Connection(self._amqp_url, connect_timeout=5) as connection:
            listener = Listener(connection, exchange, topic)
            yield listener
            listener.close()

    @property
    def _amqp_url(self) -> str:
        return f"amqp://{USER}:{_ESCAPED}@127.0.0.1:{self.port}//"

    def _answers(self) -> bool:
        with contextlib.suppress(OSError, kombu.exceptions.OperationalError):
            kombu.Connection(self._amqp_url, connect_timeout=2).ensure_connection(max_retries=1).release()
            return True
        return False

    def _spawn(self, command: list[str], environ: dict[str, str]) -> None:
        # Should the tests be killed, the kernel ends these too.
        guard = ["setpriv", "--pdeathsig", "KILL"]
        with (self.directory / "log").open("ab") as log:
            process = subprocess.Popen(
                [*guard, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", env=environ
            )
        self.processes.append(process)

    def _environ(self) -> dict[str, str]:
        """Point everything into the directory, and write the settings there."""
        settings = {
            "listeners.tcp.1": f"127.0.0.1:{self.port}",
            "default_user": USER,
            "default_pass": PASSWORD,
            "disk_free_limit.absolute": "1MB",
            "log.console": "true",
            "log.console.level": "warning",
        }
        text = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (self.directory / "rabbitmq.conf").write_text(text)
        (self.directory / "enabled_plugins").write_text("[].\n")
        return {
            "PATH": os.environ["PATH"],
            # The cookie is made in the home directory.
            "HOME": str(self.directory),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(_free_port()),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_CRASH_DUMP_SECONDS": "0",
            "RABBITMQ_NODENAME": f"stocktake-{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(_free_port()),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 1:1 +A 4",
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "none"),
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(self.directory / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            # The node takes the script's place, so that its id is the one to signal.
            "RUNNING_UNDER_SYSTEMD": "true",
        }


class Listener:
    """A queue bound to one topic, and what came in."""

    def __init__(self, connection: kombu.Connection, exchange: str, topic: str) -> None:
        where = kombu.Exchange(exchange, type="topic", durable=False, auto_delete=False)
        queue = kombu.Queue(topic, where, routing_key=topic, durable=False, auto_delete=False)
        self._connection = connection
        self._queue = queue(connection.channel())
        self._queue.declare()
        self.envelopes: list[dict[str, Any]] = []

    def get(self, *, timeout_s: float = 20.0) -> dict[str, Any]:
        """Wait for the next message, and open its envelope."""
        limit_s = time.monotonic() + timeout_s
        while True:
            message = self._queue.get(no_ack=True)
            if message is not None:
                envelope: dict[str, Any] = json.loads(message.body)
                self.envelopes.append(envelope)
                opened: dict[str, Any] = json.loads(envelope["oslo.message"])
                return opened
            assert time.monotonic() < limit_s, f"no message within {timeout_s} s"
            time.sleep(_POLL_S)

    def rest(self) -> list[dict[str, Any]]:
        """Take what is there now."""
        taken: list[dict[str, Any]] = []
        while (message := self._queue.get(no_ack=True)) is not None:
            taken.append(json.loads(json.loads(message.body)["oslo.message"]))
        return taken

    def close(self) -> None:
        """Delete the queue, if its server still answers."""
        with contextlib.suppress(*self._connection.connection_errors, *self._connection.channel_errors):
            self._queue.delete()


@contextlib.contextmanager
def private_rabbitmq() -> Iterator[PrivateRabbit]:
    """Start a node in a new temporary directory; stopped and removed at the end."""
    directory = Path(tempfile.mkdtemp(prefix="stocktake-rabbit-"))
    server = PrivateRabbit(directory, _free_port())
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture(scope="session")
def rabbitmq() -> Iterator[PrivateRabbit]:
    """One private server for all tests of a pytest process (with xdist: one per worker)."""
    with private_rabbitmq() as server:
        yield server
