"""
The HTTP server for scrapes and health checks. Invariant: whoever asks, and however, the agent's loop never waits for
it.

Python's own server in threads of its own, narrowed: GET and HEAD of the pages there are, a few connections at a time,
each with a limit of size and of time, closed after one answer. Without a password or encryption: it is for loopback, or
for a network that may see the figures.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from typing import Any

from stocktake.clock import Clock

LOG = logging.getLogger(__name__)

CONNECTIONS_MAX = 8
# From the first byte of a request to the last of its answer.
CONNECTION_S_MAX = 30.0
REQUEST_BYTES_MAX = 16 * 1024
# Prometheus' text format, which every version of it reads.
SCRAPE_KIND = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """One answer; its body in pieces."""

    kind: str
    body: Sequence[bytes]
    status: HTTPStatus = HTTPStatus.OK


Pages = Mapping[str, Callable[[], HttpAnswer]]


class Server:
    """
    A server that runs from when it is made until it is closed.

    Args:
        host, port: where to listen; port 0 takes a free one.
        pages: by path; called in a thread of the connection.
        look_s: how often it looks for connections that are late, and whether it is to end.

    Raises:
        OSError: it can't listen there: the port is in use, or the address is not this machine's.
    """

    def __init__(self, host: str, port: int, pages: Pages, clock: Clock, *, look_s: float = 0.5) -> None:
        family, _kind, _protocol, _name, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        self._server = _Narrow(family, address, pages, clock)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(look_s,), name="metrics", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Where it listens, such as `127.0.0.1:9809`."""
        host, port = self._server.server_address[:2]
        return f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"

    def close(self) -> None:
        """Stop listening; answers under way are not waited for."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Narrow(ThreadingHTTPServer):
    """Counts its connections, and ends those that take too long."""

    # An answer that nobody fetches must not keep the program from ending.
    daemon_threads = True
    request_queue_size = CONNECTIONS_MAX

    def __init__(self, family: socket.AddressFamily, address: Any, pages: Pages, clock: Clock) -> None:
        self.address_family = family
        self.pages = pages
        self._clock = clock
        self._until_s: dict[Any, float] = {}
        super().__init__(address, _Answers)

    def server_bind(self) -> None:
        """Bind without asking a name server who we are."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take a connection, unless there are enough."""
        del client_address
        if len(self._until_s) >= CONNECTIONS_MAX:
            return False
        self._until_s[request] = self._clock.monotonic_s() + CONNECTION_S_MAX
        return True

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection and close it."""
        self._until_s.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End the connections that are late, whether they don't ask or don't listen."""
        now_s = self._clock.monotonic_s()
        for request, until_s in list(self._until_s.items()):
            if until_s <= now_s:
                _end(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say of a connection that broke what only somebody who wants everything wants to know."""
        del request
        LOG.debug("a connection from %s broke", client_address, exc_info=True)  # noqa: LOG014 - called in one


class _Answers(BaseHTTPRequestHandler):
    """Answers one request."""

    server: _Narrow
    server_version = "stocktake"
    sys_version = ""

    def setup(self) -> None:
        """Take the connection's files, the one to read from with a limit."""
        super().setup()
        self.rfile = _Limited(self.rfile, REQUEST_BYTES_MAX)  # type: ignore[assignment]

    def do_GET(self) -> None:
        """Answer with a page."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the head of a page."""
        self._answer(with_body=False)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        """Say who asked for what, for somebody who wants everything."""
        LOG.debug("%s asked: %s", self.address_string(), format % args)

    def _answer(self, *, with_body: bool) -> None:
        path = self.path.partition("?")[0]
        page = self._page(path)
        self.send_response(page.status)
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(sum(map(len, page.body))))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if with_body:
            for piece in page.body:
                self.wfile.write(piece)

    def _page(self, path: str) -> HttpAnswer:
        make = self.server.pages.get(path)
        if make is None:
            known = ", ".join(sorted(self.server.pages))
            return HttpAnswer("text/plain; charset=utf-8", [f"There is {known}.\n".encode()], HTTPStatus.NOT_FOUND)
        return make()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse in one line of text, and say for a wrong method which are right."""
        del explain
        status = HTTPStatus.METHOD_NOT_ALLOWED if code == HTTPStatus.NOT_IMPLEMENTED else HTTPStatus(code)
        body = f"{message or status.phrase}\n".encode()
        self.send_response(status)
        self.send_header("Allow", "GET, HEAD")
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


class _Limited:
    """A connection's input; a request of more bytes than `left` is refused, not read."""

    def __init__(self, file: BufferedIOBase, left: int) -> None:
        self._file = file
        self._left = left

    def readline(self, size: int = -1) -> bytes:
        """Read a line."""
        line = self._file.readline(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            raise HTTPException(f"a request has at most {REQUEST_BYTES_MAX} bytes")
        return line

    def close(self) -> None:
        """Close it."""
        self._file.close()

    @property
    def closed(self) -> bool:
        """Say whether it is closed."""
        return self._file.closed


def _end(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        # It ended by itself meanwhile.
        return


def pages_of(scrape: Callable[[], Iterable[bytes]], healthz: Callable[[], HttpAnswer]) -> Pages:
    """Put the pages together; one scrape is written at a time, as each takes memory."""
    writing = threading.Lock()

    def metrics() -> HttpAnswer:
        with writing:
            return HttpAnswer(SCRAPE_KIND, list(scrape()))

    return {"/metrics": metrics, "/healthz": healthz}
