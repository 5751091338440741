"""
A small HTTP proxy that stands between a client and a server, and misbehaves on demand.

    with between(server.url) as proxy:
        proxy.misbehave("/v1/nodes", answer=500)
        proxy.behave()

Faults are looked through in the order in which they were asked for; the first that matches a request counts.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

TIMEOUT_S = 150.0
_HOP_BY_HOP = {"connection", "content-length", "transfer-encoding", "content-encoding", "keep-alive"}


@dataclass(slots=True)
class Fault:
    """
    What happens to requests whose path and query contain `path`.

    Attributes:
        answer: the status to answer with instead of the server, and `body` what is said then.
        headers: sent with that answer.
        delay_s: how long the answer is held back; the proxy's end does not wait for it.
        cut: promise the whole answer, send half of it and hang up.
        change: what becomes of the server's answer.
        skip, times: let so many pass first, then misbehave so often; None for ever.
    """

    path: str
    answer: int = 0
    body: bytes = b'{"error_message": "told to"}'
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    cut: bool = False
    change: Callable[[bytes], bytes] | None = None
    skip: int = 0
    times: int | None = None


class Between:
    """The proxy while it runs; `url` is what to ask instead of the server."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.url = ""
        self.paths: list[str] = []
        self.over = threading.Event()
        self._faults: list[Fault] = []
        self._mutex = threading.Lock()

    def misbehave(self, path: str, **how: Any) -> None:
        """Add a fault."""
        with self._mutex:
            self._faults.append(Fault(path=path, **how))

    def behave(self) -> None:
        """Forget all faults; who is held back goes on."""
        with self._mutex:
            self._faults.clear()
            over, self.over = self.over, threading.Event()
        over.set()

    def fault(self, path: str) -> Fault | None:
        """Note a request, and give the fault that it meets."""
        with self._mutex:
            self.paths.append(path)
            for one in self._faults:
                if one.path not in path:
                    continue
                if one.skip > 0:
                    one.skip -= 1
                    continue
                if one.times is None:
                    return one
                if one.times > 0:
                    one.times -= 1
                    return one
        return None


def _passing(proxy: Between) -> type[BaseHTTPRequestHandler]:
    class Passing(BaseHTTPRequestHandler):
        """Passes requests on."""

        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            """Pass a request on, with its body."""
            sent = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            fault = proxy.fault(self.path) or Fault(path="")
            if fault.delay_s:
                proxy.over.wait(fault.delay_s)
            if fault.answer:
                self._send(fault.answer, {"Content-Type": "application/json", **fault.headers}, fault.body)
                return
            mine = {"host", "connection", "content-length"}
            asked = {name: value for name, value in self.headers.items() if name.lower() not in mine}
            try:
                answer = requests.request(
                    self.command, proxy.target + self.path, data=sent, headers=asked, timeout=TIMEOUT_S
                )
            except requests.RequestException:
                # As a load balancer whose server is away.
                self._send(503, {"Content-Type": "text/plain"}, b"no server")
                return
            body = fault.change(answer.content) if fault.change else answer.content
            told = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            self._send(answer.status_code, told, body, cut=fault.cut)

        do_POST = do_GET  # noqa: N815 - the base class names it so

        def _send(self, status: int, headers: Mapping[str, str], body: bytes, *, cut: bool = False) -> None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.close_connection = True

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Passing


@contextlib.contextmanager
def between(target: str) -> Iterator[Between]:
    """Run a proxy before a server, on a free loopback port."""
    proxy = Between(target)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _passing(proxy))
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread.start()
    try:
        yield proxy
    finally:
        proxy.behave()
        server.shutdown()
        server.server_close()
        thread.join()
