"""
Who asks, and how often he may. Invariant: a token is compared by its digest; without one nobody gets in but readers on
this machine.

A token comes as `Authorization: Bearer`, as `X-Auth-Token`, as the password of http_basic (whatever the user's name),
or in the cookie that the pages set. While the ledger has no token, whoever is on this machine may read. Requests are
limited by a bucket for each caller, in memory; each copy of the server counts for itself.
"""

import base64
import binascii
import ipaddress
import threading
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from stocktake.clock import Clock
from stocktake.errors import AccessDenied, NotSignedIn
from stocktake.model.access import Role, Token, digest_of
from stocktake.web.context import Web

COOKIE = "stocktake_token"
# How long a token that was looked up is believed: so late a revocation is noticed.
KNOWN_S = 5.0
_KNOWN_MAX = 10_000
# How many seconds' worth of requests may come at once.
BURST_S = 2.0
_CALLERS_MAX = 10_000
_REMEDY = "Make a token with `stocktake token create`, and send it in the header Authorization, as `Bearer TOKEN`."


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who asks.

    Attributes:
        role: None for somebody not signed in.
        host: an agent's.
        token: the uuid of the token that was shown.
        address: where the request came from.
    """

    role: Role | None = None
    host: str | None = None
    token: str | None = None
    note: str = ""
    address: str = ""

    @property
    def key(self) -> str:
        """What requests are counted by."""
        return self.token or self.address

    def must_own(self, host: str | None) -> None:
        """
        See to it that an agent touches its own host's rows only; an operator may touch all.

        Raises:
            AccessDenied: they are another host's.
        """
        if self.role != "operator" and (self.role != "agent" or self.host is None or host != self.host):
            raise AccessDenied(f"this token is for host {self.host!r} only", where=host or "")


class Authenticator:
    """Finds out who asks; remembers for a few seconds what the ledger said of a token."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._known: dict[str, tuple[float, Token]] = {}
        self._lock = threading.Lock()

    def known(self, request: HTTPConnection) -> Caller | None:
        """Say who asks if that is known without asking the ledger; else None."""
        secret = secret_of(request)
        token = self._remembered(digest_of(secret)) if secret is not None else None
        return _holder(token, request) if token is not None and token.good(self._web.clock.now()) else None

    def caller(self, request: HTTPConnection) -> Caller:
        """
        Say who asks; somebody without a token is a caller without a role, or a reader (see the module).

        Raises:
            NotSignedIn: a token that is unknown, expired or revoked.
            LedgerUnreachable, LedgerError: as the ledger's calls.
        """
        secret = secret_of(request)
        token = self._token(digest_of(secret)) if secret is not None else None
        if token is None:
            # OpenStack's clients send a token of no meaning where they are told that none is needed.
            if self._web.loopback and is_direct(request) and not self._web.ledger.tokens.any():
                return Caller(role="viewer", note="anybody", address=_address(request))
            if secret is None:
                return Caller(address=_address(request))
        if token is None or not token.good(self._web.clock.now()):
            request.state.shown = token
            raise NotSignedIn("the token is unknown, expired or revoked", remedy=_REMEDY)
        return _holder(token, request)

    def _remembered(self, digest: str) -> Token | None:
        with self._lock:
            since_s, token = self._known.get(digest, (float("-inf"), None))
        return token if self._web.clock.monotonic_s() - since_s < KNOWN_S else None

    def _token(self, digest: str) -> Token | None:
        token = self._remembered(digest)
        if token is not None:
            return token
        now_s = self._web.clock.monotonic_s()
        token = self._web.ledger.tokens.find(digest)
        with self._lock:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            if token is not None:
                self._known[digest] = now_s, token
            else:
                self._known.pop(digest, None)
        return token


def _holder(token: Token, request: HTTPConnection) -> Caller:
    return Caller(role=token.role, host=token.host, token=token.uuid, note=token.note, address=_address(request))


def _address(request: HTTPConnection) -> str:
    return request.client.host if request.client else ""


def not_signed_in() -> NotSignedIn:
    """Make the error of somebody who shows no token where one is needed."""
    return NotSignedIn("a token is needed", remedy=_REMEDY)


def secret_of(request: HTTPConnection) -> str | None:
    """Take the token out of a request; None without one, empty for one that can't be read."""
    kind, _space, rest = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return rest.strip()
    if kind.lower() == "basic":
        try:
            return base64.b64decode(rest.strip(), validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    if kind:
        return ""
    return request.headers.get("x-auth-token") or request.cookies.get(COOKIE)


def is_direct(request: HTTPConnection) -> bool:
    """
    Say whether a request came from this machine to this machine, and through nobody.

    A proxy on this machine speaks for others, and a page elsewhere can point its own name at us: neither is the owner.
    """
    if "x-forwarded-for" in request.headers or "forwarded" in request.headers or "via" in request.headers:
        return False
    host = request.url.hostname or ""
    return (
        (host == "localhost" or _is_loopback(host)) and request.client is not None and _is_loopback(request.client.host)
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Rates:
    """Buckets that fill up steadily, one for each caller; 0 a second is no limit at all."""

    def __init__(self, per_s: float, clock: Clock) -> None:
        self._per_s = per_s
        self._most = max(per_s * BURST_S, 1.0)
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def take(self, caller: str) -> float:
        """Take one request out of a caller's bucket; give the seconds until there is one if there is none, else 0."""
        if not self._per_s:
            return 0.0
        now_s = self._clock.monotonic_s()
        with self._lock:
            since_s, left = self._left.get(caller, (now_s, self._most))
            left = min(self._most, left + (now_s - since_s) * self._per_s)
            if left < 1:
                self._left[caller] = now_s, left
                return (1 - left) / self._per_s
            if len(self._left) >= _CALLERS_MAX and caller not in self._left:
                self._forget(now_s)
            self._left[caller] = now_s, left - 1
            return 0.0

    def _forget(self, now_s: float) -> None:
        """Forget those whose buckets are full again; if that are too few, everybody."""
        full_s = self._most / self._per_s
        self._left = {caller: one for caller, one in self._left.items() if now_s - one[0] < full_s}
        if len(self._left) >= _CALLERS_MAX:
            self._left.clear()
