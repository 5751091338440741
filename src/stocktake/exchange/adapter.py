"""
One HTTP exchange with another host, for every client that we have. Invariant: it is over in its time however its bytes
drip, no larger than its limit as sent and as unpacked, and it stays at the address that was asked.

`requests` by itself counts the time between two bytes, unpacks whatever comes, and keystoneauth1 follows a redirect
with the token to any host.
"""

import http.client
import io
import socket
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, ReadTimeoutError
from urllib3.util import Timeout

from stocktake.clock import ENDING, SystemClock

if TYPE_CHECKING:
    # What the two kinds of connection have in common.
    _Connection = HTTPConnection
else:
    _Connection = object

CONNECT_S: Final = 5.0
# What Placement, Keystone and Ironic may answer with.
BYTES_MAX: Final = 64 * 1024 * 1024
# How long an exchange still has once this process is told to end.
GRACE_S: Final = 3.0
REDIRECTS_MAX: Final = 3
_PART: Final = 64 * 1024
# How often a wait looks whether the process is told to end.
_LOOK_S: Final = 0.5
_MOVED: Final = frozenset({301, 302, 303, 307, 308})
_PORTS: Final = {"http": 80, "https": 443}
_CLOCK: Final = SystemClock()


class ExchangeFailed(requests.exceptions.ConnectionError):
    """
    The answer was given up: too slow, too large, or another address.

    Attributes:
        what: a clause for an error.
        again: trying again later may help.
    """

    def __init__(self, what: str, *, request: requests.PreparedRequest | None = None, again: bool = True) -> None:
        super().__init__(what, request=request)
        self.what = what
        self.again = again


class AnswerDeadline:
    """The moment by which an exchange must be over, or a stream must have said something."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._hurried = False
        self._until_s = 0.0
        self.renew()

    def renew(self) -> None:
        """Begin anew: something whole was said."""
        self._until_s = _CLOCK.monotonic_s() + self._seconds

    def left_s(self) -> float:
        """Give what is left of it; raises TimeoutError if nothing is."""
        now_s = _CLOCK.monotonic_s()
        if ENDING.is_set() and not self._hurried:
            self._hurried = True
            self._until_s = min(self._until_s, now_s + GRACE_S)
        if self._until_s <= now_s:
            raise TimeoutError("timed out")
        return self._until_s - now_s


class _Reader(io.RawIOBase):
    """Reads a socket until a deadline."""

    def __init__(self, sock: Any, opened: io.BufferedIOBase, deadline: AnswerDeadline) -> None:
        self._socket: socket.socket = sock
        # The socket lives until it is closed too.
        self._opened = opened
        self._deadline = deadline

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read what is there, or wait for it."""
        while True:
            self._socket.settimeout(min(self._deadline.left_s(), _LOOK_S))
            try:
                return self._socket.recv_into(buffer)
            except TimeoutError:
                # The deadline says whether it is over.
                continue

    def close(self) -> None:
        """Let go of the socket."""
        self._opened.close()
        super().close()


class _Response(http.client.HTTPResponse):
    """An answer whose head and body have one deadline."""

    def __init__(self, sock: Any, *args: Any, deadline: AnswerDeadline, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Reader(sock, self.fp, deadline))


class _Bounded(_Connection):
    """What is sent and read through it has a deadline; `timeout` is what is left of the whole, as urllib3 sets it."""

    deadline: AnswerDeadline
    _fresh = False

    def connect(self) -> None:
        """Connect, and shake hands."""
        self._begin()
        whole_s = self.timeout
        self.timeout = min(CONNECT_S, self.deadline.left_s())
        try:
            super().connect()
        finally:
            self.timeout = whole_s
        self._fresh = True

    def request(self, *args: Any, **options: Any) -> None:
        """Send a request."""
        if not (self.is_connected and self._fresh):
            self._begin()
        try:
            super().request(*args, **options)
        finally:
            self._fresh = False

    def send(self, data: Any) -> None:
        """Send bytes, part by part, so that a peer that takes them slowly meets the deadline."""
        if self.sock is None:
            self.connect()
        if not isinstance(data, bytes):
            self.sock.settimeout(self.deadline.left_s())
            super().send(data)
            return
        for start in range(0, len(data), _PART):
            self.sock.settimeout(self.deadline.left_s())
            super().send(data[start : start + _PART])

    def getresponse(self) -> Any:
        """Read the head of the answer."""
        self._begin()
        return super().getresponse()

    def _begin(self) -> None:
        seconds = self.timeout
        assert isinstance(seconds, int | float), "the adapter always gives one"
        self.deadline = AnswerDeadline(seconds)
        self.response_class = partial(_Response, deadline=self.deadline)  # type: ignore[assignment]


class _Http(_Bounded, HTTPConnection):
    pass


class _Https(_Bounded, HTTPSConnection):
    pass


class _HttpPool(HTTPConnectionPool):
    ConnectionCls = _Http


class _HttpsPool(HTTPSConnectionPool):
    ConnectionCls = _Https


class BoundedAdapter(HTTPAdapter):
    """
    The transport of a `requests` session, for all addresses.

    Args:
        bytes_max: how large an answer may be.
        pool: how many connections are kept.
    """

    def __init__(self, *, bytes_max: int = BYTES_MAX, pool: int = 10) -> None:
        self._bytes_max = bytes_max
        super().__init__(pool_connections=pool, pool_maxsize=pool, max_retries=0)

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the pool of connections."""
        super().init_poolmanager(*args, **options)
        _bound(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """Make the pool of connections through a proxy."""
        manager = super().proxy_manager_for(proxy, **options)
        _bound(manager)
        return manager

    def send(  # noqa: PLR0917 - requests' own
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - requests' own
        timeout: Any = None,
        verify: Any = True,  # noqa: FBT002 - the same
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """
        Send a request, and read the whole answer unless it is a stream.

        Args:
            timeout: seconds for the whole exchange, or those to connect and those that a stream may be silent.

        Raises:
            ExchangeFailed: the answer is too slow, too large, or says to ask another address.
            requests.RequestException: no answer.
        """
        limit = timeout if isinstance(timeout, tuple) else (CONNECT_S, timeout)
        whole = AnswerDeadline(limit[1])
        options: dict[str, Any] = {"verify": verify, "cert": cert, "proxies": proxies}
        try:
            for _ in range(REDIRECTS_MAX + 1):
                left_s = whole.left_s()
                chosen = Timeout(connect=limit[0], read=limit[1]) if stream else Timeout(total=left_s)
                response = super().send(request, stream=True, timeout=chosen, **options)  # type: ignore[arg-type]
                target = _target(response, request)
                if target is None:
                    return response if stream and response.status_code == http.HTTPStatus.OK else self._whole(response)
                response.close()
                request = request.copy()
                request.prepare_url(target, None)
        except (TimeoutError, requests.exceptions.ReadTimeout, ReadTimeoutError) as error:
            told = (
                "this program was told to end"
                if ENDING.is_set()
                else f"no complete answer within {round(limit[1], 1):g} s"
            )
            raise ExchangeFailed(told, request=request) from error
        except ExchangeFailed as error:
            error.request = request
            raise
        except HTTPError as error:
            raise requests.exceptions.ConnectionError(error, request=request) from error
        raise ExchangeFailed(
            f"more than {REDIRECTS_MAX} redirects, the last to {request.url}", request=request, again=False
        )

    def _whole(self, response: requests.Response) -> requests.Response:
        """Read the body, and give the response with it."""
        raw: HTTPResponse = response.raw
        try:
            body = self._body(raw)
        except BaseException:
            # What comes after it is no answer to anything.
            response.close()
            raise
        headers = raw.headers.copy()
        headers.discard("Content-Encoding")
        response.headers.pop("Content-Encoding", None)
        response.raw = HTTPResponse(io.BytesIO(body), headers, raw.status, preload_content=False)
        return response

    def _body(self, raw: HTTPResponse) -> bytes:
        encoding = raw.headers.get("Content-Encoding", "").strip().lower()
        if encoding not in ("", "identity", "gzip"):
            raise ExchangeFailed(f"the answer is packed as {encoding[:40]!r}, which was not asked for")
        unpacking = zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding == "gzip" else None
        sent, body = 0, bytearray()
        while part := raw.read(_PART, decode_content=False):
            sent += len(part)
            try:
                body += part if unpacking is None else unpacking.decompress(part, self._bytes_max + 1 - len(body))
            except zlib.error as error:
                raise ExchangeFailed(f"the answer can't be unpacked: {error}") from error
            if max(sent, len(body)) > self._bytes_max:
                raise ExchangeFailed(f"the answer has more than {self._bytes_max:,} bytes")
        if unpacking is not None and sent and not unpacking.eof:
            raise ExchangeFailed("the packed answer ends in its middle")
        return bytes(body)


def _bound(manager: PoolManager) -> None:
    manager.pool_classes_by_scheme = {"http": _HttpPool, "https": _HttpsPool}


def _target(response: requests.Response, request: requests.PreparedRequest) -> str | None:
    """
    Give the address that an answer says to ask instead; None if it is an answer.

    Raises:
        ExchangeFailed: it is another host's, or something would be written there.
    """
    if response.status_code not in _MOVED or "Location" not in response.headers:
        return None
    asked = request.url or ""
    target = urljoin(asked, response.headers["Location"])
    if _origin(target) == _origin(asked) and request.method in {"GET", "HEAD"}:
        return target
    response.close()
    place, other = (f"{part.scheme}://{_host_of(part.netloc)}{part.path}" for part in map(urlsplit, (asked, target)))
    what = f"{place} says to ask {other} instead, which is not done: what we sign in with stays here"
    raise ExchangeFailed(what, request=request, again=False)


def _origin(url: str) -> tuple[str, str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.scheme.lower(), parts.hostname, parts.port or _PORTS.get(parts.scheme.lower())
    except ValueError:
        return "", None, None


def _host_of(netloc: str) -> str:
    return netloc.rpartition("@")[2]


def read_lines(response: requests.Response, *, bytes_max: int) -> Iterator[bytes]:
    """
    Read the lines of a stream as they come; each one that is whole begins the time anew in which the next must be.

    Raises:
        ExchangeFailed: a line is too long.
        requests.RequestException: it broke off, or was silent for too long.
    """
    raw: HTTPResponse = response.raw
    deadline: AnswerDeadline = raw.connection.deadline  # type: ignore[union-attr]
    begun = b""
    while part := _read_some(raw):
        *lines, begun = (begun + part).split(b"\n")
        if len(begun) > bytes_max:
            raise ExchangeFailed(f"a line of the stream has more than {bytes_max:,} bytes")
        if lines:
            deadline.renew()
        yield from lines


def _read_some(raw: HTTPResponse) -> bytes:
    try:
        return raw.read1(_PART, decode_content=False)
    except HTTPError as error:
        raise requests.exceptions.ConnectionError(error) from error
