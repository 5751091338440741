"""
A proxy before PostgreSQL that hangs up at the COMMIT of an instance or a move, before it gets there or before its
answer does.

    with cut_at_commit(url) as proxy:
        proxy.cut("answer")
"""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Literal

from sqlalchemy import make_url

Moment = Literal["request", "answer"]
# A simple query as the protocol has it: its length, its text, a zero.
_COMMIT = b"Q\x00\x00\x00\x0bCOMMIT\x00"


class Cutting:
    """The proxy while it runs; `url` is the database's through it."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self._target = (parsed.host or "127.0.0.1", parsed.port or 5432)
        self._listening = socket.create_server(("127.0.0.1", 0))
        through = parsed.set(host="127.0.0.1", port=self._listening.getsockname()[1])
        self.url = through.render_as_string(hide_password=False)
        self._moment: Moment | None = None
        self.done = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def cut(self, moment: Moment) -> None:
        """Hang up once, at the next COMMIT."""
        self._moment = moment

    def run(self) -> None:
        """Serve until closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._target)
                self._sockets += [client, server]
                for one, other, asks in ((client, server, True), (server, client, False)):
                    thread = threading.Thread(target=self._pass, args=[one, other, asks], daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def close(self) -> None:
        """Take no more connections."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._sockets:
            one.close()

    def _pass(self, one: socket.socket, other: socket.socket, asks: bool) -> None:  # noqa: FBT001 - a thread's
        with contextlib.suppress(OSError):
            wrote = False
            while part := one.recv(65536):
                # Settling a new connection is a COMMIT too.
                wrote = wrote or b"INSERT INTO instances" in part or b"INSERT INTO migrations" in part
                if asks and wrote and part.endswith(_COMMIT) and self._moment is not None:
                    moment, self._moment = self._moment, None
                    self.done += 1
                    # The client first: no answer reaches it.
                    one.shutdown(socket.SHUT_RDWR)
                    if moment == "answer":
                        other.sendall(part)
                    break
                other.sendall(part)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def cut_at_commit(url: str) -> Iterator[Cutting]:
    """Run a proxy before a database."""
    proxy = Cutting(url)
    thread = threading.Thread(target=proxy.run, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.close()
        thread.join()
