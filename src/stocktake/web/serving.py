"""
The server's process: its socket, its TLS, its signals, its connections. Invariant: no other network reaches it unless
the settings say so.

SIGTERM and SIGINT end it once the requests in progress are answered, SIGHUP reads the certificate again. A request's
head ends, in time and in size, or its connection does: uvicorn limits neither (bodies are limited where they are read).
"""

import asyncio
import contextlib
import ipaddress
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from stocktake.errors import SettingsError, Unreachable
from stocktake.settings import ServerSection, parse_listen
from stocktake.web.app import make_app
from stocktake.web.context import Web

LOG = logging.getLogger(__name__)
# How often the certificate's file is looked at.
LOOK_S = 10.0
HEAD_BYTES_MAX = 64 * 1024
_BACKLOG = 1024
_IDLE_S = 30
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def is_loopback(settings: ServerSection) -> bool:
    """Say whether only this machine can reach the address that is listened on."""
    host, _port = _address(settings)
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(settings: ServerSection) -> None:
    """
    See to it that tokens don't cross a network in the clear unless somebody said that they may.

    Raises:
        SettingsError: they would.
    """
    if not (is_loopback(settings) or settings.tls_cert or settings.allow_insecure):
        remedy = "Set server.tls_cert, or listen on 127.0.0.1 behind a proxy; server.allow_insecure=true if it must be."
        raise SettingsError(f"{settings.listen} is not loopback, and there is no TLS", where="server", remedy=remedy)


class Certificate:
    """The certificate in use; read anew it serves new connections, and old ones go on."""

    def __init__(self, cert: Path, key: Path | None) -> None:
        self._cert, self._key = cert, key
        self._seen = self._times()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_alpn_protocols(["http/1.1"])
        self.read()

    def read(self) -> None:
        """
        Read the files.

        Raises:
            SettingsError: they can't be read, or don't belong together.
        """
        # Tried on a context of its own first: a key that does not belong would spoil the one in use.
        for context in (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), self.context):
            try:
                context.load_cert_chain(self._cert, self._key)
            except (OSError, ssl.SSLError) as error:
                where = ", ".join(map(str, self._files()))
                raise SettingsError(f"can't be used: {error}", where=where, remedy="Give a PEM file.") from error

    def look(self, *, told: bool = False) -> None:
        """Read the files again if they changed or somebody said so; what can't be read leaves the old in use."""
        now = self._times()
        if now == self._seen and not told:
            return
        self._seen = now
        try:
            self.read()
        except SettingsError as error:
            LOG.error("the old certificate stays in use: %s", error)  # noqa: TRY400  # what is wrong is in the error
        else:
            LOG.info("the certificate was read again")

    def _times(self) -> list[float]:
        return [path.stat().st_mtime if path.exists() else 0.0 for path in self._files()]

    def _files(self) -> list[Path]:
        return [self._cert, *([self._key] if self._key else [])]


class HttpConnection(HttpToolsProtocol):
    """uvicorn's protocol, for heads that end."""

    # Set by the server before it listens: how long a head may take.
    head_s = 30.0

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Wait for a first head, but not for ever."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless what is read has been a head for too long."""
        if self._head_due is not None:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES_MAX:
                self._give_up()
                return
        super().data_received(data)

    def on_message_begin(self) -> None:
        """Wait for the end of a head that has begun."""
        super().on_message_begin()
        if self._head_due is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Wait no more: the request is the application's now."""
        self._stop_waiting()
        super().on_headers_complete()

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_due = self.loop.call_later(self.head_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _give_up(self) -> None:
        self._stop_waiting()
        self.transport.abort()


class _Quiet(uvicorn.Server):
    """uvicorn's server, which leaves the signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Catch nothing: ending by a signal is ending well here, with exit code 0."""
        yield


def serve(web: Web, ready: Callable[[str], None]) -> None:
    """
    Serve until told to end.

    Args:
        ready: told the URL once it listens.

    Raises:
        SettingsError: the address or the certificate can't be used.
        Unreachable: the address is in use.
    """
    settings = web.settings.server
    check_exposure(settings)
    certificate = Certificate(settings.tls_cert, settings.tls_key) if settings.tls_cert else None
    app: Any = make_app(web)
    config = uvicorn.Config(
        app,
        lifespan="on",
        http=type("HttpConnection", (HttpConnection,), {"head_s": settings.request_timeout_s}),
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_s)),
        forwarded_allow_ips="127.0.0.1,::1",
        **({"ssl_context_factory": lambda *_: certificate.context} if certificate else {}),  # type: ignore[arg-type]
    )
    listener = listen(settings)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    with contextlib.closing(listener):
        server = _Quiet(config)
        url = f"{'https' if certificate else 'http'}://{shown}:{port}"
        asyncio.run(_served(server, listener, certificate, app.state.stopping, lambda: ready(url)))


def _address(settings: ServerSection) -> tuple[str, int]:
    where = parse_listen(settings.listen)
    assert where is not None, "the settings refuse an empty one"
    return where


def listen(settings: ServerSection) -> socket.socket:
    """
    Open the socket.

    Raises:
        SettingsError: there is no such address here.
        Unreachable: it is in use.
    """
    host, port = _address(settings)
    try:
        family, kind, proto, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol named: asyncio turns Nagle's delay off for TCP only, and every answer would take 40 ms.
        listener = socket.socket(family, kind, proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except socket.gaierror as error:
        raise SettingsError(f"no such address: {error.strerror}", where="server.listen") from error
    except OSError as error:
        remedy = "Is another stocktake serving? Give another port: --set server.listen=127.0.0.1:8791."
        raise Unreachable(f"can't listen: {error.strerror}", where=settings.listen, remedy=remedy) from error
    return listener


async def _served(
    server: uvicorn.Server,
    listener: socket.socket,
    certificate: Certificate | None,
    stopping: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        server.should_exit = True

    def on_signal(number: int, _frame: FrameType | None) -> None:
        # Not the loop's own way: that gives the signals back when the loop ends, and a second SIGTERM would kill then.
        if not loop.is_closed():
            loop.call_soon_threadsafe(stop if number in _SIGNALS else look)

    def look() -> None:
        if certificate is not None:
            certificate.look(told=True)

    for number in (*_SIGNALS, signal.SIGHUP):
        signal.signal(number, on_signal)
    watching = asyncio.create_task(_watch(certificate)) if certificate else None
    telling = asyncio.create_task(_tell(server, ready))
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in (watching, telling):
            if task is not None:
                task.cancel()


async def _tell(server: uvicorn.Server, ready: Callable[[], None]) -> None:
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    ready()


async def _watch(certificate: Certificate) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(certificate.look)
