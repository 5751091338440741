"""
What the ledger says at one moment, as the live view needs it. Invariant: a value; it knows no database and no
terminal.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from stocktake.model.books import ComputeNode
from stocktake.model.workload import Service
from stocktake.views.nodes import NO_AMOUNTS, Amounts
from stocktake.views.state import State


@dataclass(frozen=True, slots=True)
class Amount:
    """How much of one resource there is, is promised (what is reserved included), and is kept for the host."""

    total: int = 0
    used: int = 0
    reserved: int = 0

    @property
    def share(self) -> float:
        """Give the used share; 0 of nothing."""
        return self.used / self.total if self.total > 0 else 0.0

    def __add__(self, other: "Amount") -> "Amount":
        """Add two nodes' up."""
        return Amount(self.total + other.total, self.used + other.used, self.reserved + other.reserved)


# In the order in which they are shown.
RESOURCES = ("vcpus", "memory", "disk")
NOTHING = Amount()


@dataclass(frozen=True)
class Row:
    """One node: its record, its service, its state, and what is reserved for its host."""

    node: ComputeNode
    service: Service | None
    state: State
    reserved: Amounts = NO_AMOUNTS

    @cached_property
    def amounts(self) -> Mapping[str, Amount]:
        """Give what there is by resource: whole vCPUs, MiB, GB."""
        totals = ("vcpus", "memory_mb", "local_gb")
        return {
            name: Amount(getattr(self.node, total), getattr(self.node, f"{total}_used"), getattr(self.reserved, total))
            for name, total in zip(RESOURCES, totals, strict=True)
        }

    @property
    def name(self) -> str:
        """Give the node's name."""
        return self.node.hypervisor_hostname

    @property
    def disabled(self) -> bool:
        """Say whether the scheduler is told to leave it alone."""
        return self.service is not None and self.service.disabled

    @property
    def problems(self) -> int:
        """Count what is wrong, a failed refresh included."""
        return len(self.node.wrong)


@dataclass(frozen=True)
class Seen:
    """All nodes at one moment, by name; `at` is when they were read."""

    at: datetime
    rows: Sequence[Row] = ()

    @cached_property
    def by_uuid(self) -> Mapping[str, Row]:
        """Give the rows by uuid."""
        return {row.node.uuid: row for row in self.rows}


def sums(rows: Iterable[Row]) -> dict[str, Amount]:
    """Add all rows up."""
    totals = dict.fromkeys(RESOURCES, NOTHING)
    for row in rows:
        for name, amount in row.amounts.items():
            totals[name] += amount
    return totals
