"""
What state a node is in, in one word and a reason. Invariant: pure; the record, its service and the time decide.

`up`: its agent lives and the last refresh went well. `manual`: no agent ever ran for it, somebody refreshes it by hand,
and the last time went well. `stale`: it could not be refreshed because a part was not there,
and keeps its last figures. `failed`: somebody has to do something before it can be refreshed. `down`: its agent is
silent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from stocktake.accounting.node_availability import is_alive, is_by_hand
from stocktake.model.books import ComputeNode
from stocktake.model.workload import Service
from stocktake.views.words import since

Word = Literal["up", "manual", "stale", "failed", "down"]

# These go away by themselves, or by a pass that agrees.
_PASSING = frozenset({"DriverUnreachable", "LedgerUnreachable", "PlacementUnreachable", "node-vanished"})


@dataclass(frozen=True, slots=True)
class State:
    """The word, and why it is not `up`."""

    word: Word
    reason: str = ""


def service_word(service: Service, now: datetime, down_time_s: float) -> Word:
    """Give a service's state: up, manual or down."""
    if is_by_hand(service):
        return "manual"
    return "up" if is_alive(service, now, down_time_s) else "down"


def state_of(node: ComputeNode, service: Service | None, now: datetime, down_time_s: float) -> State:
    """Work out a node's state."""
    trouble = node.failure.text if node.failure else ""
    if service is None:
        return State("down", f"no service {node.host!r} is known{'; ' if trouble else ''}{trouble}")
    by_hand = is_by_hand(service)
    if not by_hand and not is_alive(service, now, down_time_s):
        return State("down", f"{silence(service, now)}{'; ' if trouble else ''}{trouble}")
    if node.failure is None:
        return State("manual" if by_hand else "up")
    return State("stale" if node.failure.code in _PASSING else "failed", trouble)


def silence(service: Service, now: datetime) -> str:
    """Say why a service that is down is."""
    if service.forced_down:
        return "it was forced down"
    assert service.last_seen_up is not None, "an agent that never ran is not silent"
    return f"its agent gave no sign of life for {since(service.last_seen_up, now)}"


def states_of(
    nodes: Sequence[ComputeNode], services: Sequence[Service], now: datetime, down_time_s: float
) -> list[tuple[ComputeNode, Service | None, State]]:
    """Put every node together with its service and its state."""
    by_host = {service.host: service for service in services}
    return [(node, by_host.get(node.host), state_of(node, by_host.get(node.host), now, down_time_s)) for node in nodes]


class ServiceShown(Service, frozen=True, kw_only=True):
    """A service and its state: up, manual or down."""

    state: Word


def service_shown(service: Service, now: datetime, down_time_s: float) -> ServiceShown:
    """Make the view of a service."""
    own = {name: getattr(service, name) for name in Service.__struct_fields__}
    return ServiceShown(**own, state=service_word(service, now, down_time_s))
