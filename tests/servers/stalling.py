"""
What stands before a server of any kind and passes bytes on, until it is told to stall or to reset connections.

    with stalling(port) as proxy:
        proxy.stall(after=100)
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator


class Stalling:
    """The proxy while it runs; clients connect to `port`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._left: int | None = None
        self._resets = False
        self.met = threading.Event()
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def stall(self, *, after: int) -> None:
        """Pass so many more bytes of answers on, and then none."""
        self._resets, self._left = False, after
        self.met.clear()

    def reset(self, *, after: int) -> None:
        """Pass so many more bytes of answers on, and then reset the connection, once."""
        self._resets, self._left = True, after
        self.met.clear()

    def behave(self) -> None:
        """Pass everything on from now; what was held back is lost."""
        self._left = None

    def close(self) -> None:
        """End it."""
        self._over.set()
        self._listener.close()
        for one in self._open:
            one.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._open += [client, server]
            threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
        with contextlib.suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if self._left is None:
                    client.sendall(data)
                    continue
                client.sendall(data[: self._left])
                self._left -= min(self._left, len(data))
                if self._left:
                    continue
                self.met.set()
                if self._resets:
                    self._left = None
                    # Closing without lingering sends a reset.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    client.shutdown(socket.SHUT_RD)
                    client.close()
                    return
        with contextlib.suppress(OSError):
            client.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def stalling(target: int) -> Iterator[Stalling]:
    """Run a proxy before a port of this machine."""
    proxy = Stalling(target)
    try:
        yield proxy
    finally:
        proxy.close()
