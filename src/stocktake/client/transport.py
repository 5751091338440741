"""
One conversation with a server. Invariant: bounded in time, size and tries; sent again only if that does nothing twice.

Errors come as problem+json and leave as the errors of `errors.py` that they were.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import requests

from stocktake import errors
from stocktake.claims.nouns import Refused
from stocktake.clock import ENDING, Clock
from stocktake.errors import (
    UNKNOWN_REMEDY,
    ClaimRefused,
    LedgerError,
    LedgerUnreachable,
    NotSignedIn,
    OutcomeUnknown,
    SettingsError,
    StocktakeError,
    quoted,
)
from stocktake.exchange.adapter import CONNECT_S, BoundedAdapter, ExchangeFailed

T = TypeVar("T")

ANSWER_S = 60.0
TRIES = 4
# Before the second try; each later one waits twice as long.
WAIT_S = 0.2
ANSWER_BYTES_MAX = 512 * 1024 * 1024
_POOL = 32
# Too many requests, and what a proxy says while no server runs behind it.
_AWAY = frozenset({429, 502, 503, 504})
_PERHAPS = frozenset({502, 503, 504})
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

    Args:
        answer_s: for a request and all of its answer, whatever tries it takes.

    Attributes:
        url: the server's, without a slash at its end.
    """

    def __init__(
        self, url: str, *, token: str | None, cafile: Path | None, clock: Clock, answer_s: float = ANSWER_S
    ) -> None:
        self.url = url.rstrip("/")
        self._clock = clock
        self._answer_s = answer_s
        self._session = requests.Session()
        # Only settings say what is used: no proxy, certificate or password from the environment.
        self._session.trust_env = False
        if cafile is not None and not cafile.is_file():
            raise SettingsError("no such file", where=f"server.cafile {cafile}", remedy="Give a PEM file.")
        self._session.verify = str(cafile) if cafile is not None else True
        adapter = BoundedAdapter(bytes_max=ANSWER_BYTES_MAX, pool=_POOL)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        self._session.headers.update({"Accept": "application/json", "Content-Type": "application/json"})
        if token is not None:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def ask(
        self, method: str, path: str, body: object, answer: Any, *, retryable: bool, unknown_remedy: str = ""
    ) -> Any:
        """
        Send a request, and read its answer as a type.

        Args:
            body: a value; None sends none.
            retryable: it may be done twice.
            unknown_remedy: of a `retryable` one, what to do where no try was answered and it may have been done: what
                names what was made. Without it, it is as if it had not been done.

        Raises:
            OutcomeUnknown: no answer, and it may have been done.
            LedgerUnreachable: no answer, or none now.
            StocktakeError: what the server says.
        """
        raw = self._encoded(body)
        said = self._sent(method, path, raw, retryable=retryable, unknown_remedy=unknown_remedy)
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
                raise _error_of(response.status_code, response.content, where)
            yield response

    def _encoded(self, body: object) -> bytes | None:
        try:
            return None if body is None else msgspec.json.encode(body)
        except (OverflowError, UnicodeEncodeError, TypeError) as error:
            raise LedgerError(f"can't be sent: {error}", where=self.url) from error

    def _sent(self, method: str, path: str, body: bytes | None, *, retryable: bool, unknown_remedy: str = "") -> bytes:
        unknown = False
        until_s, wait_s = self._clock.monotonic_s() + self._answer_s, WAIT_S
        for left in reversed(range(TRIES)):
            try:
                return self._once(method, path, body, until_s - self._clock.monotonic_s())
            except LedgerUnreachable as error:
                lost = isinstance(error, OutcomeUnknown)
                if lost and not retryable:
                    raise
                # It may have been the first that was done, and the last that did not get there.
                unknown = unknown or lost
                # What never got there was not done.
                over = self._clock.monotonic_s() + wait_s >= until_s
                if not left or over or self._clock.wait(ENDING, wait_s):
                    if unknown and unknown_remedy:
                        raise OutcomeUnknown(error.what, where=error.where, remedy=unknown_remedy) from error
                    remedy = _AWAY_REMEDY if lost else error.remedy
                    raise LedgerUnreachable(error.what, where=error.where, remedy=remedy) from error
            wait_s *= 2
        raise AssertionError

    def _once(self, method: str, path: str, body: bytes | None, left_s: float) -> bytes:
        where = f"{self.url}{path}"
        try:
            response = self._session.request(method, where, data=body, timeout=left_s, allow_redirects=False)
        except (requests.exceptions.SSLError, requests.exceptions.InvalidURL) as error:
            remedy = "Check the URL, and server.cafile: the certificate that the server's is signed with."
            raise LedgerError(_first_line(error), where=self.url, remedy=remedy) from error
        except requests.exceptions.RequestException as error:
            if isinstance(error, ExchangeFailed) and not error.again:
                raise LedgerError(error.what, where=self.url, remedy="Set server.url to that address.") from error
            if _never_sent(error):
                raise LedgerUnreachable(_first_line(error), where=self.url, remedy=_AWAY_REMEDY) from error
            raise OutcomeUnknown(_first_line(error), where=self.url, remedy=UNKNOWN_REMEDY) from error
        if response.status_code < HTTPStatus.MULTIPLE_CHOICES:
            return response.content
        raise _error_of(response.status_code, response.content, where)


def _never_sent(error: Exception) -> bool:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return True
    # requests has no name of its own for a connection that was refused.
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return type(reason).__name__ in {"NewConnectionError", "NameResolutionError"}


def _error_of(status: int, content: bytes, where: str) -> StocktakeError:
    """Make the error that the server raised."""
    try:
        said = msgspec.json.decode(content, type=_Said)
    except (msgspec.DecodeError, UnicodeError):
        said = _Said()
    what = quoted(said.what) or f"answered with {status}"
    reasons = tuple(map(quoted, said.reasons))
    said = msgspec.structs.replace(said, where=quoted(said.where), remedy=quoted(said.remedy), reasons=reasons)
    if status in _PERHAPS and (not said.code or said.code == OutcomeUnknown.__name__):
        # A proxy says so that lost its server, before it was asked or after.
        return OutcomeUnknown(what, where=said.where or where, remedy=said.remedy or UNKNOWN_REMEDY)
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
