"""
Claims per second on one node, from one process; and what a claim costs with allocations of our own.

The floor is what any implementation must write: the instance's row and the node's, by the database's own client; with
own allocations one PUT to Placement.
"""

import sqlite3
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stocktake.claims import Claimed, Claims, Request
from stocktake.claims.opening import claims_with
from stocktake.cli.session import open_context
from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import DatabaseLedger
from stocktake.model.provider import Allocation
from stocktake.model.workload import Flavor
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.settings import read_settings

SMALL = Request(flavor=Flavor(vcpus=1, memory_mb=64, root_gb=1))
CLAIMS = 1000
OWN_CLAIMS = 100


def measured(directory: Path) -> list[dict[str, str | float]]:
    """Claim on an empty node until it has 1,000 instances; then with own allocations, beside bare PUTs in turn."""
    return [_foreign(directory / "foreign"), _own(directory / "own")]


def _foreign(directory: Path) -> dict[str, str | float]:
    with _opened(directory, placement="none", allocations="foreign") as (context, claims, node):
        taken = [_ms(lambda: _claim(claims, node)) for _ in range(CLAIMS)]
        floor = _floor_ms(Path(context.settings.database.connection.removeprefix("sqlite:///")))
    return _row("claims on one node, allocations foreign", taken, floor)


def _own(directory: Path) -> dict[str, str | float]:
    with _opened(directory, placement="embedded", allocations="own") as (context, claims, node):
        _claim(claims, node)
        taken: list[float] = []
        floor: list[float] = []
        for _ in range(OWN_CLAIMS):
            taken.append(_ms(lambda: _claim(claims, node)))
            floor.append(_ms(_put(context, node)))
    return _row("claims on one node, allocations own", taken, statistics.median(floor))


def _claim(claims: Claims, node: str) -> None:
    assert isinstance(claims.build(node, SMALL), Claimed)


def _put(context: Context, node: str) -> Callable[[], object]:
    """Make the bare request that allocates for a new consumer."""
    held = {node: {"VCPU": 1, "MEMORY_MB": 64, "DISK_GB": 1}}
    allocation = Allocation(consumer=context.ids.uuid(), resources=held)
    return lambda: context.scheduler.allocate([allocation])


def _floor_ms(path: Path) -> float:
    """Write as much as a claim does with the database's own client: a row for the instance and one changed."""
    connection = sqlite3.connect(path, isolation_level=None)
    taken = []
    for _ in range(CLAIMS):
        begun = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("SELECT * FROM compute_nodes").fetchall()
        connection.execute("INSERT INTO compute_node_entries VALUES ('floor', 'instance', ?, '{}')", (str(begun),))
        connection.execute("UPDATE compute_nodes SET vcpus_used = vcpus_used + 1")
        connection.execute("COMMIT")
        taken.append((time.perf_counter() - begun) * 1000)
    connection.close()
    return statistics.median(taken)


def _row(name: str, taken: list[float], floor_ms: float) -> dict[str, str | float]:
    ordered = sorted(taken)
    median = statistics.median(ordered)
    return {
        "case": name,
        "per_second": round(1000 / statistics.mean(ordered)),
        "p50_ms": round(median, 2),
        "p99_ms": round(ordered[len(ordered) * 99 // 100], 2),
        "floor_ms": round(floor_ms, 2),
        "ratio": round(median / floor_ms, 2),
    }


def _ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


@contextmanager
def _opened(directory: Path, *, placement: str, allocations: str) -> Iterator[tuple[Context, Claims, str]]:
    """One node of a size that nothing is refused on, taken stock of once."""
    directory.mkdir()
    flags = {
        "host": "bench",
        "state_path": directory,
        "compute_driver": "fake",
        "fake": {"nodes": 1, "guests": False},
        "placement": {"mode": placement},
        "allocations": allocations,
    }
    clock, ids = SystemClock(), RandomIds()
    context = open_context(read_settings(None, {}, {**flags, "cpu_allocation_ratio": 1000.0}), clock, ids)
    refresh(context)
    (node,) = context.ledger.nodes()
    ledger = context.ledger
    assert isinstance(ledger, DatabaseLedger)
    yield context, claims_with(context.settings, ledger, context.scheduler, clock, ids), node.uuid
    context.close()
