"""
What the ledger says at one moment, as the live view needs it. Invariant: a value; it knows no database and no
terminal.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property

from stocktake.model.books import ComputeNode
from stocktake.model.problem import Problem
from stocktake.views.nodes import NodeView


@dataclass(frozen=True)
class FleetSnapshot:
    """All nodes at one moment, by name; `at` is when they were read."""

    at: datetime
    rows: Sequence[NodeView] = ()

    @cached_property
    def by_uuid(self) -> Mapping[str, NodeView]:
        """Give the rows by uuid."""
        return {row.node.uuid: row for row in self.rows}


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


def changes(before: FleetSnapshot, after: FleetSnapshot) -> list[Change]:
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


def _of_one(old: NodeView, new: NodeView, at: datetime) -> Iterator[Change]:
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


def _troubles(old: NodeView, new: NodeView, at: datetime) -> Iterator[Change]:
    """Say which problems came and which went; one whose text alone differs is the same one."""
    was, now = _known(old.problems), _known(new.problems)
    for key in sorted(now.keys() - was.keys()):
        problem = now[key]
        colour = "red" if problem.severity == "error" else "yellow"
        yield Change(at, new.name, f"{problem.severity} {problem.code}: {problem.text}", colour)
    for key in sorted(was.keys() - now.keys()):
        yield Change(at, new.name, f"solved: {was[key].code}", "green")


def _known(problems: tuple[Problem, ...]) -> dict[tuple[str, str], Problem]:
    return {(problem.code, problem.about): problem for problem in problems}
