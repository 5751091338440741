"""
Step 6 for one instance: the record that a node has once that instance counts otherwise. Invariant: what `tally` would
give.

A claim changes one instance, and a node may have a thousand: that one's entries go out of the sums, and its new ones
come in. What only a whole count can see, a guest that was in the way of another, the next refresh sees.

Rules: docs/accounting.md, "Claims".
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from hashlib import blake2b

import msgspec

from stocktake.accounting import numa, pci, stats
from stocktake.accounting.instance_usage import MIB_PER_GIB, Holding
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem, ordered
from stocktake.model.value import replace

_OVERFULL = "cell-overfull"
# What a count says of an instance. What the hypervisor's own report says of its guest stays as it is.
_OF_A_COUNT = frozenset(
    {
        "flavor-missing",
        "guest-cell-unknown",
        "guest-exceeds-flavor",
        "instance-without-guest",
        "page-size-unknown",
        "pci-device-taken",
        "pinned-cpu-taken",
        "pinned-cpu-unknown",
    }
)


def placed(node: ComputeNode, holdings: Sequence[Holding]) -> tuple[tuple[Entry, ...], tuple[Problem, ...]]:
    """
    Make entries of holdings, placed on cells one after another; who comes first has a CPU that two ask for.

    Args:
        node: the record without what these holders had of it before.

    Returns:
        The entries, and what could not be placed.
    """
    cells = numa.Cells(node.numa_topology)
    entries: list[Entry] = []
    problems: list[Problem] = []
    for holding in holdings:
        takes, refused = cells.place(holding.entry.id, holding.numa)
        problems.extend(refused)
        entries.append(replace(holding.entry, cells=takes, pci=holding.pci) if takes or holding.pci else holding.entry)
    return tuple(entries), tuple(problems)


def with_entries(node: ComputeNode, gone: Sequence[Entry], come: Sequence[Entry]) -> ComputeNode:
    """Make the record that a node has once some entries are gone and others have come; problems stay as they are."""
    vcpus_used = node.vcpus_used + sum(entry.vcpus for entry in come) - sum(entry.vcpus for entry in gone)
    memory_mb_used = node.memory_mb_used + sum(entry.memory_mb for entry in come)
    memory_mb_used -= sum(entry.memory_mb for entry in gone)
    disk_mb_used = node.disk_mb_used + sum(entry.disk_mb for entry in come) - sum(entry.disk_mb for entry in gone)
    # Rounded up to whole GiB, as `tally` does.
    local_gb_used = -(-disk_mb_used // MIB_PER_GIB)
    workload = stats.current_workload(come) - stats.current_workload(gone)
    machines = sum(entry.kind == "instance" for entry in come) - sum(entry.kind == "instance" for entry in gone)
    return replace(
        node,
        vcpus_used=vcpus_used,
        memory_mb_used=memory_mb_used,
        local_gb_used=local_gb_used,
        disk_mb_used=disk_mb_used,
        free_ram_mb=node.memory_mb - memory_mb_used,
        free_disk_gb=node.local_gb - local_gb_used,
        running_vms=node.running_vms + machines,
        current_workload=node.current_workload + workload,
        numa_topology=numa.shifted(node.numa_topology, gone, come),
        stats=stats.adjusted(node.stats, gone, come),
        entries_digest=digest(come, base=node.entries_digest, gone=gone),
    )


def judged(node: ComputeNode, uuid: str, found: Sequence[Problem]) -> ComputeNode:
    """
    Give a record its problems after an instance was counted anew.

    Args:
        uuid: the instance's; what a count said of it before is said anew, or over.
    """
    kept = [problem for problem in node.problems if not _is_over(problem, uuid)]
    cells = numa.overfull(node.numa_topology, cpu_ratio=node.cpu_allocation_ratio, ram_ratio=node.ram_allocation_ratio)
    after = (*kept, *cells, *found)
    if set(after) == set(node.problems):
        return node
    return replace(node, problems=ordered(after))


def with_devices(table: pci.Table, uuid: str, keep: Collection[str], take: Mapping[str, str]) -> pci.Table:
    """
    Let an instance hold other devices of a node.

    Args:
        keep: addresses of those that it goes on to hold; the others that it holds are free.
        take: addresses of free devices that it claims now, to the alias that asked for each.
    """
    after: dict[str, PciRecord] = {}
    for address, record in table.items():
        if record.instance_uuid == uuid and address not in keep:
            # One that is gone from the host is dropped.
            if record.status != "removed":
                after[address] = replace(record, status="available", instance_uuid=None, request_id=None)
        elif address in take:
            assert record.status == "available", "only a free device is claimed"
            after[address] = replace(record, status="claimed", instance_uuid=uuid, request_id=take[address])
        elif record.status in pci.HELD:
            after[address] = record
        else:
            after[address] = replace(record, status="available")
    excluded, _ = pci.excluded(after)
    return excluded


def _is_over(problem: Problem, uuid: str) -> bool:
    """Say whether a problem is said anew, if it still is one."""
    return problem.code == _OVERFULL or (problem.about == uuid and problem.code in _OF_A_COUNT)


_ENCODER = msgspec.json.Encoder(order="deterministic")
_BYTES = 16
_MASK = (1 << 8 * _BYTES) - 1


def digest(come: Iterable[Entry], *, base: str = "", gone: Iterable[Entry] = ()) -> str:
    """
    Add up the digests of entries, whatever their order, as 32 hexadecimal digits.

    Args:
        base: the digest of what is there already; empty for nothing.
        gone: entries that were in `base` and are no longer.
    """
    total = int(base, 16) if base else 0
    total += sum(map(_of, come)) - sum(map(_of, gone))
    return f"{total & _MASK:0{2 * _BYTES}x}"


def _of(entry: Entry) -> int:
    return int.from_bytes(blake2b(_ENCODER.encode(entry), digest_size=_BYTES).digest())
