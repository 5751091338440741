"""
The API `/v1` for Python programs. Invariant: every list is whole, page after page, and every answer is a noun.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import msgspec

from stocktake.claims import ClaimRules
from stocktake.client.claims import RemoteClaims
from stocktake.client.ledger import RemoteLedger
from stocktake.client.transport import Transport
from stocktake.clock import Clock, Ids, RandomIds, SystemClock
from stocktake.model.access import WhoAmI
from stocktake.model.value import plain
from stocktake.model.workload import Flavor, Instance, Migration
from stocktake.views.explain import Explained
from stocktake.views.fitting import FitAnswer
from stocktake.views.nodes import HistoryRow, NodeDetail, NodeSummary
from stocktake.views.problems import FleetProblem, ServiceShown, UnmanagedGuest

T = TypeVar("T")
Filter = str | int | bool | Sequence[str] | None


class _Page(msgspec.Struct):
    """Some of many."""

    items: list[msgspec.Raw]
    next: str | None = None


class Fleet:
    """
    A fleet behind a server. Threads may share one.

    Every call raises what the server says, as an error of `stocktake.errors`, and LedgerUnreachable without an answer.

    Attributes:
        ledger: the ledger's calls.
        claims: promises, made and settled.
    """

    def __init__(self, transport: Transport, clock: Clock, ids: Ids, *, expiry_s: float) -> None:
        self._transport = transport
        self.ledger = RemoteLedger(transport, clock)
        self.claims = RemoteClaims(transport, ids, expiry_s=expiry_s)

    def close(self) -> None:
        """Close the connections."""
        self.ledger.close()

    def who_am_i(self) -> WhoAmI:
        """Say who the server takes us for."""
        return self._get("/v1/whoami", WhoAmI)

    def nodes(self, **filters: Filter) -> Iterator[NodeSummary]:
        """List the nodes by name: state, used, total, problems; filters are those of `GET /v1/nodes`."""
        return self._pages("/v1/nodes", NodeSummary, filters)

    def node(self, node: str) -> NodeDetail:
        """
        Show everything about a node, by its name or uuid.

        Raises:
            NotFound: no such node, and the nearest names.
        """
        return self._get(f"/v1/nodes/{_part(node)}", NodeDetail)

    def explain(self, node: str, field: str | None = None) -> Explained:
        """Say why a node's numbers, or one of them, are what they are."""
        return self._get(f"/v1/nodes/{_part(node)}/explain{_query({'field': field})}", Explained)

    def history(self, node: str, *, since_s: float | None = None) -> tuple[HistoryRow, ...]:
        """Read what a node had and what was allocated, the oldest first; of the last day unless told."""
        return tuple(self._pages(f"/v1/nodes/{_part(node)}/history", HistoryRow, {"since_s": since_s}))

    def delete_node(self, node: str, *, force: bool = False, force_provider: str | None = None) -> str | None:
        """Delete a node's record and its resource provider; give why the provider was left, None if it is gone."""
        path = f"/v1/nodes/{_part(node)}{_query({'force': force, 'force_provider': force_provider})}"
        said: dict[str, str | None] = self._transport.ask("DELETE", path, None, dict[str, str | None], retryable=False)
        return said["provider_left"]

    def instances(self, **filters: Filter) -> Iterator[Instance]:
        """List the instances, the first made first."""
        return self._pages("/v1/instances", Instance, filters)

    def instance(self, instance: str) -> Instance:
        """Show one instance, by its uuid or name."""
        return self._get(f"/v1/instances/{_part(instance)}", Instance)

    def migrations(self, **filters: Filter) -> Iterator[Migration]:
        """List the migrations in play, by id; `all=True` lists the others too."""
        return self._pages("/v1/migrations", Migration, filters)

    def orphans(self, **filters: Filter) -> Iterator[UnmanagedGuest]:
        """List unmanaged guests, orphans and misplaced ones, by node."""
        return self._pages("/v1/orphans", UnmanagedGuest, filters)

    def problems(self, **filters: Filter) -> Iterator[FleetProblem]:
        """List what is wrong, the worst first."""
        return self._pages("/v1/problems", FleetProblem, filters)

    def services(self, **filters: Filter) -> Iterator[ServiceShown]:
        """List the services (agents), by host."""
        return self._pages("/v1/services", ServiceShown, filters)

    def disable(self, host: str, reason: str) -> ServiceShown:
        """Have the scheduler send a host nothing new."""
        path = f"/v1/services/{_part(host)}/disable"
        return self._ask("POST", path, {"reason": reason}, ServiceShown)

    def enable(self, host: str) -> ServiceShown:
        """Let the scheduler send a host new instances again."""
        path = f"/v1/services/{_part(host)}/enable"
        return self._ask("POST", path, None, ServiceShown)

    def fit(
        self,
        flavor: Flavor,
        *,
        volume_backed: bool = False,
        nodes: Sequence[str] | None = None,
        pack: bool | None = None,
    ) -> FitAnswer:
        """Say where a machine would fit, the best node first, and why not elsewhere; nothing is allocated."""
        asked = {"flavor": plain(flavor), "volume_backed": volume_backed, "nodes": nodes, "pack": pack}
        return self._ask("POST", "/v1/fit", asked, FitAnswer)

    def _get(self, path: str, kind: type[T]) -> T:
        return self._ask("GET", path, None, kind)

    def _ask(self, method: str, path: str, body: object, kind: type[T]) -> T:
        found: T = self._transport.ask(method, path, body, kind, retryable=True)
        return found

    def _pages(self, path: str, kind: type[T], filters: "dict[str, Any]") -> Iterator[T]:
        marker: str | None = None
        while True:
            page: _Page = self._get(f"{path}{_query({**filters, 'marker': marker})}", _Page)
            for item in page.items:
                yield msgspec.json.decode(item, type=kind)
            # A server that gives the same page again would keep us for ever.
            if page.next is None or page.next == marker:
                return
            marker = page.next


@contextmanager
def connected(
    url: str, *, token: str | None = None, cafile: Path | str | None = None, expiry_s: float | None = None
) -> Iterator[Fleet]:
    """
    Connect to a fleet's server; nothing is sent before it is used.

    Args:
        token: as `stocktake token create` gave it; None for a server on this machine that has none.
        cafile: the certificate (PEM) that the server's is signed with; None takes the usual authorities.
        expiry_s: after how many seconds claims are given back, for those that are renewed while a block runs.

    Raises:
        SettingsError: the file is not there.
    """
    clock, ids = SystemClock(), RandomIds()
    transport = Transport(url, token=token, cafile=Path(cafile) if cafile is not None else None, clock=clock)
    fleet = Fleet(transport, clock, ids, expiry_s=expiry_s or ClaimRules().expiry_s)
    try:
        yield fleet
    finally:
        fleet.close()


def _part(name: str) -> str:
    return quote(name, safe="")


def _query(filters: "dict[str, Any]") -> str:
    pairs = [(name, _text(one)) for name, value in filters.items() for one in _several(value)]
    return f"?{urlencode(pairs)}" if pairs else ""


def _several(value: Any) -> Collection[Any]:
    if value is None:
        return ()
    return value if isinstance(value, list | tuple | set | frozenset) else (value,)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
