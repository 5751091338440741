"""
The server's process: its socket, its TLS, its signals. Invariant: no other network reaches it unless
the settings say so.

SIGTERM and SIGINT end it once the requests in progress are answered, SIGHUP reads the certificate again.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from stocktake.errors import SettingsError, Unreachable
from stocktake.settings import ServerSection, parse_listen
from stocktake.web.app import make_app
from stocktake.web.connections import HttpConnection, ListeningSocket, on_loop_error
from stocktake.web.context import Web
from stocktake.web.limits import Gate, is_loopback_address, limits_of

LOG = logging.getLogger(__name__)
# How often the certificate's file is looked at.
LOOK_S = 10.0
_BACKLOG = 1024
_IDLE_S = 30
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def is_loopback(settings: ServerSection) -> bool:
    """Say whether only this machine can reach the address that is listened on."""
    host, _port = _address(settings)
    return host == "localhost" or is_loopback_address(host)


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
    listener = listen(settings)
    config = uvicorn.Config(
        app,
        lifespan="on",
        http=type("HttpConnection", (HttpConnection,), {"head_s": settings.request_timeout_s, "gate": listener.gate}),
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
    listener.secure = certificate is not None
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


def listen(settings: ServerSection) -> ListeningSocket:
    """
    Open the socket, with a gate for as many connections as there may be.

    Raises:
        SettingsError: there is no such address here.
        Unreachable: it is in use.
    """
    host, port = _address(settings)
    try:
        family, kind, proto, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # With its protocol named: asyncio turns Nagle's delay off for TCP only, and every answer would take 40 ms.
        listener = ListeningSocket(family, kind, proto)
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
    limits = limits_of(settings)
    if settings.connections_max > limits.served:
        what = "server.connections_max is %d, and there are file descriptors for %d connections: raise LimitNOFILE"
        LOG.warning(what, settings.connections_max, limits.served)
    listener.gate = Gate(limits)
    return listener


async def _served(
    server: uvicorn.Server,
    listener: socket.socket,
    certificate: Certificate | None,
    stopping: asyncio.Event,
    ready: Callable[[], None],
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(on_loop_error)

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
        # Ignored for good: what is caught by Python kills again while the interpreter ends, and that exit code is no 0.
        for number in (*_SIGNALS, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)


async def _tell(server: uvicorn.Server, ready: Callable[[], None]) -> None:
    while not server.started:  # noqa: ASYNC110  # uvicorn has no event for it
        await asyncio.sleep(0.01)
    ready()


async def _watch(certificate: Certificate) -> None:
    while True:
        await asyncio.sleep(LOOK_S)
        await asyncio.to_thread(certificate.look)
