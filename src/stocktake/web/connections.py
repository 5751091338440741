"""
A connection, from when it is accepted to its end. Invariant: whoever is refused hears so in HTTP, and a head ends, in
time and in size.

uvicorn limits neither heads nor connections, and a socket that is closed with something unread takes the answer with
it (RFC 9112, 9.6): what is still coming is thrown away for a moment before. Bodies are limited where they are read.
"""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, ClassVar, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from stocktake.web.calls import encoded
from stocktake.web.limits import Gate, LogLimit
from stocktake.web.status import MEDIA, NotServed, answer_of, headers_of, problem_of

LOG = logging.getLogger(__name__)
HEAD_BYTES_MAX: Final = 64 * 1024
HEALTH_PATH: Final = "/healthz"
# How long somebody who was refused has to read why.
LEAVING_S: Final = 2.0
# How long a connection for the health has for its one request.
_HEALTH_S: Final = 5.0
# asyncio tries again after so long.
_ACCEPT_AGAIN_S: Final = 1.0
_NO_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Accepted(socket.socket):
    """A connection that counts at the gate until it is closed."""

    gate: Gate
    key: object

    def close(self) -> None:
        """Give the descriptor back."""
        super().close()
        self.gate.leave(self.key)


class ListeningSocket(socket.socket):
    """
    A socket that accepts no more than may be connected. For one event loop.

    Attributes:
        secure: connections begin with TLS, so that nothing can be said before.
    """

    gate: Gate
    secure = False
    _refused_log: LogLimit | None = None
    _next_try_s = 0.0

    def accept(self) -> tuple[socket.socket, Any]:
        """
        Accept a connection.

        Raises:
            BlockingIOError: there is none that there is room for.
            OSError: no descriptor is left; asyncio waits a while then, after it has asked 1,000 times more.
        """
        loop = asyncio.get_running_loop()
        while True:
            if loop.time() < self._next_try_s:
                raise BlockingIOError
            try:
                made, peer = super().accept()
            except OSError as error:
                if error.errno in _NO_DESCRIPTORS:
                    self._next_try_s = loop.time() + _ACCEPT_AGAIN_S / 2
                raise
            accepted = Accepted(made.family, made.type, made.proto, fileno=made.detach())
            accepted.gate, accepted.key = self.gate, (accepted.getsockname(), peer)
            address = str(peer[0])
            terms = self.gate.admit(accepted.key, address)
            if terms in {None, "refused"} and self._log().allows(address):
                LOG.warning("a connection is refused: too many are open", extra={"address": address})
            if terms is not None:
                if terms != "served":
                    # Also in the midst of TLS's greeting.
                    limit_s = _HEALTH_S if terms == "health" else LEAVING_S
                    loop.call_later(limit_s + LEAVING_S, _end, accepted)
                return accepted, peer
            _refuse(accepted, secure=self.secure)

    def close(self) -> None:
        """Listen no more, and say what was left out of the log."""
        if self._refused_log is not None:
            self._refused_log.end()
        super().close()

    def _log(self) -> LogLimit:
        if self._refused_log is None:
            self._refused_log = LogLimit(_say_refused, lines_max=4)
        return self._refused_log


def _say_refused(total: int, addresses: int) -> None:
    what = "%d more connections of %d addresses were refused within a minute: too many are open"
    LOG.warning(what, total, addresses)


def _refuse(accepted: Accepted, *, secure: bool) -> None:
    """Say that there are too many, as far as that can be said without waiting, and close."""
    try:
        accepted.setblocking(False)
        if not secure:
            accepted.send(_answer(_too_many()))
    except OSError:
        pass
    finally:
        accepted.close()


def _end(accepted: Accepted) -> None:
    """End a connection; whoever has it sees it end."""
    try:
        if accepted.fileno() >= 0:
            accepted.shutdown(socket.SHUT_RDWR)
    except OSError:
        # The peer was faster.
        pass


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Write what asyncio reports on one line if it is that no descriptor was left; anything else as usual."""
    error = context.get("exception")
    if isinstance(error, OSError) and error.errno in _NO_DESCRIPTORS:
        LOG.error(
            "connections wait: %s", error.strerror, extra={"remedy": "Raise LimitNOFILE or server.connections_max."}
        )
        return
    loop.default_exception_handler(context)


class _Lingering:
    """A transport whose `close` lets the peer read the answer first if something of its is unread."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], bool]) -> None:
        self._transport = transport
        self._close = close
        self.leaving = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Nothing is to be written any more."""
        return self.leaving or self._transport.is_closing()

    def write(self, data: bytes) -> None:
        """Write, unless the last word was said."""
        if not self.leaving:
            self._transport.write(data)

    def close(self) -> None:
        """Close now, or in a moment."""
        if self.leaving:
            return
        if self._transport.is_closing() or not self._close():
            self._transport.close()
            return
        self.leaving = True
        # The other side may have gone meanwhile.
        with suppress(OSError):
            if self._transport.can_write_eof():
                self._transport.write_eof()
        # uvicorn stops reading while nobody takes the body.
        self._transport.resume_reading()


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol, for heads that end and answers that arrive."""

    # Set by the server before it listens: how long a head may take.
    head_s: ClassVar[float] = 30.0
    gate: ClassVar[Gate | None] = None

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._due: asyncio.TimerHandle | None = None
        self._in_head = False
        self._for_health = False
        self._refused = False
        # Something was sent that is no whole request yet.
        self._unread = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for a first head, but not for ever."""
        super().connection_made(_Lingering(transport, self._linger))  # type: ignore[arg-type]  # what uvicorn calls
        key = (transport.get_extra_info("sockname"), transport.get_extra_info("peername"))
        terms = self.gate.terms(key) if self.gate is not None else "served"
        if terms == "refused":
            # Its request is on the way.
            self._unread = True
            self._refuse(_too_many())
            return
        self._for_health = terms == "health"
        if self._for_health:
            self.app = _only_health(self.app)
        self._await_head(min(_HEALTH_S, self.head_s) if self._for_health else self.head_s)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless what is read has been a head for too long."""
        rest = memoryview(data)
        while rest and not self._refused and not self.transport.is_closing():
            room = HEAD_BYTES_MAX - self._head_bytes if self._in_head else HEAD_BYTES_MAX
            part, rest = bytes(rest[:room]), rest[room:]
            self._unread = True
            if self._in_head:
                self._head_bytes += len(part)
            super().data_received(part)
            if self._in_head and self._head_bytes >= HEAD_BYTES_MAX:
                what = f"a head of more than {HEAD_BYTES_MAX:,} bytes"
                self._refuse(NotServed(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, what))

    def send_400_response(self, msg: str) -> None:
        """Say that it was no HTTP."""
        self._refuse(NotServed(HTTPStatus.BAD_REQUEST, msg.rstrip(".").lower()))

    def on_message_begin(self) -> None:
        """Wait for the end of a head that has begun."""
        super().on_message_begin()
        self._unread = True
        if not self._in_head:
            self._await_head(self.head_s)

    def on_headers_complete(self) -> None:
        """Wait no more: the request is the application's now."""
        self._stop_waiting()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it was read."""
        self._unread = False
        super().on_message_complete()

    def _await_head(self, limit_s: float) -> None:
        self._stop_waiting()
        self._head_bytes = 0
        self._in_head = True
        self._due = self.loop.call_later(limit_s, self._give_up)

    def _stop_waiting(self) -> None:
        self._in_head = False
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _give_up(self) -> None:
        self._stop_waiting()
        if self._for_health and not self.transport.is_closing():
            self._refuse(_too_many())
        else:
            self.transport.abort()

    def _refuse(self, refused: NotServed) -> None:
        """Answer in place of the application, once it has answered what came before, and close."""
        self._refused = True
        self._stop_waiting()
        cycle = self.cycle
        if cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started):
            self.transport.write(_answer(refused))
        elif not cycle.more_body:
            # Its answer is the last, and says so.
            cycle.keep_alive = False
            return
        self.transport.close()

    def _linger(self) -> bool:
        if self._unread:
            self._stop_waiting()
            self._due = self.loop.call_later(LEAVING_S, self._give_up)
        return self._unread


def _too_many() -> NotServed:
    return NotServed(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections are open", remedy="Try again later.")


def _answer(refused: NotServed) -> bytes:
    """Write a refusal as a whole answer."""
    body = encoded(problem_of(refused, int(refused.status)))
    headers: Mapping[str, str] = {
        "content-type": MEDIA,
        "content-length": str(len(body)),
        "connection": "close",
        **headers_of(int(refused.status)),
    }
    lines = [f"HTTP/1.1 {int(refused.status)} {refused.status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def _only_health(app: Any) -> ASGIApp:
    """Make an application of one that answers one request, and that only if it is for the health."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        if scope["path"] == HEALTH_PATH:
            await app(scope, receive, closing)
            return
        refused = _too_many()
        await answer_of(problem_of(refused, int(refused.status)))(scope, receive, closing)

    return answer
