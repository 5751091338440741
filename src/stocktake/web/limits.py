"""
How many may be connected, and how much is logged of those who may not. Invariant: connections run out before file
descriptors do.

A connection counts from when it is accepted, TLS's greeting included, until its descriptor is given back.
"""

import asyncio
import ipaddress
import resource
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from stocktake.settings import ServerSection

# What else has a descriptor: the ledger's connections, the embedded Placement's, files.
_OTHER_FILES: Final = 128
_HEALTH_MAX: Final = 8
_REFUSED_MAX: Final = 32

Terms = Literal["served", "health", "refused"]


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """
    How many connections may be open.

    Attributes:
        served: whatever they ask.
        health: besides those, from this machine, for `/healthz` only.
        refused: besides those, so that they hear why; any more are closed at once.
        per_client: of one address, unless it is this machine's, where a proxy may be; requests of one token at once.
    """

    served: int
    health: int
    refused: int
    per_client: int


def limits_of(settings: ServerSection, files_max: int | None = None) -> ConnectionLimits:
    """
    Share the process's file descriptors out.

    Args:
        files_max: how many there may be; unless given, what the process may have (RLIMIT_NOFILE).
    """
    files_max = resource.getrlimit(resource.RLIMIT_NOFILE)[0] if files_max is None else files_max
    room = files_max - min(_OTHER_FILES, files_max // 2)
    health, refused = min(_HEALTH_MAX, room // 8), min(_REFUSED_MAX, room // 8)
    room = max(1, room - health - refused)
    served = min(settings.connections_max or room, room)
    per_client = min(settings.connections_per_client_max, max(1, served // 4))
    return ConnectionLimits(served=served, health=health, refused=refused, per_client=per_client)


class Gate:
    """Counts connections, each under the terms on which it was let in."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._open: dict[object, tuple[str, Terms]] = {}
        self._by_terms: Counter[Terms] = Counter()
        self._by_address: Counter[str] = Counter()

    def admit(self, key: object, address: str) -> Terms | None:
        """
        Let a connection in, or say that there is no room even for telling it so.

        Args:
            key: what `terms` and `leave` are asked with.
        """
        terms = self._terms_for(address)
        if terms is not None:
            self._open[key] = address, terms
            self._by_terms[terms] += 1
            if terms == "served":
                self._by_address[address] += 1
        return terms

    def terms(self, key: object) -> Terms:
        """Say on which terms a connection was let in."""
        return self._open[key][1] if key in self._open else "served"

    def leave(self, key: object) -> None:
        """Forget a connection; one that left already is no mistake."""
        address, terms = self._open.pop(key, ("", None))
        if terms is None:
            return
        self._by_terms[terms] -= 1
        if terms == "served":
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def _terms_for(self, address: str) -> Terms | None:
        limits, there = self.limits, self._by_terms
        here = is_loopback_address(address)
        if there["served"] < limits.served and (here or self._by_address[address] < limits.per_client):
            return "served"
        if here and there["health"] < limits.health:
            return "health"
        return "refused" if there["refused"] < limits.refused else None


class InProgress:
    """Counts the requests in progress of each token, streams among them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._by_token: Counter[str] = Counter()

    def begin(self, token: str) -> bool:
        """Count one more, or say that there are too many."""
        if self._by_token[token] >= self._most:
            return False
        self._by_token[token] += 1
        return True

    def end(self, token: str) -> None:
        """Count one less."""
        self._by_token[token] -= 1
        if not self._by_token[token]:
            del self._by_token[token]


class LogLimit:
    """
    Lets a few lines of a kind into the log, and says how many more there were. For one event loop.

    Args:
        say: logs how many lines were left out, and of how many addresses.
        lines_max: so many in an interval; of one address half as many.
    """

    def __init__(self, say: Callable[[int, int], None], *, lines_max: int = 10, interval_s: float = 60.0) -> None:
        self._say = say
        self._lines_max = lines_max
        self._interval_s = interval_s
        self._lines: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._left_out_total = 0
        self._ending: asyncio.TimerHandle | None = None

    def allows(self, about: str) -> bool:
        """Say whether a line about somebody is to be written; count it if not."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().call_later(self._interval_s, self.end)
        if self._lines.total() < self._lines_max and self._lines[about] < max(1, self._lines_max // 2):
            self._lines[about] += 1
            return True
        self._left_out_total += 1
        if len(self._left_out) < _ADDRESSES_MAX or about in self._left_out:
            self._left_out[about] += 1
        return False

    def end(self) -> None:
        """End an interval: say what was left out."""
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None
        total, addresses = self._left_out_total, len(self._left_out)
        self._lines.clear()
        self._left_out.clear()
        self._left_out_total = 0
        if total:
            self._say(total, addresses)


_ADDRESSES_MAX: Final = 10_000


def is_loopback_address(address: str) -> bool:
    """Say whether an address is this machine's to itself; a name is none."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback
