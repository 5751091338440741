"""Fleets to measure, and the floor of each: what must be read whoever reads it."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stocktake.cli.parts import close_parts, open_parts
from stocktake.clock import RandomIds, SystemClock
from stocktake.drivers.fleet import node_name
from stocktake.model.workload import Flavor, Instance
from stocktake.parts import Parts
from stocktake.settings import read_settings


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet: so many nodes, so many instances on each."""

    name: str
    nodes: int
    instances: int
    placement: str


@contextmanager
def prepared(case: Case, directory: Path) -> Iterator[Parts]:
    """Open the parts of a fleet whose instances are in the ledger; nothing is refreshed yet."""
    flags = {
        "host": "bench",
        "state_path": directory,
        "compute_driver": "fake",
        "fake": {"nodes": case.nodes, "guests": False},
        "placement": {"mode": case.placement},
    }
    clock, ids = SystemClock(), RandomIds()
    parts = open_parts(read_settings(None, {}, flags), clock, ids)
    flavor = Flavor(vcpus=1, memory_mb=512, root_gb=1)
    parts.ledger.put_instances(
        [
            Instance(
                uuid=ids.uuid(),
                host="bench",
                node=node_name(number, parts.settings.fake.prefix),
                vm_state="active",
                project_id=f"project-{index % 10}",
                flavor=flavor,
            )
            for number in range(case.nodes)
            for index in range(case.instances)
        ]
    )
    yield parts
    close_parts(parts)


def floor_of(parts: Parts) -> Callable[[], object]:
    """
    Give the bare calls of a pass: the rows by the database's own client, and the scheduler's list.

    What the rows mean is not worked out.
    """
    path = parts.settings.database.connection.removeprefix("sqlite:///")

    def floor() -> object:
        connection = sqlite3.connect(path)
        rows = [
            connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("compute_nodes", "instances", "migrations")
        ]
        connection.close()
        return rows, parts.scheduler.providers() if parts.settings.placement.mode != "none" else ()

    return floor
