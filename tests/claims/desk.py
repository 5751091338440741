"""Two hosts to claim on, each with its context on one ledger, and what their books say when they are counted anew."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from stocktake.claims import Claimed, ClaimRules, Claims, Request
from stocktake.clock import RandomIds, SystemClock
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciAlias
from stocktake.model.topology import HostCell, HostPages, HostTopology
from stocktake.model.value import plain, replace
from stocktake.model.workload import Flavor, Instance
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.context import Fleet, context_of, database_of

HOSTS = ("alpha", "beta")
GPU = PciAlias(name="gpu", vendor_id="10de", product_id="20b5")
NIC = PciAlias(name="nic", vendor_id="8086", product_id="1515", device_type="type-VF")
ALIASES = (GPU, NIC)
SMALL = Flavor(vcpus=2, memory_mb=2048, root_gb=20)
LARGE = Flavor(vcpus=4, memory_mb=8192, root_gb=40)
DEVICE_SPEC = ({"vendor_id": "10de"}, {"vendor_id": "8086"})


def flavor(*, vcpus: int = 2, memory_mb: int = 2048, root_gb: int = 20, **specs: Any) -> Flavor:
    """Make a flavor; `hw_cpu_policy="dedicated"` is `hw:cpu_policy`, `pci="gpu:1"` asks for devices."""
    named = {"pci": "pci_passthrough:alias"}
    extra = {named.get(name) or name.replace("_", ":", 1): value for name, value in specs.items()}
    return Flavor(vcpus=vcpus, memory_mb=memory_mb, root_gb=root_gb, extra_specs=extra)


def two_cells() -> HostTopology:
    """Two cells of four shared and four dedicated CPUs, two threads a core, small pages and a GiB of large ones."""
    return HostTopology(
        cells=tuple(
            HostCell(
                id=number,
                cpuset=frozenset(range(first, first + 4)),
                pcpuset=frozenset(range(first + 4, first + 8)),
                memory_mb=32768,
                siblings=tuple(frozenset({core, core + 1}) for core in range(first, first + 8, 2)),
                pages=(HostPages(size_kb=4, total=8126464), HostPages(size_kb=2048, total=512)),
                socket=number,
            )
            for number, first in ((0, 0), (1, 8))
        )
    )


def devices() -> list[dict[str, Any]]:
    """A GPU near each cell, and a network card of two functions near the first."""
    parent = "0000:03:00.0"
    gpus = [
        {"address": f"0000:0{bus}:00.0", "vendor_id": "10de", "product_id": "20b5", "numa_node": bus - 1}
        for bus in (1, 2)
    ]
    functions = [
        {
            "address": f"0000:03:10.{number}",
            "vendor_id": "8086",
            "product_id": "1515",
            "dev_type": "type-VF",
            "parent_addr": parent,
            "numa_node": 0,
        }
        for number in (0, 1)
    ]
    return [*gpus, *functions]


class Time(SystemClock):
    """The machine's time, as much later as the test says."""

    def __init__(self) -> None:
        self.later = timedelta()

    def now(self) -> datetime:
        """Give the time."""
        return super().now() + self.later

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        self.later += timedelta(seconds=seconds)


@dataclass
class Desk:
    """
    Claims on two hosts that share a ledger.

    Attributes:
        context: of each host, by its name.
        fleets: what their hypervisors say.
    """

    context: Mapping[str, Context]
    fleets: Mapping[str, Fleet]
    claims: Claims
    clock: Time

    def node(self, host: str = "alpha") -> ComputeNode:
        """Give a host's record."""
        return self.context["alpha"].ledger.node(f"node-{host}")

    def entries(self, host: str = "alpha") -> dict[tuple[str, str], Entry]:
        """Give a host's entries by kind and holder, without what is reserved."""
        found = self.context["alpha"].ledger.entries(self.node(host).uuid)
        return {(entry.kind, entry.id): entry for entry in found if entry.kind != "reserved"}

    def refresh(self, *hosts: str) -> None:
        """Take stock of these hosts, or all."""
        for host in hosts or HOSTS:
            assert refresh(self.context[host]).fine

    def is_true(self) -> None:
        """Hold every record to a whole count: nothing of it may change."""
        for host in HOSTS:
            before, entries = self.node(host), self.entries(host)
            self.refresh(host)
            assert in_order(self.node(host)) == in_order(before)
            assert self.entries(host) == entries

    def built(self, host: str = "alpha", of: Flavor = SMALL, **more: Any) -> Instance:
        """Build a machine and keep it."""
        done = self.claims.build(f"node-{host}", Request(flavor=of, **more))
        assert isinstance(done, Claimed), done
        return self.claims.keep(done.instance.uuid).instance

    def instance(self, uuid: str) -> Instance:
        """Read an instance, deleted or not."""
        return next(one for one in self.context["alpha"].ledger.instances(deleted=True) if one.uuid == uuid)

    def holders(self, host: str = "alpha") -> dict[str, str]:
        """Say who holds which device."""
        node = self.node(host)
        with database_of(self.context["alpha"]).transaction() as books:
            found = books.devices([node.uuid])[node.uuid]
        return {record.address: record.instance_uuid for record in found if record.instance_uuid}


def in_order(node: ComputeNode) -> ComputeNode:
    """Leave out of a record what a refresh may change without its meaning anything."""
    problems = sorted(node.problems, key=lambda problem: (problem.code, problem.about, problem.text))
    return replace(node, generation=0, updated_at=None, problems=tuple(problems))


@contextmanager
def open_desk(
    tmp_path: Path, url: str, *, rules: ClaimRules | None = None, bare: bool = False, **settings: object
) -> Iterator[Desk]:
    """
    Open two hosts and refresh them once.

    Args:
        bare: without cells and devices.
    """
    clock = Time()
    with ExitStack() as stack:
        context: dict[str, Context] = {}
        fleets: dict[str, Fleet] = {}
        for host in HOSTS:
            folder = tmp_path / host
            folder.mkdir(exist_ok=True)
            special: dict[str, object] = {"vcpus": 8, "pcpus": 8}
            special |= {"numa_topology": plain(two_cells()), "pci_passthrough_devices": devices()}
            fleets[host] = Fleet(folder / "fleet.json").has(f"node-{host}", report={} if bare else special)
            given: dict[str, Any] = {
                "database": {"connection": url},
                "pci": {"device_spec": DEVICE_SPEC},
                "host": host,
                **settings,
            }
            context[host] = stack.enter_context(context_of(folder, clock=clock, **given))
        first = context["alpha"]
        claims = Claims(database_of(first), first.scheduler, rules or ClaimRules(aliases=ALIASES), clock, RandomIds())
        desk = Desk(context, fleets, claims, clock)
        desk.refresh()
        yield desk


Opened = Callable[..., Desk]
