"""
Hypothesis strategies for whole nodes: what a hypervisor has, what a ledger promises, by which settings.

Numbers are small so that uuids, CPUs, devices and migrations collide often: that is where mistakes are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from stocktake.model.hypervisor import Guest, Host
from stocktake.model.pci import DeviceSpec, PciDevice, PciRecord
from stocktake.model.problem import Problem
from stocktake.model.rules import Rules
from stocktake.model.topology import GuestCell, GuestTopology, HostCell, HostPages, HostTopology
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext, NodeWork, Place

HOST, NODE = "cn-1", "cn-1.example.org"
HERE = (HOST, NODE)
PLACES = (HERE, HERE, ("cn-2", "cn-2.example.org"), (HOST, "cn-1-b"), ("cn-2", NODE), (None, None))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
UUIDS = tuple(f"00000000-0000-4000-8000-{number:012d}" for number in range(7))
# An instance that nothing else of a case names.
NEWCOMER = "00000000-0000-4000-8000-000000000099"
PAGE_SIZES_KB = (4, 2048, 1048576)
STATES = (
    ("active", None),
    ("resized", None),
    ("active", "rebooting"),
    ("active", "resize_prep"),
    ("active", "resize_finish"),
    ("active", "migrating"),
    ("active", "rebuilding"),
    ("paused", "migrating"),
    ("stopped", "resize_migrated"),
    ("resized", None),
    ("building", "spawning"),
    ("error", None),
    ("soft-delete", None),
    ("shelved", "shelving_image_uploading"),
    ("shelved_offloaded", None),
    ("shelved_offloaded", "spawning"),
    ("deleted", None),
)
STATUSES = ("migrating", "migrating", "finished", "finished", "post-migrating", "error", "confirmed", None)
TYPES = ("resize", "migration", "live-migration", "evacuation", None)


@dataclass(frozen=True, slots=True)
class Case:
    """Everything that one tally takes."""

    host: Host
    work: NodeWork
    rules: Rules


FLAVORS = st.builds(
    Flavor,
    id=st.sampled_from((1, 2)),
    vcpus=st.integers(0, 16),
    memory_mb=st.integers(0, 9000),
    root_gb=st.integers(0, 40),
    ephemeral_gb=st.integers(0, 3),
    swap_mb=st.sampled_from((0, 0, 1, 512, 1024, 1536)),
)


@st.composite
def host_topologies(draw: st.DrawFn) -> HostTopology:
    """One to three cells of neighbouring CPUs, some shared, some dedicated, in cores of one or two threads."""
    cells: list[HostCell] = []
    first = 0
    for number in range(draw(st.integers(1, 3))):
        shared, dedicated = draw(st.integers(0, 4)), draw(st.integers(0, 6))
        cpus = range(first, first + shared + dedicated)
        threads = draw(st.sampled_from((1, 2)))
        cells.append(
            HostCell(
                id=number,
                cpuset=frozenset(cpus[:shared]),
                pcpuset=frozenset(cpus[shared:]),
                memory_mb=draw(st.integers(0, 8192)),
                siblings=tuple(frozenset(cpus[at : at + threads]) for at in range(0, len(cpus), threads)),
                pages=tuple(
                    HostPages(size_kb=size, total=draw(st.integers(0, 10**6)), reserved=draw(st.integers(0, 9)))
                    for size in draw(st.permutations(PAGE_SIZES_KB))[: draw(st.integers(0, 3))]
                ),
                socket=draw(st.sampled_from((None, 0, 1))),
            )
        )
        first = cpus.stop
    return HostTopology(cells=tuple(cells))


CPUS = st.integers(0, 20)
GUEST_CELLS = st.builds(
    GuestCell,
    id=st.sampled_from((0, 0, 1, 2, 3)),
    cpuset=st.frozensets(st.integers(0, 7), max_size=4),
    pcpuset=st.frozensets(st.integers(0, 7), max_size=4),
    memory_mb=st.integers(0, 4096),
    pagesize_kb=st.sampled_from((None, None, *PAGE_SIZES_KB, 7)),
    cpu_pinning=st.none() | st.dictionaries(st.integers(0, 7), CPUS, max_size=4),
    cpu_policy=st.sampled_from((None, "shared", "dedicated", "dedicated", "mixed")),
    cpu_thread_policy=st.sampled_from((None, "prefer", "isolate", "require")),
    cpuset_reserved=st.none() | st.frozensets(CPUS, max_size=2),
)
GUEST_TOPOLOGIES = st.builds(GuestTopology, cells=st.lists(GUEST_CELLS, min_size=1, max_size=3).map(tuple))
PARENTS = ("0000:01:00.0", "0000:02:00.0")
DEVICES: tuple[PciDevice, ...] = (
    *(PciDevice(address=address, vendor_id="8086", product_id="1528", dev_type="type-PF") for address in PARENTS),
    *(
        PciDevice(
            address=f"{parent[:-4]}10.{number}",
            vendor_id="8086",
            product_id="1515",
            dev_type="type-VF",
            parent_addr=parent,
            numa_node=numa_node,
        )
        for parent in PARENTS
        for number, numa_node in enumerate((None, 0, 1))
    ),
    *(PciDevice(address=f"0000:05:0{slot}.0", vendor_id="10de", product_id="20b5") for slot in range(3)),
)
ADDRESSES = tuple(device.address for device in DEVICES)
SPECS = (
    DeviceSpec(),
    DeviceSpec(vendor_id="10de"),
    DeviceSpec(product_id="1515", tags={"physical_network": "physnet1"}),
    DeviceSpec(address=PARENTS[0], traits=frozenset({"CUSTOM_T"})),
)
TIMES = st.none() | st.integers(0, 5).map(lambda minute: NOON + timedelta(minutes=minute))


@st.composite
def pci_records(draw: st.DrawFn, holders: Sequence[str]) -> tuple[PciRecord, ...]:
    """Devices as a ledger may have them, consistent or not, each address once."""
    return tuple(
        PciRecord(
            address=device.address,
            vendor_id=device.vendor_id,
            product_id=device.product_id,
            dev_type=device.dev_type,
            parent_addr=device.parent_addr,
            status=draw(st.sampled_from(("claimed", "claimed", "allocated", "available", "removed", "unavailable"))),
            instance_uuid=draw(st.sampled_from((*holders, UUIDS[-1], None))),
        )
        for device in draw(st.lists(st.sampled_from(DEVICES), unique_by=lambda device: device.address, max_size=6))
    )


@st.composite
def instances(draw: st.DrawFn, uuid: str, *, here: bool = False) -> Instance:
    """An instance of any state, here or elsewhere, perhaps moving."""
    (host, node), (vm_state, task_state) = (
        HERE if here else draw(st.sampled_from(PLACES)),
        draw(st.sampled_from(STATES)),
    )
    some_addresses = st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True).map(tuple)
    context = st.builds(
        MigrationContext,
        migration_id=st.none() | st.integers(1, 5),
        old_numa_topology=st.none() | GUEST_TOPOLOGIES,
        new_numa_topology=st.none() | GUEST_TOPOLOGIES,
        old_pci_devices=some_addresses,
        new_pci_devices=some_addresses,
    )
    return Instance(
        uuid=uuid,
        name=draw(st.sampled_from((None, "vm"))),
        host=host,
        node=node,
        vm_state=vm_state,
        task_state=task_state,
        project_id=draw(st.sampled_from((None, "p", "q"))),
        os_type=draw(st.sampled_from((None, "linux"))),
        flavor=draw(FLAVORS),
        old_flavor=draw(st.none() | FLAVORS),
        new_flavor=draw(st.none() | FLAVORS),
        instance_type_id=draw(st.sampled_from((1, 2, None))),
        numa_topology=draw(st.none() | GUEST_TOPOLOGIES),
        volume_backed=draw(st.booleans()),
        migration_context=draw(st.none() | context),
        deleted=False if here else draw(st.sampled_from((False, False, False, True))),
    )


@st.composite
def migrations(draw: st.DrawFn, number: int, movers: Sequence[str]) -> Migration:
    """A migration of one of the instances, or of none that there is, between any two places."""
    source, dest = draw(st.sampled_from(PLACES)), draw(st.sampled_from(PLACES))
    return Migration(
        id=number,
        instance_uuid=draw(st.sampled_from((*movers, *movers, UUIDS[-1]))),
        migration_type=draw(st.sampled_from(TYPES)),
        status=draw(st.sampled_from(STATUSES)),
        source_compute=source[0],
        source_node=source[1],
        dest_compute=dest[0],
        dest_node=dest[1],
        old_instance_type_id=draw(st.sampled_from((1, 2, None))),
        new_instance_type_id=draw(st.sampled_from((1, 2, None))),
        created_at=draw(TIMES),
        updated_at=draw(TIMES),
        deleted=draw(st.sampled_from((False, False, False, True))),
    )


@st.composite
def guests(draw: st.DrawFn, uuid: str) -> Guest:
    """A domain, running or not."""
    active = draw(st.sampled_from((True, True, False)))
    return Guest(
        uuid=uuid,
        name=f"domain-{uuid[-1]}",
        state="running" if active else "shutoff",
        active=active,
        vcpus=draw(st.integers(0, 8)),
        memory_mb=draw(st.integers(0, 4096)),
        disk_mb=draw(st.integers(0, 5000)),
        numa=draw(st.none() | GUEST_TOPOLOGIES),
        pci_addresses=draw(st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True).map(tuple)),
    )


@st.composite
def hosts(draw: st.DrawFn) -> Host:
    """A verified host with some devices and, where its driver can list them, some guests."""
    uuids = draw(st.none() | st.lists(st.sampled_from(UUIDS), unique=True, max_size=4))
    devices = draw(st.lists(st.sampled_from(DEVICES), unique_by=lambda device: device.address, max_size=8))
    return Host(
        node=NODE,
        vcpus=draw(st.integers(0, 64)),
        memory_mb=draw(st.integers(0, 65536)),
        local_gb=draw(st.integers(0, 1000)),
        vcpus_used=0,
        memory_mb_used=0,
        local_gb_used=0,
        hypervisor_hostname=NODE,
        numa_topology=draw(st.none() | host_topologies()),
        pci_devices=tuple(devices),
        stats=draw(st.sampled_from((None, {}, {"uptime": "3 days"}))),
        guests=None if uuids is None else tuple(draw(guests(uuid)) for uuid in uuids),
        problems=draw(st.sampled_from(((), (Problem(code="used-negative", about="memory_mb_used", text="t"),)))),
    )


RATIOS = st.sampled_from((None, 0.0, 1.0, 2.5))
RULES = st.builds(
    Rules,
    host=st.just(HOST),
    reserved_host_memory_mb=st.integers(0, 2048),
    reserved_host_cpus=st.integers(0, 4),
    reserved_host_disk_mb=st.integers(0, 4096),
    cpu_allocation_ratio=RATIOS,
    ram_allocation_ratio=RATIOS,
    disk_allocation_ratio=RATIOS,
    device_specs=st.lists(st.sampled_from(SPECS), max_size=2).map(tuple),
    report_pci=st.booleans(),
)


def promised(
    every: Sequence[Instance], moves: Sequence[Migration], records: Sequence[PciRecord], seen: Sequence[Guest] | None
) -> NodeWork:
    """Pick what a ledger gives for the node."""
    touching = tuple(
        move for move in moves if HERE in {(move.source_compute, move.source_node), (move.dest_compute, move.dest_node)}
    )
    here = tuple(one for one in every if (one.host, one.node) == HERE and not one.deleted)
    named = {move.instance_uuid for move in touching}
    away: Mapping[str, Instance] = {one.uuid: one for one in every if one not in here}
    return NodeWork(
        instances=here,
        migrations=touching,
        moving={one.uuid: one for one in every if one.uuid in named},
        pci_devices=tuple(records),
        places={
            guest.uuid: Place(host=away[guest.uuid].host, node=away[guest.uuid].node, deleted=away[guest.uuid].deleted)
            for guest in seen or ()
            if guest.uuid in away
        },
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """A whole node: up to six instances and migrations of them, orphans, devices, cells."""
    host = draw(hosts())
    uuids = draw(st.lists(st.sampled_from(UUIDS[:6]), unique=True, max_size=6))
    every = [draw(instances(uuid)) for uuid in uuids]
    moves = [draw(migrations(number, uuids)) for number in range(1, draw(st.integers(0, 5)) + 1)]
    work = promised(every, moves, draw(pci_records(uuids)), host.guests)
    return Case(host=host, work=work, rules=draw(RULES))
