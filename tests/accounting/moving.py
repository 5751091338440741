"""Moves of an instance from one node to another, step by step."""

from collections.abc import Callable
from typing import Any

from stocktake.accounting import lifecycle
from stocktake.accounting.lifecycle import Location, MoveKind, Step
from stocktake.model.workload import Instance, Migration
from tests.accounting.making import LARGE, NOON, an_instance, floating, pinned, uuid_of

HERE, THERE = Location(host="cn-1", node="cn-1.example.org"), Location(host="cn-2", node="cn-2.example.org")
KINDS: tuple[MoveKind, ...] = ("resize", "migration", "live-migration", "evacuation")
OLD, NEW = pinned({0: 4}), floating(4)
HAS = an_instance(numa_topology=OLD, pci_devices=("0000:05:00.0",))


def begin(kind: MoveKind = "resize", instance: Instance = HAS, dest: Location = THERE, **more: Any) -> Step:
    """Begin a move that takes one device at its destination; a resize to a larger flavor."""
    said: dict[str, Any] = {
        "flavor": LARGE if kind == "resize" else None,
        "numa": NEW,
        "devices": ("0000:06:00.0",),
        "migration_id": 7,
        "migration_uuid": uuid_of(70),
        "expires_at": NOON,
    }
    return lifecycle.begun(instance, kind, dest, **(said | more))


def then(step: Step, *rest: Callable[[Instance, Migration], Step]) -> Step:
    """Go on with a move."""
    for go in rest:
        step = go(step.instance, moved(step))
    return step


def moved(step: Step) -> Migration:
    assert step.migration is not None
    return step.migration
