"""
A server that answers every request in a bad way, over a real socket.

    with dripping("body") as peer:
        print(peer.url, peer.asked, peer.sent)
"""

import contextlib
import gzip
import socket
import threading
from collections.abc import Iterator
from itertools import repeat

# Between two bytes: no wait for one byte is ever long, and the whole never ends.
DRIP_S = 0.05
_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_MUCH = b" " * 65536
# 256 MiB of blanks, packed into 256 KiB.
_BOMB = gzip.compress(b" " * 256 * 1024 * 1024, 9)


def _answer(how: str) -> tuple[bytes, Iterator[bytes] | None]:
    """Give what is sent at once, and what is then sent without end."""
    drips: dict[str, tuple[bytes, bytes]] = {
        "head": (b"HTTP/1.1 200 OK\r\nX-Slow: ", b"x"),
        "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        "body": (_OK + b"Content-Length: 100000\r\n\r\n", b" "),
        "chunks": (_OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
        "nothing": (b"", b""),
        "event": (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ", b"x"),
    }
    at_once = {
        "bomb": _OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(_BOMB) + _BOMB,
        "cut": _OK + b'Content-Length: 1000\r\n\r\n{"versions": [',
        "cut packed": _OK + b"Content-Encoding: gzip\r\nContent-Length: 100\r\n\r\n" + _BOMB[:100],
        "packed otherwise": _OK + b"Content-Encoding: br\r\nContent-Length: 1\r\n\r\n ",
        "no gzip": _OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
        "endless": _OK + b"\r\n",
        "endless line": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: ",
    }
    if how.startswith(("http:", "https:", "/")):
        return b"HTTP/1.1 307 Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % how.encode(), None
    if how.startswith("endless"):
        return at_once[how], repeat(_MUCH)
    if how in at_once:
        return at_once[how], None
    first, then = drips[how]
    return first, repeat(then)


class Peer:
    """The server while it runs; `sent` counts bytes, `asked` has the heads of the requests."""

    def __init__(self, how: str) -> None:
        self._how = how
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.asked: list[str] = []
        self.sent = 0
        # Set once somebody waits for an answer.
        self.waiting = threading.Event()

    def run(self) -> None:
        """Serve until closed."""
        while not self._over.is_set():
            try:
                one, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[one], daemon=True).start()

    def close(self) -> None:
        """Hang up."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _serve(self, one: socket.socket) -> None:
        with one, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head and (part := one.recv(65536)):
                head += part
            self.asked.append(head.decode(errors="replace"))
            first, then = _answer(self._how)
            one.sendall(first)
            self.sent += len(first)
            self.waiting.set()
            for part in then or ():
                if part != _MUCH and self._over.wait(DRIP_S):
                    return
                one.sendall(part)
                self.sent += len(part)


@contextlib.contextmanager
def dripping(how: str) -> Iterator[Peer]:
    """Run one, which answers so; a URL or a path is where it redirects to."""
    peer = Peer(how)
    thread = threading.Thread(target=peer.run, daemon=True)
    thread.start()
    try:
        yield peer
    finally:
        peer.close()
        thread.join()
