"""What the ledger's tests put into it, and the clock they put it in by."""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import event

from stocktake.clock import SystemClock
from stocktake.ledger import DatabaseLedger, Ledger, NodeSave, open_ledger
from stocktake.model.books import ComputeNode, Entry, Metric, Tally
from stocktake.model.pci import PciPool, PciRecord
from stocktake.model.problem import Problem
from stocktake.model.topology import CellTake, GuestCell, GuestTopology, NodeCell, NodePages, NodeTopology, PagesTaken
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext

HOST = "kvm-1"
NODE = "kvm-1.example.org"
START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Stepped(SystemClock):
    """A clock that goes on by one second whenever it is asked."""

    def __init__(self) -> None:
        self.moment = START

    def now(self) -> datetime:
        """Give the next second."""
        self.moment += timedelta(seconds=1)
        return self.moment


@dataclass(slots=True)
class Counted:
    """Ids that count."""

    space: str = field(default_factory=lambda: uuid.uuid4().hex[:20])
    count: int = 0

    def uuid(self) -> str:
        """Give the next one."""
        self.count += 1
        return str(uuid.UUID(hex=f"{self.space}{self.count:012x}"))


IDS = Counted()


def opened(url: str, **options: Any) -> DatabaseLedger:
    """Open a ledger with the tests' clock and ids, impatient unless told."""
    return open_ledger(url, clock=Stepped(), ids=IDS, **({"wait_s": 5.0} | options))


def node(name: str = NODE, host: str = HOST, **fields: Any) -> ComputeNode:
    """Make a small record."""
    small: dict[str, Any] = {
        "vcpus": 8,
        "memory_mb": 16384,
        "local_gb": 100,
        "vcpus_used": 0,
        "memory_mb_used": 512,
        "local_gb_used": 0,
        "free_ram_mb": 15872,
        "free_disk_gb": 100,
        "cpu_allocation_ratio": 4.0,
        "ram_allocation_ratio": 1.0,
        "disk_allocation_ratio": 1.0,
    }
    return ComputeNode(**({"uuid": IDS.uuid(), "host": host, "hypervisor_hostname": name} | small | fields))


def full_node(name: str = NODE, host: str = HOST) -> ComputeNode:
    """Make a record with something in every field."""
    pages = NodePages(size_kb=4, total=1000, reserved=1, used=2)
    cell = NodeCell(
        id=0,
        cpuset=frozenset({1, 0}),
        pcpuset=frozenset({3, 2}),
        memory_mb=16384,
        siblings=(frozenset({0, 1}), frozenset({2, 3})),
        pages=(pages,),
        socket=0,
        cpu_usage=2,
        memory_usage_mb=512,
        pinned_cpus=frozenset({2}),
    )
    return node(
        name,
        host,
        host_ip="192.0.2.1",
        disk_available_least=-3,
        running_vms=2,
        current_workload=1,
        hypervisor_type="QEMU",
        hypervisor_version=7002000,
        cpu_info='{"model": "EPYC"}',
        supported_instances=(("x86_64", "kvm", "hvm"),),
        numa_topology=NodeTopology(cells=(cell,)),
        pci_device_pools=(PciPool(vendor_id="8086", product_id="1520", numa_node=None, count=3, tags={"a": "b"}),),
        stats={"num_instances": 2, "ratio": 0.5, "word": "ä \u2028", "flag": True, "none": None},
        metrics=(Metric(name="cpu.frequency", value=2400, timestamp=START, source="libvirt"),),
        traits=frozenset({"COMPUTE_NODE", "HW_CPU_X86_AVX"}),
        owned_traits=frozenset({"HW_CPU_X86_AVX"}),
        owned_classes=frozenset({"VCPU"}),
        problems=(Problem(code="a-b", about="x", text="wrong", remedy="Do.", severity="error"),),
        booted_at=START,
        entries_digest="abc",
        failure=Problem(code="c-d", about="y", text="away"),
    )


def entry(holder: str = "host") -> Entry:
    """Make one entry with something in every field."""
    take = CellTake(cell=0, vcpus=1, memory_mb=512, pinned_cpus=frozenset({2}), pages=(PagesTaken(size_kb=4, count=9),))
    return Entry(
        kind="instance",
        id=holder,
        name="n",
        why="it counts",
        vcpus=1,
        memory_mb=512,
        disk_mb=1,
        cells=(take,),
        pci=("a",),
    )


def instance(**fields: Any) -> Instance:
    """Make an instance on the tests' node."""
    small: dict[str, Any] = {
        "host": HOST,
        "node": NODE,
        "vm_state": "active",
        "flavor": Flavor(vcpus=2, memory_mb=1024, root_gb=10),
    }
    return Instance(**({"uuid": IDS.uuid()} | small | fields))


def full_instance(**fields: Any) -> Instance:
    """Make an instance with something in every field."""
    flavor = Flavor(
        id=7,
        name="m1",
        vcpus=2,
        memory_mb=1024,
        root_gb=10,
        ephemeral_gb=1,
        swap_mb=3,
        extra_specs={"hw:numa_nodes": "1"},
    )
    cells = GuestTopology(
        cells=(
            GuestCell(
                id=0,
                pcpuset=frozenset({0, 1}),
                memory_mb=1024,
                pagesize_kb=4,
                cpu_pinning={0: 2, 1: 3},
                cpu_policy="dedicated",
                cpu_thread_policy="isolate",
                cpuset_reserved=frozenset({4}),
            ),
        ),
        emulator_threads_policy="isolate",
    )
    everything: dict[str, Any] = {
        "name": "böx",
        "task_state": "resize_prep",
        "power_state": 1,
        "project_id": "p",
        "user_id": "u",
        "os_type": "linux",
        "flavor": flavor,
        "old_flavor": flavor,
        "new_flavor": replace(flavor, vcpus=4),
        "instance_type_id": 7,
        "numa_topology": cells,
        "volume_backed": True,
        "adopted": True,
        "migration_context": MigrationContext(
            migration_id=3, old_numa_topology=cells, new_numa_topology=cells, old_pci_devices=("0000:01:00.0",)
        ),
        "created_at": START,
        "updated_at": START + timedelta(hours=1),
    }
    return instance(**(everything | fields))


def migration(number: int, instance_uuid: str, **fields: Any) -> Migration:
    """Make a migration in play from the tests' node to another."""
    small: dict[str, Any] = {
        "status": "migrating",
        "migration_type": "resize",
        "source_compute": HOST,
        "source_node": NODE,
        "dest_compute": "kvm-2",
        "dest_node": "kvm-2.example.org",
    }
    ids: dict[str, Any] = {"id": number, "uuid": IDS.uuid(), "instance_uuid": instance_uuid}
    return Migration(**(ids | small | fields))


def device(address: str = "0000:01:00.0", **fields: Any) -> PciRecord:
    """Make a free device."""
    return PciRecord(
        **({"address": address, "vendor_id": "8086", "product_id": "1520", "dev_type": "type-PCI"} | fields)
    )


def first_save(record: ComputeNode, **tally: Any) -> NodeSave:
    """Make the save of a node that is not there yet."""
    whole: dict[str, Any] = {"node": record, "entries": ()} | tally
    return NodeSave(tally=Tally(**whole), expected_generation=None)


def saved(ledger: Ledger, record: ComputeNode | None = None, **tally: Any) -> ComputeNode:
    """Save a new node, and give it as it is then."""
    wanted = record or node()
    return ledger.save([first_save(wanted, **tally)]).saved[wanted.uuid]


def again(ledger: Ledger, record: ComputeNode, **tally: Any) -> Mapping[str, ComputeNode]:
    """Save a node that is there, from its generation."""
    one = replace(first_save(record, **tally), expected_generation=record.generation)
    return ledger.save([one]).saved


@contextmanager
def counting(ledger: DatabaseLedger) -> Iterator[list[tuple[str, Any]]]:
    """Gather the statements that a ledger sends, with their parameters."""
    sent: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    engine = ledger._database.engine
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def exported(ledger: DatabaseLedger) -> list[str]:
    """Give the whole ledger as lines."""
    lines: list[str] = []
    ledger.export(lines.append)
    return lines
