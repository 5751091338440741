"""Rows, looks and views for tests of the live view."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from stocktake.cli.watch.fleet_snapshot import Change, FleetSnapshot
from stocktake.cli.watch.frame import Size, View, frame
from stocktake.cli.watch.table import text_of
from stocktake.model.books import Entry
from stocktake.model.problem import Problem
from stocktake.model.workload import Service
from stocktake.views.nodes import NodeView, view_of
from stocktake.views.problems import State
from tests.ledger.making import node

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SMALL, LARGE = Size(80, 24), Size(200, 50)


def row(name: str = "one", *, word: Any = "up", reason: str = "", off: str | None = None, **fields: Any) -> NodeView:
    """
    A node of 8 vCPUs, 16 GiB and 100 GB, of which 2, 1 GiB and 10 are reserved and the rest has a capacity of 24 vCPUs,
    15 GiB and 90 GB; used are the reserves unless said otherwise. `off` disables its service.
    """
    small: dict[str, Any] = {"uuid": f"uuid of {name}", "host": name, "created_at": NOON, "updated_at": NOON}
    small |= {"vcpus_used": 2, "memory_mb_used": 1024, "local_gb_used": 10}
    service = Service(uuid="s", host=name, disabled=off is not None, disabled_reason=off)
    entry = Entry(kind="reserved", id="host", why="kept", vcpus=2, memory_mb=1024, disk_mb=10_240)
    made = view_of(node(name, **{**small, **fields}), service, [entry], NOON, 60)
    return replace(made, state=State(word, reason))


def fleet(count: int) -> tuple[NodeView, ...]:
    """So many nodes, each a little fuller than the one before, the last full to overflowing."""
    return tuple(row(f"node-{number:05}", vcpus_used=2 + number * 25 // max(count - 1, 1)) for number in range(count))


def snapshot(*rows: NodeView) -> FleetSnapshot:
    """A look at these rows."""
    return FleetSnapshot(NOON, rows)


def view(*rows: NodeView, **fields: Any) -> View:
    """Look at these rows."""
    return View(**{"ledger": "sqlite:////var/lib/stocktake/ledger.db", "now": NOON, "fleet": snapshot(*rows), **fields})


def problem(text: str = "it is wrong", **fields: Any) -> Problem:
    """A warning."""
    return Problem(**{"code": "some-code", "about": "guest", "text": text, **fields})


def change(number: int) -> Change:
    """Something that changed."""
    return Change(NOON, f"node-{number:05}", f"vCPUs {number} → {number + 1}")


def picture(of: View, size: Size = SMALL) -> list[str]:
    """The frame as plain text."""
    return [text_of(line).rstrip() for line in frame(of, size)]
