"""What must hold after every healthy refresh, worked out by other means than the program's where that is possible."""

from collections import Counter
from collections.abc import Collection
from typing import Any

from stocktake.drivers.fake.fleet import DEVICE_SPEC
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.hypervisor import Host, HostView, Survey
from stocktake.model.pci import PciRecord
from stocktake.model.value import replace
from stocktake.model.workload import Instance
from stocktake.placement.desired_allocations import wanted
from stocktake.placement.overrides import overrides_for
from stocktake.refresh.context import Context, Pass
from stocktake.refresh.locked import books_of
from stocktake.report.save import Books, changed
from stocktake.verify import verify
from tests.sim.world import THEIRS, Service, World


def check(world: World, service: Service, result: Pass) -> None:
    """Check a service's nodes after a refresh that nothing disturbed."""
    assert result.fine, (result.failed, result.unsynced)
    context = service.context
    listed = [name for name, node in service.fleet.nodes.items() if node.get("listed", True)]
    assert result.nodes.keys() == set(listed)
    rows = Counter(row.hypervisor_hostname for row in context.ledger.nodes(host=service.host))
    assert rows == Counter(listed) | Counter(result.kept.keys())
    providers = world.there.providers()
    for name in listed:
        record = context.ledger.node(name)
        assert record == result.nodes[name]
        assert record.failure is None
        books = fresh_books(context, name)
        assert not changed(books.tally.node, record), "the record is what a fresh tally of the ledger gives"
        entries = context.ledger.entries(record.uuid)
        assert entries == books.tally.entries
        check_sums(record, entries)
        check_holders(service, name, entries)
        devices = context.ledger.work(service.host, (name,), {})[name].pci_devices
        check_devices(service, name, record, devices)
        check_placement(world, providers, books)
        if world.own:
            check_own(world, context, record, books)
        else:
            check_foreign(world, books)


def fresh_books(context: Context, name: str) -> Books:
    """Tally a node anew from what the ledger and the driver say now."""
    survey = context.driver.survey((name,))[name]
    assert isinstance(survey, Survey)
    report = {**survey.report, "cpu_info": encoded(survey.report["cpu_info"])}
    view = HostView(node=name, report=report, guests=survey.guests, host_ip=context.settings.my_ip)
    host = verify(view)
    assert isinstance(host, Host)
    guests = {name: frozenset(guest.uuid for guest in host.guests or ())}
    work = context.ledger.work(context.rules.host, (name,), guests)[name]
    service = context.ledger.service(context.rules.host)
    assert service is not None
    assert work.record is not None
    uuid = work.record.uuid
    overrides = overrides_for(context.overrides, host.hypervisor_hostname, uuid)
    return books_of(host, work, context.rules, overrides, uuid=uuid, disabled=service.disabled)


def encoded(cpu_info: object) -> object:
    from stocktake.audit import stamped

    return stamped({"cpu_info": cpu_info})["cpu_info"]


def check_sums(record: ComputeNode, entries: Collection[Entry]) -> None:
    """The record is the sum of its entries, disk rounded up once; and so is every cell."""
    assert record.vcpus_used == sum(entry.vcpus for entry in entries)
    assert record.memory_mb_used == sum(entry.memory_mb for entry in entries)
    assert record.local_gb_used == -(-sum(entry.disk_mb for entry in entries) // 1024)
    assert record.free_ram_mb == record.memory_mb - record.memory_mb_used
    assert record.free_disk_gb == record.local_gb - record.local_gb_used
    takes = [take for entry in entries for take in entry.cells]
    for cell in record.numa_topology.cells if record.numa_topology else ():
        own = [take for take in takes if take.cell == cell.id]
        assert cell.cpu_usage == sum(take.vcpus for take in own)
        assert cell.memory_usage_mb == sum(take.memory_mb for take in own)
        pinned = [cpu for take in own for cpu in take.pinned_cpus]
        assert sorted(cell.pinned_cpus) == sorted(pinned), "a CPU is pinned once"
        for pages in cell.pages:
            counts = [taken.count for take in own for taken in take.pages if taken.size_kb == pages.size_kb]
            assert pages.used == sum(counts)


def counts(instance: Instance) -> bool:
    """Say whether an instance counts, by the rules' own words."""
    if instance.deleted or instance.vm_state == "deleted":
        return False
    return instance.vm_state != "shelved_offloaded" or instance.task_state == "spawning"


def check_holders(service: Service, name: str, entries: Collection[Entry]) -> None:
    """Every counted instance has one entry, every guest that nobody promised has one, and so has the reserve."""
    kinds: dict[str, list[str]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry.id)
    instances = service.context.ledger.instances(host=service.host, node=name)
    counted = {one.uuid for one in instances if counts(one)}
    assert sorted(kinds.get("instance", [])) == sorted(counted)
    moves = kinds.get("migration", [])
    assert len(moves) == len(set(moves))
    guests = {guest["uuid"] for guest in service.fleet.nodes[name]["guests"]}
    unmanaged = kinds.get("orphan", []) + kinds.get("misplaced", [])
    assert sorted(unmanaged) == sorted(guests - counted - set(moves))
    assert kinds["reserved"] == ["host"]


def check_devices(service: Service, name: str, record: ComputeNode, devices: Collection[PciRecord]) -> None:
    """Free ones are in pools, the others are held or closed off, and all that match are there."""
    resources = service.fleet.nodes[name]["resources"]
    wanted = {(spec["vendor_id"], spec["product_id"]) for spec in DEVICE_SPEC}
    reported = {
        device["address"]
        for device in resources["pci_passthrough_devices"]
        if (device["vendor_id"], device["product_id"]) in wanted
    }
    states = Counter(device.status for device in devices)
    assert sum(pool.count for pool in record.pci_device_pools) == states["available"]
    assert {device.address for device in devices if device.status != "removed"} == reported
    held = [device for device in devices if device.status in ("claimed", "allocated", "removed")]
    assert len(held) + states["available"] + states["unavailable"] + states["unclaimable"] == len(devices)
    assert all(device.instance_uuid is not None for device in held)
    assert all(device.instance_uuid is None for device in devices if device not in held)


def check_placement(world: World, providers: dict[str, Any], books: Books) -> None:
    """Read Placement back and compare it with what it should hold; what others put there is still there."""
    tree = books.tree
    below = {name for name, one in providers.items() if one["root_provider_uuid"] == tree.root.uuid}
    for extra in below - {provider.name for provider in tree.providers}:
        assert world.there.consumers(extra), f"{extra} should be gone, and nobody uses it"
    for provider in tree.providers:
        assert provider.name in below
        found = world.there.inventories(provider.name)
        for kind, stock in provider.inventories.items():
            shown = found.pop(kind)
            assert (shown["total"], shown["reserved"], shown["max_unit"]) == (
                stock.total,
                stock.reserved,
                stock.max_unit,
            )
            assert shown["allocation_ratio"] == stock.allocation_ratio
        assert all(shown["reserved"] == shown["total"] for shown in found.values()), (
            "what is left is in use, and closed"
        )
        assert world.there.traits(provider.name) - {THEIRS} == provider.traits


def check_foreign(world: World, books: Books) -> None:
    """Nobody was touched, a deleted instance neither."""
    for provider in books.tree.providers:
        assert world.there.consumers(provider.name) == world.held.get(provider.name, set())


def check_own(world: World, context: Context, record: ComputeNode, books: Books) -> None:
    """Whoever is counted holds what he should, unless it is refused; of the others only strangers hold anything."""
    refused = {problem.about for problem in record.problems if problem.code == "placement-allocation-refused"}
    classes = frozenset(name for provider in books.tree.providers for name in provider.inventories)
    record = replace(record, owned_classes=classes)
    shares = wanted(record, books.tally.entries, books.tally.pci_devices, report_pci=True)
    for provider in books.tree.providers:
        found = world.there.held(provider.name)
        strangers = world.held.get(provider.name, set())
        assert {who: amounts for who, amounts in found.items() if who not in refused and who not in strangers} == {
            who: held[provider.uuid] for who, held in shares.items() if who not in refused and provider.uuid in held
        }
        assert strangers <= found.keys()
        assert context.ledger.known_consumers(found.keys() - strangers) == found.keys() - strangers
