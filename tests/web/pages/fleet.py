"""A fleet with something of everything, for people to look at: full and empty nodes, a silent host, a disabled one."""

import contextlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from stocktake.claims import Claimed, Claims, Request
from stocktake.claims.opening import claims_with
from stocktake.clock import RandomIds, SystemClock
from stocktake.drivers.fake.fleet import DEVICE_SPEC, GPU
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.model.books import ComputeNode
from stocktake.model.problem import Problem
from stocktake.model.workload import Flavor
from stocktake.placement.opening import open_scheduler
from stocktake.settings import read_settings
from tests.servers.fleets import stocked

UP, SILENT, DISABLED = "compute-1", "compute-2", "compute-3"
SIZES = {UP: 24, SILENT: 8, DISABLED: 8}
# Long enough for any test: the agents of these hosts do not run.
DOWN_S = 3600
REASON = "new kernel"
AWAY = Problem(
    code="DriverUnreachable",
    about="qemu:///system",
    text="no answer within 5 s",
    remedy="Check that libvirtd runs; the node keeps its last record, marked stale.",
    severity="error",
)
# How much of what memory a node has left is promised besides, in hundredths; by the node's place, in turn.
_FILL = (0, 35, 60, 97, 20, 75, 88)


class Earlier(SystemClock):
    """A clock that is hours late."""

    def now(self) -> datetime:
        return super().now() - timedelta(hours=3)


@contextlib.contextmanager
def books_of(directory: Path, url: str) -> Iterator[tuple[DatabaseLedger, Claims]]:
    """Open a ledger and what makes claims in it."""
    clock, ids = SystemClock(), RandomIds()
    given = {"placement.mode": "none", "state_path": directory, "pci.alias": [{"name": "gpu", **DEVICE_SPEC[0]}]}
    settings = read_settings(None, environ={}, overrides=given)
    with contextlib.ExitStack() as opened:
        ledger = open_ledger(url, clock=clock, ids=ids)
        opened.callback(ledger.close)
        scheduler = open_scheduler(settings.placement, clock, state_path=directory)
        opened.callback(scheduler.close)
        yield ledger, claims_with(settings, ledger, scheduler, clock, ids)


def fill(directory: Path, url: str) -> None:
    """Make the fleet."""
    for host, size in SIZES.items():
        clock = Earlier() if host == SILENT else None
        stocked(directory, url, host=host, nodes=size, clock=clock, pci={"device_spec": list(DEVICE_SPEC)})
    with books_of(directory, url) as (ledger, claims):
        ledger.set_service(DISABLED, disabled=True, reason=REASON)
        nodes = ledger.nodes()
        for number, node in enumerate(nodes):
            share = _FILL[number % len(_FILL)]
            if share:
                _claim(claims, node, memory_mb=node.free_ram_mb * share // 100 // 1024 * 1024)
        for node in nodes:
            if any(cell.pcpuset for cell in node.numa_topology.cells) if node.numa_topology else False:
                for _ in range(3):
                    _claim(claims, node, vcpus=4, memory_mb=256, extra_specs={"hw:cpu_policy": "dedicated"})
            if any((pool.vendor_id, pool.product_id) == GPU for pool in node.pci_device_pools):
                _claim(claims, node, memory_mb=256, extra_specs={"pci_passthrough:alias": "gpu:1"})
        ledger.note_failures({named(ledger, "compute-1-00007").uuid: AWAY})


def named(ledger: DatabaseLedger, name: str) -> ComputeNode:
    """Read a node."""
    return ledger.node(name)


def _claim(claims: Claims, node: ComputeNode, *, vcpus: int = 2, memory_mb: int, **more: object) -> None:
    flavor = Flavor(vcpus=vcpus, memory_mb=memory_mb, root_gb=10, **more)  # type: ignore[arg-type]  # of the tests
    made = claims.build(node.uuid, Request(name=f"db-{node.hypervisor_hostname[-2:]}", flavor=flavor))
    assert isinstance(made, Claimed), made
