"""
One conversation with a server. Invariant: bounded in time, size and tries; sent again only if that does nothing twice.

Errors come as problem+json and leave as the errors of `errors.py` that they were.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import requests
from requests.adapters import HTTPAdapter

from stocktake import errors
from stocktake.claims.nouns import Refused
from stocktake.clock import Clock
from stocktake.errors import (
    ClaimRefused,
    LedgerError,
    LedgerUnreachable,
    NotSignedIn,
    SettingsError,
    StocktakeError,
)

T = TypeVar("T")

CONNECT_S = 5.0
ANSWER_S = 60.0
TRIES = 4
# Before the second try; each later one waits twice as long.
WAIT_S = 0.2
ANSWER_BYTES_MAX = 512 * 1024 * 1024
_POOL = 32
# Too many requests, and what a proxy says while no server runs behind it.
_AWAY = frozenset({429, 502, 503, 504})
_AWAY_REMEDY = "Check that `stocktake serve` runs there; trying again is safe."


class _Said(msgspec.Struct):
    """What is wrong, as the server says it (RFC 9457)."""

    code: str = ""
    what: str = ""
    where: str = ""
    remedy: str = ""
    reasons: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()


class Transport:
    """
    A server, and a pool of connections to it. Threads may share one.

    Attributes:
        url: the server's, without a slash at its end.
    """

    def __init__(self, url: str, *, token: str | None, cafile: Path | None, clock: Clock) -> None:
        self.url = url.rstrip("/")
        self._clock = clock
        self._never = threading.Event()
        self._session = requests.Session()
        # Only settings say what is used: no proxy, certificate or password from the environment.
        self._session.trust_env = False
        if cafile is not None and not cafile.is_file():
            raise SettingsError("no such file", where=f"server.cafile {cafile}", remedy="Give a PEM file.")
        self._session.verify = str(cafile) if cafile is not None else True
        self._session.mount("", HTTPAdapter(pool_connections=1, pool_maxsize=_POOL, max_retries=0))
        self._session.headers.update({"Accept": "application/json", "Content-Type": "application/json"})
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def ask(self, method: str, path: str, body: object, answer: Any, *, retryable: bool) -> Any:
        """
        Send a request, and read its answer as a type.

        Args:
            body: a value; None sends none.
            retryable: it may be done twice.

        Raises:
            LedgerUnreachable: no answer, or none now; unless it is `retryable` it may have been done.
            StocktakeError: what the server says.
        """
        raw = self._encoded(body)
        said = self._sent(method, path, raw, retryable=retryable)
        if answer is None or answer is type(None):
            return None
        try:
            # A server writes nothing for None.
            return msgspec.json.decode(said or b"null", type=answer)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
            remedy = "Run the same version of stocktake on both sides."
            raise LedgerError(
                f"the answer can't be understood: {error}", where=f"{self.url}{path}", remedy=remedy
            ) from error

    @contextmanager
    def stream(self, path: str, *, silence_s: float) -> Iterator[requests.Response]:
        """
        Ask for an answer that goes on, and may be silent for so long.

        Raises:
            StocktakeError: what the server says.
            requests.RequestException: no answer.
        """
        where = f"{self.url}{path}"
        headers, timeout = {"Accept": "text/event-stream"}, (CONNECT_S, silence_s)
        with self._session.get(where, headers=headers, stream=True, timeout=timeout, allow_redirects=False) as response:
            if response.status_code >= HTTPStatus.MULTIPLE_CHOICES:
                raise _error_of(response.status_code, _content(response, where), where)
            yield response

    def _encoded(self, body: object) -> bytes | None:
        try:
            return None if body is None else msgspec.json.encode(body)
        except (OverflowError, UnicodeEncodeError, TypeError) as error:
            raise LedgerError(f"can't be sent: {error}", where=self.url) from error

    def _sent(self, method: str, path: str, body: bytes | None, *, retryable: bool) -> bytes:
        wait_s = WAIT_S
        for left in reversed(range(TRIES)):
            try:
                return self._once(method, path, body)
            except LedgerUnreachable as error:
                # What never got there was not done.
                if not left or not (retryable or isinstance(error, _NotSent)):
                    raise LedgerUnreachable(error.what, where=error.where, remedy=error.remedy) from error
            self._clock.wait(self._never, wait_s)
            wait_s *= 2
        raise AssertionError

    def _once(self, method: str, path: str, body: bytes | None) -> bytes:
        where = f"{self.url}{path}"
        try:
            with self._session.request(
                method, where, data=body, timeout=(CONNECT_S, ANSWER_S), stream=True, allow_redirects=False
            ) as response:
                content = _content(response, where)
        except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
            remedy = "Check the URL, and server.cafile: the certificate that the server's is signed with."
            raise LedgerError(_first_line(error), where=self.url, remedy=remedy) from error
        except requests.exceptions.RequestException as error:
            kind = _NotSent if _never_sent(error) else LedgerUnreachable
            raise kind(_first_line(error), where=self.url, remedy=_AWAY_REMEDY) from error
        if response.status_code < HTTPStatus.MULTIPLE_CHOICES:
            return content
        raise _error_of(response.status_code, content, where)


class _NotSent(LedgerUnreachable):
    """Nobody was there to send it to."""


def _never_sent(error: Exception) -> bool:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    # requests has no name of its own for a connection that was refused.
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return type(reason).__name__ in {"NewConnectionError", "NameResolutionError"}


def _content(response: requests.Response, where: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    for part in response.iter_content(256 * 1024):
        parts.append(part)
        size += len(part)
        if size > ANSWER_BYTES_MAX:
            raise LedgerError(f"the answer has more than {ANSWER_BYTES_MAX:,} bytes", where=where)
    return b"".join(parts)


def _error_of(status: int, content: bytes, where: str) -> StocktakeError:
    """Make the error that the server raised."""
    try:
        said = msgspec.json.decode(content, type=_Said)
    except (msgspec.DecodeError, UnicodeError):
        said = _Said()
    what = said.what or f"answered with {status}"
    if status in _AWAY and said.code not in {"DriverUnreachable", "PlacementUnreachable"}:
        return LedgerUnreachable(what, where=said.where or where, remedy=said.remedy or _AWAY_REMEDY)
    kind: Any = getattr(errors, said.code, None)
    if not (isinstance(kind, type) and issubclass(kind, StocktakeError)):
        kind = LedgerError
    if kind is NotSignedIn:
        remedy = "Set server.token to a token that `stocktake token create` gave."
        return NotSignedIn(what, where=where, remedy=remedy)
    if kind is ClaimRefused:
        return ClaimRefused(said.reasons, where=said.where, remedy=said.remedy, refused=said.refused)
    made: StocktakeError = kind(what, where=said.where or (where if kind is LedgerError else ""), remedy=said.remedy)
    return made


def _first_line(error: Exception) -> str:
    reason = getattr(error.args[0] if error.args else None, "reason", None) or error
    return (str(reason).splitlines() or [type(error).__name__])[0][:300]
