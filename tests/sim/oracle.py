"""
What must hold after every healthy refresh, worked out from Nova's rules and from nothing of the program.

It reads what anybody can read: the ledger as it is exported (JSON lines), the fleet's file, and Placement's own
database. Nothing of stocktake is imported here, nor by what is imported here: `test_oracle.py` holds that.
Rules: docs/accounting.md.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.sim.placement_file import Provider

Row = Mapping[str, Any]
# Who takes how much: kind, holder, vCPUs, MiB, MiB of disk.
Share = tuple[str, str, int, int, int]

THEIRS = "CUSTOM_THEIRS"
RESERVED_MB = 512
SETTLED = {"confirmed", "reverted", "failed", "completed", "cancelled", "done"}
RESIZING = {
    "resize_prep",
    "resize_migrating",
    "resize_migrated",
    "resize_finish",
    "rebuilding",
    "rebuild_block_device_mapping",
    "rebuild_spawning",
}
GPU, VF = ("10de", "20b5"), ("8086", "1515")
TRAITS = {"COMPUTE_NODE", "COMPUTE_SAME_HOST_COLD_MIGRATE", "COMPUTE_IMAGE_TYPE_QCOW2"}


@dataclass(frozen=True)
class Books:
    """A ledger's rows as they were exported."""

    services: Mapping[str, Row]
    nodes: Mapping[str, Row]
    entries: Mapping[str, Sequence[Row]]
    instances: Mapping[str, Row]
    migrations: Sequence[Row]
    devices: Mapping[str, Sequence[Row]]


def books_of(lines: Iterable[Mapping[str, Any]]) -> Books:
    """Sort an export's lines into tables; nodes and migrations that are deleted are left out."""
    tables: dict[str, list[Mapping[str, Any]]] = {}
    for line in lines:
        tables.setdefault(line["table"], []).append(line)
    devices: dict[str, list[Row]] = {}
    for line in tables.get("pci_devices", ()):
        devices.setdefault(line["node_uuid"], []).append(line["row"])
    nodes = [line["row"] for line in tables.get("compute_nodes", ()) if line["deleted_at"] is None]
    assert len(nodes) == len({row["hypervisor_hostname"] for row in nodes}), "a node has one record"
    return Books(
        services={line["row"]["host"]: line["row"] for line in tables.get("services", ())},
        nodes={row["hypervisor_hostname"]: row for row in nodes},
        entries={line["node_uuid"]: line["entries"] for line in tables.get("compute_node_entries", ())},
        instances={line["row"]["uuid"]: line["row"] for line in tables.get("instances", ())},
        migrations=[line["row"] for line in tables.get("migrations", ()) if line["deleted_at"] is None],
        devices=devices,
    )


@dataclass(frozen=True)
class Case:
    """
    All that a check of one service looks at.

    Attributes:
        fleet: the nodes that its hypervisor has, by name, as its fleet's file has them.
        kept: names of nodes that are gone and that the pass said are kept.
        own: allocations are the services' to write; else they are somebody else's.
        unknown: who was given something by somebody else, by provider's name.
    """

    host: str
    books: Books
    fleet: Mapping[str, Row]
    kept: Collection[str]
    placement: Mapping[str, Provider]
    own: bool
    unknown: Mapping[str, set[str]]


Check = Callable[[Case], None]


@dataclass(frozen=True)
class Expected:
    """
    Who takes what of a node.

    Attributes:
        cells: the NUMA topology that each holder was given; none for those without one.
        consumers: under whose name Placement should have each share; None is nobody's.
        moving: instances that are counted by a migration.
        stale: ids of the migrations that should be in error.
    """

    shares: list[Share] = field(default_factory=list)
    cells: list[Row] = field(default_factory=list)
    consumers: dict[tuple[str, str], str | None] = field(default_factory=dict)
    counted: set[str] = field(default_factory=set)
    moving: set[str] = field(default_factory=set)
    stale: set[int] = field(default_factory=set)


def check(case: Case) -> None:
    """Check a service's nodes after a refresh that nothing disturbed."""
    listed = {name for name, node in case.fleet.items() if node.get("listed", True)}
    rows = {name for name, row in case.books.nodes.items() if row["host"] == case.host}
    assert rows == listed | set(case.kept), "the nodes that there are have a record, and no others"
    for name in sorted(listed):
        record = case.books.nodes[name]
        assert record["failure"] is None
        assert record["uuid"] == case.fleet[name]["resources"]["uuid"], "a machine keeps its uuid"
        expected = shares_of(case, name)
        check_entries(case, record, expected)
        check_cells(case, record, expected)
        check_devices(case, record, expected)
        if is_left_alone(case, record):
            continue
        check_inventories(case, record)
        check_traits(case, record)
        if case.own:
            check_own(case, record, expected)
        else:
            check_foreign(case, record)


# Who counts.


def shares_of(case: Case, name: str) -> Expected:
    """Work out who takes what of a node, by Nova's rules."""
    expected = Expected(shares=[("reserved", "host", 0, RESERVED_MB, 0)])
    migrations = in_play(case.books, case.host, name)
    for uuid, instance in case.books.instances.items():
        moves = [move for move in migrations if move["instance_uuid"] == uuid]
        here = (instance["host"], instance["node"]) == (case.host, name) and not instance["deleted"]
        if here or moves:
            count_instance(expected, instance, moves, (case.host, name), here=here and counts(instance))
    for guest in case.fleet[name]["guests"]:
        if guest["uuid"] in expected.counted | expected.moving:
            continue
        sizes = (guest["vcpus"], guest["memory_mb"], guest["disk_mb"]) if guest["active"] else (0, 0, 0)
        expected.shares.append(("unmanaged", guest["uuid"], *sizes))
        if guest["active"] and guest["numa"]:
            expected.cells.append(guest["numa"])
    return expected


def in_play(books: Books, host: str, name: str) -> list[Row]:
    """List the migrations from or to a node that are looked at."""
    return [
        move
        for move in books.migrations
        if move["status"] is not None
        and move["status"] not in SETTLED
        and (host, name) in ((move["source_compute"], move["source_node"]), (move["dest_compute"], move["dest_node"]))
    ]


def counts(instance: Row) -> bool:
    """Say whether an instance on its node counts."""
    state, task = instance["vm_state"], instance["task_state"]
    if instance["deleted"] or state == "deleted":
        return False
    return bool(state != "shelved_offloaded" or task == "spawning")


def moves(instance: Row) -> bool:
    """Say whether an instance is in a resize state, or live-migrating."""
    state, task = instance["vm_state"], instance["task_state"]
    return (
        state == "resized"
        or (state in ("active", "stopped") and task in RESIZING)
        or (state in ("active", "paused") and task == "migrating")
    )


def chosen(instance: Row, migrations: Sequence[Row]) -> Row | None:
    """Pick the one migration that counts: the one that the context names, else the one changed last."""
    named = (instance["migration_context"] or {}).get("migration_id")
    if named is not None:
        return next((move for move in migrations if move["id"] == named), None)
    by_birth = sorted(migrations, key=lambda move: (move["created_at"] or "", move["id"]))
    best: Row | None = None
    for move in by_birth:
        if best is None or changed(move) > changed(best):
            best = move
    return best


def changed(move: Row) -> str:
    """Say when a migration was changed last."""
    return move["updated_at"] or move["created_at"] or ""


def count_instance(
    expected: Expected, instance: Row, migrations: Sequence[Row], place: tuple[str, str], *, here: bool
) -> None:
    """Add what an instance takes of a place: as itself, as a move, as both, or nothing."""
    uuid = instance["uuid"]
    move = chosen(instance, migrations) if moves(instance) else None
    named = (instance["migration_context"] or {}).get("migration_id")
    if moves(instance) and named is not None:
        expected.stale.update(one["id"] for one in migrations if one["id"] != named)
    context = instance["migration_context"]
    if here:
        coming = any((one["dest_compute"], one["dest_node"]) == place for one in migrations)
        numa = context["new_numa_topology"] if coming and context else instance["numa_topology"]
        consumer = move["uuid"] if move and leaves(move, instance, place) else uuid
        add(expected, "instance", instance, instance["flavor"], numa=numa, consumer=consumer)
        expected.counted.add(uuid)
    if move is None:
        return
    source = (move["source_compute"], move["source_node"]) == place
    dest = (move["dest_compute"], move["dest_node"]) == place
    if here and not (source and dest):
        return
    new = leaves(move, instance, place) if source and dest else dest
    flavor = side_of(move, instance, new=new)
    if flavor is None and new and not source:
        flavor = instance["flavor"]
    if flavor is not None:
        numa = context and context["new_numa_topology" if new else "old_numa_topology"]
        add(expected, "migration", instance, flavor, numa=numa, consumer=uuid if new else move["uuid"])
        expected.moving.add(uuid)


def leaves(move: Row, instance: Row, place: tuple[str, str]) -> bool:
    """Say whether what an instance has at a place is the side that it leaves."""
    if (move["source_compute"], move["source_node"]) != place:
        return False
    if (move["dest_compute"], move["dest_node"]) != place:
        return True
    return bool(instance["instance_type_id"] == move["old_instance_type_id"])


def side_of(move: Row, instance: Row, *, new: bool) -> Row | None:
    """Give the flavor of one side of a migration."""
    ids_differ = move["old_instance_type_id"] != move["new_instance_type_id"]
    kind = move["migration_type"] or ("resize" if ids_differ else "migration")
    flavor: Row | None = instance["flavor"]
    if kind == "resize":
        flavor = instance["new_flavor" if new else "old_flavor"]
    return flavor


def add(expected: Expected, kind: str, instance: Row, flavor: Row, *, numa: Row | None, consumer: str | None) -> None:
    """Add a flavor's share."""
    root_gb = 0 if instance["volume_backed"] else flavor["root_gb"]
    disk_mb = (root_gb + flavor["ephemeral_gb"]) * 1024 + flavor["swap"]
    expected.shares.append((kind, instance["uuid"], flavor["vcpus"], flavor["memory_mb"], disk_mb))
    expected.consumers[kind, instance["uuid"]] = consumer
    if numa:
        expected.cells.append(numa)


# What is compared.


def check_entries(case: Case, record: Row, expected: Expected) -> None:
    """Entries are who should count, and the record is their sum, disk rounded up once."""
    kinds = {"orphan": "unmanaged", "misplaced": "unmanaged"}
    found = [
        (kinds.get(one["kind"], one["kind"]), one["id"], one["vcpus"], one["memory_mb"], one["disk_mb"])
        for one in case.books.entries[record["uuid"]]
    ]
    assert sorted(found) == sorted(expected.shares), record["hypervisor_hostname"]
    machine = case.fleet[record["hypervisor_hostname"]]["resources"]
    memory_mb, disk_mb = sum(share[3] for share in expected.shares), sum(share[4] for share in expected.shares)
    figures = {
        "vcpus": machine["vcpus"],
        "memory_mb": machine["memory_mb"],
        "local_gb": machine["local_gb"],
        "vcpus_used": sum(share[2] for share in expected.shares),
        "memory_mb_used": memory_mb,
        "local_gb_used": -(-disk_mb // 1024),
        "free_ram_mb": machine["memory_mb"] - memory_mb,
        "free_disk_gb": machine["local_gb"] + -disk_mb // 1024,
        "running_vms": len(expected.counted),
    }
    assert {name: record[name] for name in figures} == figures, record["hypervisor_hostname"]
    status = {move["id"]: move["status"] for move in case.books.migrations}
    assert {status[number] for number in expected.stale} <= {"error"}, "stale migrations are in error"


def check_cells(case: Case, record: Row, expected: Expected) -> None:
    """Every cell has what its guests were given; a host CPU is pinned once."""
    entries = case.books.entries[record["uuid"]]
    given = [cell for topology in expected.cells for cell in topology["cells"]]
    for cell in (record["numa_topology"] or {"cells": []})["cells"]:
        own = [one for one in given if one["id"] == cell["id"]]
        assert cell["cpu_usage"] == sum(len(one["cpuset"]) for one in own)
        assert cell["memory_usage"] == sum(one["memory"] for one in own)
        asked = {cpu for one in own for cpu in (one["cpu_pinning"] or {}).values()}
        there = set(cell["pcpuset"])
        assert set(cell["pinned_cpus"]) == asked & there
        takes = [take for one in entries for take in one["cells"] if take["cell"] == cell["id"]]
        assert sorted(cell["pinned_cpus"]) == sorted(cpu for take in takes for cpu in take["pinned_cpus"])
        used = Counter({page["size_kb"]: page["used"] for page in cell["mempages"]})
        smallest = min(page["size_kb"] for page in cell["mempages"])
        assert +used == +Counter({smallest: cell["memory_usage"] * 1024 // smallest})


def check_devices(case: Case, record: Row, expected: Expected) -> None:
    """Free ones are in pools, the others are somebody's who is there, and all that match are there."""
    name = record["hypervisor_hostname"]
    reported = {
        device["address"]
        for device in case.fleet[name]["resources"]["pci_passthrough_devices"]
        if (device["vendor_id"], device["product_id"]) in (GPU, VF)
    }
    devices = case.books.devices.get(record["uuid"], ())
    states = Counter(device["status"] for device in devices)
    assert sum(pool["count"] for pool in record["pci_device_pools"]) == states["available"]
    assert {device["address"] for device in devices if device["status"] != "removed"} == reported
    taken = [device for device in devices if device["status"] in ("claimed", "allocated", "removed")]
    assert len(taken) + states["available"] + states["unavailable"] + states["unclaimable"] == len(devices)
    assert all(device["instance_uuid"] is None for device in devices if device not in taken)
    here = {
        uuid
        for uuid, one in case.books.instances.items()
        if (one["host"], one["node"]) == (case.host, name) and not one["deleted"]
    }
    here |= {move["instance_uuid"] for move in in_play(case.books, case.host, name)}
    guests = {guest["uuid"]: guest for guest in case.fleet[name]["guests"] if guest["active"]}
    for device in taken:
        holder = device["instance_uuid"]
        assert holder in here or device["address"] in guests[holder]["pci_addresses"], device
        assert device["status"] != "claimed" or holder not in expected.counted, device
    entries = case.books.entries[record["uuid"]]
    held = Counter(address for one in entries for address in one["pci"])
    assert set(held.values()) <= {1}, "a device has one holder"
    assert held.keys() <= {device["address"] for device in taken}


def is_left_alone(case: Case, record: Row) -> bool:
    """Say whether others hold something of the node that the ledger does not know, and the node says so."""
    if not [one for one in record["problems"] if one["code"] == "placement-provider-not-ours"]:
        return False
    tree = [one for one in case.placement.values() if one.root_uuid == record["uuid"]]
    known = case.books.instances.keys() | {move["uuid"] for move in case.books.migrations}
    assert [one for one in tree if one.allocations.keys() - known], (
        "it is said not to be ours, and nobody else is there"
    )
    for one in tree:
        assert case.unknown.get(one.name, set()) <= one.allocations.keys(), f"{one.name}: what others hold stays"
    return True


def check_inventories(case: Case, record: Row) -> None:
    """Read Placement back: totals, reserves and ratios are the machine's; what is gone is gone, or used and closed."""
    name = record["hypervisor_hostname"]
    machine = case.fleet[name]["resources"]
    root = case.placement[name]
    assert root.uuid == record["uuid"]
    cells = (machine["numa_topology"] or {"cells": []})["cells"]
    dedicated = sum(len(cell["pcpuset"]) for cell in cells)
    wanted = {
        "VCPU": (machine["vcpus"] - dedicated, 0, record["cpu_allocation_ratio"]),
        "PCPU": (dedicated, 0, 1.0),
        "MEMORY_MB": (machine["memory_mb"], RESERVED_MB, record["ram_allocation_ratio"]),
        "DISK_GB": (machine["local_gb"], 0, record["disk_allocation_ratio"]),
    }
    compare(root, {kind: said for kind, said in wanted.items() if said[0]})
    children = {
        f"{name}_{device['address'].upper()}"
        for device in case.books.devices.get(record["uuid"], ())
        if device["status"] != "removed" and (device["vendor_id"], device["product_id"]) == GPU
    }
    below = {one.name for one in case.placement.values() if one.root_uuid == root.uuid} - {name}
    assert children <= below
    for child in children:
        compare(case.placement[child], {"CUSTOM_PCI_10DE_20B5": (1, 0, 1.0)})
    for extra in below - children:
        assert case.placement[extra].allocations, f"{extra} should be gone, and nobody uses it"


def compare(provider: Provider, wanted: Mapping[str, tuple[int, int, float]]) -> None:
    """Hold a provider's inventories to total, reserved and ratio."""
    for kind, (total, reserved, ratio) in wanted.items():
        shown = provider.inventories[kind]
        figures = (shown.total, shown.reserved, shown.max_unit, shown.allocation_ratio)
        assert figures == (total, reserved, total, ratio), (provider.name, kind)
    for kind in provider.inventories.keys() - wanted.keys():
        shown = provider.inventories[kind]
        assert shown.reserved == shown.total, f"{kind} of {provider.name} is left as it is in use, and closed"


def check_traits(case: Case, record: Row) -> None:
    """The machine's traits, ours, and what others put there."""
    name = record["hypervisor_hostname"]
    wanted = TRAITS | set(case.fleet[name]["resources"]["traits"])
    if case.books.services[case.host]["disabled"]:
        wanted = wanted | {"COMPUTE_STATUS_DISABLED"}
    assert case.placement[name].traits - {THEIRS} == wanted, name


def check_foreign(case: Case, record: Row) -> None:
    """Nobody was touched, a deleted instance neither."""
    for one in case.placement.values():
        if one.root_uuid == record["uuid"]:
            assert one.allocations.keys() == case.unknown.get(one.name, set()), one.name


def check_own(case: Case, record: Row, expected: Expected) -> None:
    """Whoever is counted holds what he should, unless there is no room; others only if unknown."""
    refused = {one["about"] for one in record["problems"] if one["code"] == "placement-allocation-refused"}
    wanted = wanted_of(case, record, expected)
    known = case.books.instances.keys() | {move["uuid"] for move in case.books.migrations}
    for one in case.placement.values():
        if one.root_uuid != record["uuid"]:
            continue
        unknown = case.unknown.get(one.name, set())
        assert unknown <= one.allocations.keys(), f"{one.name}: what others hold stays"
        assert one.allocations.keys() - unknown <= known
        found = {who: held for who, held in one.allocations.items() if who not in refused | unknown}
        should = {who: held[one.name] for who, held in wanted.items() if who not in refused and one.name in held}
        assert found == should, one.name
    for who in refused:
        assert who in wanted, f"{who} is refused what it should not have"
        assert not has_room(case, who, wanted[who]), f"{who} is refused, and there is room"


def wanted_of(case: Case, record: Row, expected: Expected) -> dict[str, dict[str, dict[str, int]]]:
    """Work out what each consumer should hold: amounts by class, by provider's name."""
    name = record["hypervisor_hostname"]
    classes = case.placement[name].inventories.keys() & set(record["owned_classes"])
    disks: dict[str, int] = {}
    wanted: dict[str, dict[str, dict[str, int]]] = {}
    gpus = {
        device["address"]: f"{name}_{device['address'].upper()}"
        for device in case.books.devices.get(record["uuid"], ())
        if device["status"] != "removed" and (device["vendor_id"], device["product_id"]) == GPU
    }
    for entry in case.books.entries[record["uuid"]]:
        who = expected.consumers.get((entry["kind"], entry["id"]))
        if who is None:
            continue
        disks[who] = disks.get(who, 0) + entry["disk_mb"]
        vcpus, pcpus = entry["vcpus"], 0
        if "PCPU" in classes and entry["cells"]:
            vcpus = sum(take["vcpus"] for take in entry["cells"])
            pcpus = sum(len(take["pinned_cpus"]) for take in entry["cells"])
        root = wanted.setdefault(who, {}).setdefault(name, {})
        for kind, amount in (("VCPU", vcpus), ("PCPU", pcpus), ("MEMORY_MB", entry["memory_mb"])):
            root[kind] = root.get(kind, 0) + amount
        root["DISK_GB"] = -(-disks[who] // 1024)
        for address in entry["pci"]:
            if address in gpus:
                wanted[who][gpus[address]] = {"CUSTOM_PCI_10DE_20B5": 1}
    for held in wanted.values():
        held[name] = {kind: amount for kind, amount in held[name].items() if amount and kind in classes}
    return {who: {at: amounts for at, amounts in held.items() if amounts} for who, held in wanted.items()}


def has_room(case: Case, who: str, wanted: Mapping[str, Mapping[str, int]]) -> bool:
    """Say whether Placement would take this consumer's whole allocation, what it holds elsewhere included."""
    asked: dict[str, Mapping[str, int]] = {
        one.name: one.allocations[who] for one in case.placement.values() if who in one.allocations
    }
    asked |= wanted
    for at, amounts in asked.items():
        provider = case.placement[at]
        for kind, amount in amounts.items():
            shown = provider.inventories.get(kind)
            if shown is None or amount > shown.max_unit:
                return False
            others = sum(held.get(kind, 0) for one, held in provider.allocations.items() if one != who)
            if others + amount > (shown.total - shown.reserved) * shown.allocation_ratio:
                return False
    return True
