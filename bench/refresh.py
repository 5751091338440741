"""A refresh of fleets, the first and a steady one, and the floor of each: what must be read whoever reads it."""

import resource
import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from stocktake.cli.session import open_context
from stocktake.clock import RandomIds, SystemClock
from stocktake.drivers.fake.fleet import node_name
from stocktake.model.workload import Flavor, Instance
from stocktake.refresh.cache import RefreshCache
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.settings import read_settings

RUNS = 7


@dataclass(frozen=True, slots=True)
class Case:
    """A fleet: so many nodes, so many instances on each."""

    name: str
    nodes: int
    instances: int
    target_ms: float


CASES = (
    Case("1 node, 1,000 instances, steady", nodes=1, instances=1000, target_ms=20),
    Case("1,000 nodes x 1 instance, steady", nodes=1000, instances=1, target_ms=150),
    Case("10,000 nodes x 1 instance, steady", nodes=10_000, instances=1, target_ms=2000),
)


def measured(directory: Path) -> list[dict[str, str | float]]:
    """Measure every case, each in a process of its own: Placement can be embedded once in a process."""
    folders = [directory / str(number) for number in range(len(CASES))]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        return list(pool.map(_measured, CASES, folders))


def _measured(case: Case, folder: Path) -> dict[str, str | float]:
    folder.mkdir()
    with prepared(case, folder) as context:
        cache = RefreshCache()
        first_ms = _ms(lambda: refresh(context, cache=cache))
        refresh(context, cache=cache)
        steady: list[float] = []
        floor: list[float] = []
        for _ in range(RUNS):
            steady.append(_ms(lambda: refresh(context, cache=cache)))
            floor.append(_ms(floor_of(context)))
    median, least = statistics.median(steady), statistics.median(floor)
    return {
        "case": case.name,
        "first_ms": round(first_ms),
        "steady_ms": round(median, 1),
        "floor_ms": round(least, 1),
        "ratio": round(median / least, 1),
        "target_ms": case.target_ms,
        # Linux tells KiB.
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


@contextmanager
def prepared(case: Case, directory: Path) -> Iterator[Context]:
    """Open the context of a fleet whose instances are in the ledger; nothing is refreshed yet."""
    flags = {
        "host": "bench",
        "state_path": directory,
        "compute_driver": "fake",
        "fake": {"nodes": case.nodes, "guests": False},
        "placement": {"mode": "embedded"},
    }
    clock, ids = SystemClock(), RandomIds()
    context = open_context(read_settings(None, {}, flags), clock, ids)
    flavor = Flavor(vcpus=1, memory_mb=512, root_gb=1)
    context.ledger.put_instances(
        [
            Instance(
                uuid=ids.uuid(),
                host="bench",
                node=node_name(number, context.settings.fake.prefix),
                vm_state="active",
                project_id=f"project-{index % 10}",
                flavor=flavor,
            )
            for number in range(case.nodes)
            for index in range(case.instances)
        ]
    )
    yield context
    context.close()


def floor_of(context: Context) -> Callable[[], object]:
    """
    Give the bare calls of a pass: the rows by the database's own client, and the scheduler's list.

    What the rows mean is not worked out.
    """
    path = context.settings.database.connection.removeprefix("sqlite:///")

    def floor() -> object:
        connection = sqlite3.connect(path)
        rows = [
            connection.execute(f"SELECT * FROM {table}").fetchall()
            for table in ("compute_nodes", "instances", "migrations")
        ]
        connection.close()
        return rows, context.scheduler.providers() if context.settings.placement.mode != "none" else ()

    return floor
