"""
What the ledger says at one moment, as the live view needs it. Invariant: a value; it knows no database and no
terminal.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from stocktake.model.books import ComputeNode
from stocktake.model.problem import Problem
from stocktake.model.workload import Service
from stocktake.views.nodes import NO_AMOUNTS, Amounts, State


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


@dataclass(frozen=True, slots=True)
class Change:
    """One line: when, which node, what; in a colour."""

    at: datetime
    node: str
    text: str
    colour: str = ""


# Fields of the record, how they are called, and their unit; ratios have none.
_FIGURES: Mapping[str, tuple[str, str]] = {
    "vcpus_used": ("vCPUs", ""),
    "memory_mb_used": ("memory", " MiB"),
    "local_gb_used": ("disk", " GB"),
    "running_vms": ("VMs", ""),
    "current_workload": ("tasks", ""),
    "vcpus": ("vCPUs in all", ""),
    "memory_mb": ("memory in all", " MiB"),
    "local_gb": ("disk in all", " GB"),
    "cpu_allocation_ratio": ("CPU ratio", ""),
    "ram_allocation_ratio": ("memory ratio", ""),
    "disk_allocation_ratio": ("disk ratio", ""),
}


def changes(before: Seen, after: Seen) -> list[Change]:
    """
    Say what changed, the same on many nodes in one line.

    A figure's time is that of its record; everything else is as old as the look that found it.
    """
    told: list[Change] = []
    old, new = before.by_uuid, after.by_uuid
    for row in after.rows:
        known = old.get(row.node.uuid)
        if known is None:
            told.append(Change(after.at, row.name, f"new, {row.state.word}", "green"))
        elif known != row:
            told += _of_one(known, row, after.at)
    told += [Change(after.at, row.name, "gone", "yellow") for row in before.rows if row.node.uuid not in new]
    return _gathered(told)


def _gathered(told: list[Change]) -> list[Change]:
    cases: dict[tuple[str, str], list[Change]] = {}
    for change in told:
        cases.setdefault((change.text, change.colour), []).append(change)
    return [
        replace(same[0], node=f"{same[0].node} and {len(same) - 1:,} more") if len(same) > 1 else same[0]
        for same in cases.values()
    ]


def _of_one(old: Row, new: Row, at: datetime) -> Iterator[Change]:
    if old.state.word != new.state.word:
        why = f": {new.state.reason}" if new.state.reason else ""
        colour = {"up": "green", "failed": "red", "down": "red", "stale": "yellow"}.get(new.state.word, "")
        yield Change(at, new.name, f"{old.state.word} → {new.state.word}{why}", colour)
    if old.disabled != new.disabled:
        reason = new.service.disabled_reason if new.service and new.disabled else None
        word = "disabled" if new.disabled else "enabled"
        yield Change(at, new.name, f"{word}: {reason}" if reason else word, "yellow" if new.disabled else "green")
    if old.node.host != new.node.host:
        yield Change(at, new.name, f"host {old.node.host} → {new.node.host}")
    figures = _figures(old.node, new.node)
    if figures:
        yield Change(new.node.updated_at or at, new.name, ", ".join(figures))
    yield from _troubles(old, new, at)


def _figures(old: ComputeNode, new: ComputeNode) -> list[str]:
    told: list[str] = []
    for field, (title, unit) in _FIGURES.items():
        was, now = getattr(old, field), getattr(new, field)
        if was != now:
            told.append(f"{title} {was:,} → {now:,}{unit}")
    return told


def _troubles(old: Row, new: Row, at: datetime) -> Iterator[Change]:
    """Say which problems came and which went; one whose text alone differs is the same one."""
    was, now = _known(old.node.problems), _known(new.node.problems)
    for key in sorted(now.keys() - was.keys()):
        problem = now[key]
        colour = "red" if problem.severity == "error" else "yellow"
        yield Change(at, new.name, f"{problem.severity} {problem.code}: {problem.text}", colour)
    for key in sorted(was.keys() - now.keys()):
        yield Change(at, new.name, f"solved: {was[key].code}", "green")


def _known(problems: tuple[Problem, ...]) -> dict[tuple[str, str], Problem]:
    return {(problem.code, problem.about): problem for problem in problems}
