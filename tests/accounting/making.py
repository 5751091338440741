"""Small hosts, instances and moves to tally: what a case does not name is the plainest there is."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta

from stocktake.accounting.tally import tally
from stocktake.model.books import Entry, Tally
from stocktake.model.hypervisor import Guest, Host
from stocktake.model.pci import PciDevice
from stocktake.model.rules import Rules
from stocktake.model.topology import GuestCell, GuestTopology, HostCell, HostPages, HostTopology
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration, NodeWork

HOST, NODE, NODE_UUID = "cn-1", "cn-1.example.org", "00000000-0000-4000-8000-0000000000ff"
ELSEWHERE = ("cn-2", "cn-2.example.org")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RULES = Rules(host=HOST)
SMALL = Flavor(id=1, name="small", vcpus=2, memory_mb=2048, root_gb=20)
LARGE = Flavor(id=2, name="large", vcpus=8, memory_mb=8192, root_gb=80)


def uuid_of(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012d}"


def minutes(number: int) -> datetime:
    return NOON + timedelta(minutes=number)


def a_host(**changes: object) -> Host:
    host = Host(
        node=NODE,
        vcpus=16,
        memory_mb=65536,
        local_gb=1000,
        vcpus_used=0,
        memory_mb_used=0,
        local_gb_used=0,
        hypervisor_hostname=NODE,
    )
    return replace(host, **changes)


def two_cells(**changes: object) -> HostTopology:
    """Two cells of four shared (0-3, 8-11) and four dedicated CPUs, two threads a core, 4 KiB and 2 MiB pages."""
    return HostTopology(cells=tuple(replace(a_cell(number), **changes) for number in (0, 1)))


def a_cell(number: int) -> HostCell:
    first = number * 8
    return HostCell(
        id=number,
        cpuset=frozenset(range(first, first + 4)),
        pcpuset=frozenset(range(first + 4, first + 8)),
        memory_mb=32768,
        siblings=tuple(frozenset({core, core + 1}) for core in range(first, first + 8, 2)),
        pages=(HostPages(size_kb=4, total=6291456), HostPages(size_kb=2048, total=4096, reserved=96)),
        socket=number,
    )


def an_instance(number: int = 1, **changes: object) -> Instance:
    instance = Instance(
        uuid=uuid_of(number),
        name=f"vm-{number}",
        host=HOST,
        node=NODE,
        vm_state="active",
        project_id="p",
        os_type="linux",
        flavor=SMALL,
        instance_type_id=SMALL.id,
    )
    return replace(instance, **changes)


def a_migration(number: int = 1, *, of: int = 1, **changes: object) -> Migration:
    """Make a resize of instance `of` from elsewhere to this node."""
    migration = Migration(
        id=number,
        uuid=uuid_of(9000 + number),
        instance_uuid=uuid_of(of),
        migration_type="resize",
        status="migrating",
        source_compute=ELSEWHERE[0],
        source_node=ELSEWHERE[1],
        dest_compute=HOST,
        dest_node=NODE,
        old_instance_type_id=SMALL.id,
        new_instance_type_id=LARGE.id,
        created_at=minutes(number),
    )
    return replace(migration, **changes)


def outgoing(migration: Migration) -> Migration:
    return replace(migration, source_compute=HOST, source_node=NODE, dest_compute=ELSEWHERE[0], dest_node=ELSEWHERE[1])


def same_host(migration: Migration) -> Migration:
    return replace(migration, source_compute=HOST, source_node=NODE, dest_compute=HOST, dest_node=NODE)


def a_resize(number: int = 1, *, away: bool = True, **changes: object) -> Instance:
    """Make an instance in a resize state, small to large; away from this node unless said otherwise."""
    place: Mapping[str, object] = {"host": ELSEWHERE[0], "node": ELSEWHERE[1]} if away else {}
    said = {"task_state": "resize_migrating", "old_flavor": SMALL, "new_flavor": LARGE, **place, **changes}
    return an_instance(number, **said)


def a_guest(number: int = 1, **changes: object) -> Guest:
    guest = Guest(
        uuid=uuid_of(number),
        name=f"domain-{number}",
        state="running",
        active=True,
        vcpus=2,
        memory_mb=2048,
        disk_mb=20480,
    )
    return replace(guest, **changes)


def a_device(address: str = "0000:01:00.0", **changes: object) -> PciDevice:
    return replace(PciDevice(address=address, vendor_id="8086", product_id="1515"), **changes)


def pinned(pins: Mapping[int, int], *, cell: int = 0, **changes: object) -> GuestTopology:
    """Make a guest of one cell whose vCPUs are pinned."""
    made = GuestCell(id=cell, pcpuset=frozenset(pins), memory_mb=1024, cpu_pinning=dict(pins), cpu_policy="dedicated")
    return GuestTopology(cells=(replace(made, **changes),))


def floating(vcpus: int = 2, *, cell: int = 0, **changes: object) -> GuestTopology:
    made = GuestCell(id=cell, cpuset=frozenset(range(vcpus)), memory_mb=1024)
    return GuestTopology(cells=(replace(made, **changes),))


def work(instances: Iterable[Instance] = (), migrations: Iterable[Migration] = (), **more: object) -> NodeWork:
    """Sort rows as a ledger does: instances on this node, and those that migrations name."""
    every, moves = tuple(instances), tuple(migrations)
    named = {migration.instance_uuid for migration in moves}
    made = NodeWork(
        instances=tuple(one for one in every if (one.host, one.node) == (HOST, NODE) and not one.deleted),
        migrations=moves,
        moving={one.uuid: one for one in every if one.uuid in named},
    )
    return replace(made, **more)


def count(host: Host | None = None, promised: NodeWork | None = None, rules: Rules = RULES) -> Tally:
    return tally(host or a_host(), promised or NodeWork(), rules, uuid=NODE_UUID)


def entries_of(books: Tally, kind: str) -> dict[str, Entry]:
    return {entry.id: entry for entry in books.entries if entry.kind == kind}


def codes(books: Tally) -> list[str]:
    return [problem.code for problem in books.node.problems]
