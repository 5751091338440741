"""
Step 6: the entries of a node, and the record that is their sum. Invariant: a record is made by adding its
entries to one that has none.

Rules: docs/accounting.md. Pure: the hypervisor's facts and the ledger's promises in, record and entries out.
"""

from collections.abc import Mapping, Sequence

from stocktake.accounting import migrations as migrations_
from stocktake.accounting import numa, orphans, pci, stats
from stocktake.accounting.incremental import placed, with_entries
from stocktake.accounting.instance_usage import Holding, Share, holdings_of, share_of
from stocktake.model.books import ComputeNode, Entry, Tally
from stocktake.model.hypervisor import Guest, Host
from stocktake.model.problem import Problem, ordered
from stocktake.model.rules import Rules
from stocktake.model.value import Value, replace
from stocktake.model.workload import Instance, Migration, NodeWork


class Headcount(Value, frozen=True, kw_only=True):
    """Who counts on the node, before anything is added up: by the instances' uuids, then the guests."""

    shares: tuple[Share, ...]
    guests: tuple[Guest, ...]
    problems: tuple[Problem, ...]


def tally(host: Host, work: NodeWork, rules: Rules, *, uuid: str) -> Tally:
    """
    Add up one node.

    Args:
        uuid: the node's, for a new record; a saved record keeps its own.

    Returns:
        The record with generation and times of the saved one, its entries, and what else is to be saved.
    """
    if host.inventories is not None:
        rules = rules.for_whole()
    counted = _counted(host, work, rules)
    table, pci_problems = _pci_table(host, work, rules, counted)
    bare = _bare(host, work, rules, uuid=uuid)
    entries, place_problems = placed(bare, (_reserved(rules), *_holdings(counted, work, table)))
    # Our own names win over a driver's.
    node = with_entries(replace(bare, stats={}), (), entries)
    found = numa.overfull(node.numa_topology, cpu_ratio=node.cpu_allocation_ratio, ram_ratio=node.ram_allocation_ratio)
    problems = (*host.problems, *counted.problems, *pci_problems, *place_problems, *found)
    node = replace(
        node,
        pci_device_pools=pci.pools(table),
        problems=ordered(problems),
        stats={**bare.stats, **node.stats},
    )
    stale = tuple(sorted(id_ for share in counted.shares for id_ in share.stale))
    records = tuple(record for _, record in sorted(table.items()))
    return Tally(node=node, entries=entries, stale_migrations=stale, pci_devices=records)


def _counted(host: Host, work: NodeWork, rules: Rules) -> Headcount:
    """Decide who counts: instances, moves of instances, then guests of neither."""
    moves: dict[str, list[Migration]] = {}
    for migration in work.migrations:
        if migrations_.in_play(migration):
            moves.setdefault(migration.instance_uuid, []).append(migration)
    here = {instance.uuid: instance for instance in work.instances}
    known = {**{uuid: work.moving[uuid] for uuid in moves if uuid in work.moving}, **here}
    shares = tuple(
        share_of(known[uuid], moves.get(uuid, ()), rules.host, host.node, here=uuid in here) for uuid in sorted(known)
    )
    uuids = {share.counted.uuid for share in shares if share.counted}
    uuids |= {share.move.instance.uuid for share in shares if share.move}
    problems = [problem for share in shares for problem in share.problems]
    if host.guests is not None:
        guests = {guest.uuid: guest for guest in host.guests}
        problems.extend(_drift([share.counted for share in shares if share.counted], guests))
    return Headcount(shares=shares, guests=orphans.unmanaged(host.guests or (), uuids), problems=tuple(problems))


def _pci_table(host: Host, work: NodeWork, rules: Rules, counted: Headcount) -> tuple[pci.Table, tuple[Problem, ...]]:
    """Bring the devices up to date: who still exists keeps his, what is counted is allocated."""
    existing = {instance.uuid for instance in work.instances}
    existing |= {migration.instance_uuid for migration in work.migrations if migrations_.in_play(migration)}
    active = [guest for guest in counted.guests if guest.active]
    seen = {(guest.uuid, address) for guest in active for address in guest.pci_addresses}
    sure = {share.counted.uuid for share in counted.shares if share.counted}
    sure |= {share.move.instance.uuid for share in counted.shares if share.move and share.move.allocates}
    root = host.hypervisor_hostname if rules.report_pci else None
    table = pci.tracked(host.pci_devices, work.pci_devices, rules.device_specs, provider_root=root)
    table = pci.allocated(pci.freed(table, existing, seen), sure)
    problems: list[Problem] = []
    for guest in active:
        table, more = pci.taken(table, guest.uuid, guest.pci_addresses)
        problems.extend(more)
    table, more = pci.excluded(table)
    return table, (*problems, *more)


def _holdings(counted: Headcount, work: NodeWork, table: pci.Table) -> list[Holding]:
    """Make everybody's entry: instances, moves, guests, each by uuid, however they came in."""
    held = pci.held_by(table)
    here = {instance.uuid: instance for instance in work.instances}
    holdings: list[Holding] = []
    for share in counted.shares:
        uuid = share.counted.uuid if share.counted else share.move.instance.uuid if share.move else ""
        holdings.extend(holdings_of(share, held.get(uuid, ())))
    # Stable: by uuid they are already.
    holdings.sort(key=lambda holding: holding.entry.kind != "instance")
    for guest in counted.guests:
        entry = orphans.of_guest(guest, here, work.places)
        wanted = guest.numa if guest.active else None
        holdings.append(Holding(entry=entry, numa=wanted, pci=held.get(guest.uuid, ())))
    return holdings


def _reserved(rules: Rules) -> Holding:
    return Holding(
        entry=Entry(
            kind="reserved",
            id="host",
            why="kept for the host itself (reserved_host_cpus, reserved_host_memory_mb, reserved_host_disk_mb)",
            vcpus=rules.reserved_host_cpus,
            memory_mb=rules.reserved_host_memory_mb,
            disk_mb=rules.reserved_host_disk_mb,
        )
    )


def _bare(host: Host, work: NodeWork, rules: Rules, *, uuid: str) -> ComputeNode:
    """Make the record of a node that nothing is allocated of."""
    before = work.record
    return ComputeNode(
        uuid=before.uuid if before else uuid,
        host=rules.host,
        hypervisor_hostname=host.hypervisor_hostname,
        host_ip=host.host_ip,
        vcpus=host.vcpus,
        memory_mb=host.memory_mb,
        local_gb=host.local_gb,
        vcpus_used=0,
        memory_mb_used=0,
        local_gb_used=0,
        free_ram_mb=host.memory_mb,
        free_disk_gb=host.local_gb,
        disk_available_least=host.disk_available_least,
        cpu_allocation_ratio=_ratio(
            rules.cpu_allocation_ratio,
            before.cpu_allocation_ratio if before else None,
            rules.initial_cpu_allocation_ratio,
        ),
        ram_allocation_ratio=_ratio(
            rules.ram_allocation_ratio,
            before.ram_allocation_ratio if before else None,
            rules.initial_ram_allocation_ratio,
        ),
        disk_allocation_ratio=_ratio(
            rules.disk_allocation_ratio,
            before.disk_allocation_ratio if before else None,
            rules.initial_disk_allocation_ratio,
        ),
        hypervisor_type=host.hypervisor_type,
        hypervisor_version=host.hypervisor_version,
        cpu_info=host.cpu_info,
        supported_instances=host.supported_instances,
        numa_topology=numa.unused(host.numa_topology),
        stats=stats.kept(host.stats, before.stats if before else {}),
        metrics=host.metrics,
        owned_traits=before.owned_traits if before else frozenset(),
        owned_classes=before.owned_classes if before else frozenset(),
        booted_at=host.booted_at,
        generation=before.generation if before else 0,
        created_at=before.created_at if before else None,
        updated_at=before.updated_at if before else None,
    )


def _ratio(configured: float | None, saved: float | None, initial: float) -> float:
    """A configured ratio holds from the first record on; unset (None or 0), a saved record keeps its own."""
    return configured or saved or initial


def _drift(counted: Sequence[Instance], guests: Mapping[str, Guest]) -> list[Problem]:
    """Compare the settled instances with what the hypervisor really has of them."""
    problems: list[Problem] = []
    for instance in counted:
        guest = guests.get(instance.uuid)
        if instance.task_state is not None or instance.vm_state != "active":
            continue
        name = instance.name or instance.uuid
        if guest is None:
            text = f"{name} is active in the ledger, and the hypervisor has no such guest"
            remedy = f"It still counts. Bring the guest back, or `stocktake instances --delete {instance.uuid}`."
            problems.append(Problem(code="instance-without-guest", about=instance.uuid, text=text, remedy=remedy))
        elif guest.active and (guest.vcpus > instance.flavor.vcpus or guest.memory_mb > instance.flavor.memory_mb):
            text = (
                f"{name} runs with {guest.vcpus} vCPUs and {guest.memory_mb} MiB, "
                f"and has {instance.flavor.vcpus} and {instance.flavor.memory_mb} allocated"
            )
            problems.append(Problem(code="guest-exceeds-flavor", about=instance.uuid, text=text))
    return problems
