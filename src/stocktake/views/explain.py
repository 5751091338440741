"""
Why a number is what it is: the entries behind it and the arithmetic. Invariant: pure; what is recorded must follow from
them.

Every figure says what the record has, what its parts add up to, and whether the two agree.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from stocktake.errors import NotFound
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciRecord
from stocktake.model.topology import CellTake, NodeCell, NodePages, format_cpu_set
from stocktake.model.value import Value
from stocktake.views.quantities import count, nearest

_MIB_PER_GIB = 1024
Amount = int | str


# Figures whose unit is larger than their parts'.
_WHOLE_UNITS: Mapping[str, str] = {"local_gb_used": "GB", "free_disk_gb": "GB"}


class FigurePart(Value, frozen=True, kw_only=True):
    """One line of the sum: who, how much, why; `amount` is a number, or CPUs or addresses as text."""

    kind: str
    id: str
    name: str | None
    why: str
    amount: Amount


class Figure(Value, frozen=True, kw_only=True):
    """
    One number of a node's record.

    Attributes:
        unit: of the parts; `whole_unit` is the number's own.
        recorded: what the record has.
        sum: what the parts make of it; `agrees` says whether the two are the same.
        steps: the arithmetic from the parts to the number, a line each.
    """

    field: str
    unit: str
    whole_unit: str
    recorded: Amount
    sum: Amount
    agrees: bool
    parts: tuple[FigurePart, ...]
    steps: tuple[str, ...]


class Explained(Value, frozen=True, kw_only=True):
    """
    Why a node's numbers are what they are.

    Attributes:
        agrees: all figures do.
        entries: everybody who takes something.
    """

    uuid: str
    hypervisor_hostname: str
    agrees: bool
    figures: tuple[Figure, ...]
    entries: tuple[Entry, ...]


def explained(
    node: ComputeNode, entries: Sequence[Entry], devices: Sequence[PciRecord], field: str | None = None
) -> Explained:
    """
    Explain all figures of a node, or one.

    Raises:
        NotFound: there is no such figure; names the nearest, and those there are.
    """
    known = figures(node, entries, devices)
    if field is not None and field not in known:
        remedy = f"{nearest(field, list(known))} There are: {', '.join(known)}.".strip()
        raise NotFound(f"there is no field {field!r} to explain", where=node.hypervisor_hostname, remedy=remedy)
    chosen = tuple(known.values()) if field is None else (known[field],)
    return Explained(
        uuid=node.uuid,
        hypervisor_hostname=node.hypervisor_hostname,
        agrees=all(figure.agrees for figure in chosen),
        figures=chosen,
        entries=tuple(entries),
    )


def figures(node: ComputeNode, entries: Sequence[Entry], devices: Sequence[PciRecord]) -> Mapping[str, Figure]:
    """
    Explain every number that the entries make, by its field.

    Args:
        devices: the node's tracked PCI devices.
    """
    return {figure.field: figure for figure in _all(node, entries, devices)}


def _figure(
    field: str,
    unit: str,
    recorded: Amount,
    made: Amount,
    *,
    parts: Sequence[FigurePart],
    steps: tuple[str, ...] = (),
) -> Figure:
    return Figure(
        field=field,
        unit=unit,
        whole_unit=_WHOLE_UNITS.get(field, unit),
        recorded=recorded,
        sum=made,
        agrees=recorded == made,
        parts=tuple(parts),
        steps=steps,
    )


def _all(node: ComputeNode, entries: Sequence[Entry], devices: Sequence[PciRecord]) -> Iterator[Figure]:
    vcpus = _parts(entries, lambda entry: entry.vcpus)
    memory = _parts(entries, lambda entry: entry.memory_mb)
    disk = _parts(entries, lambda entry: entry.disk_mb)
    disk_gb, disk_step = _disk(disk)
    yield _summed("vcpus_used", "vCPUs", node.vcpus_used, vcpus)
    yield _summed("memory_mb_used", "MiB", node.memory_mb_used, memory)
    yield _figure("local_gb_used", "MiB", node.local_gb_used, disk_gb, parts=disk, steps=(disk_step,))
    total = ("memory_mb", node.memory_mb)
    yield _free("free_ram_mb", "MiB", node.free_ram_mb, total=total, parts=memory, used=_sum(memory))
    total = ("local_gb", node.local_gb)
    yield _free("free_disk_gb", "MiB", node.free_disk_gb, total=total, parts=disk, used=disk_gb, steps=(disk_step,))
    running = tuple(_part(entry, 1) for entry in entries if entry.kind == "instance")
    yield _summed("running_vms", "instances", node.running_vms, running)
    for cell in node.numa_topology.cells if node.numa_topology else ():
        yield from _cell(cell, entries)
    yield from _pci(node, entries, devices)


def _part(entry: Entry, amount: Amount) -> FigurePart:
    return FigurePart(kind=entry.kind, id=entry.id, name=entry.name, why=entry.why, amount=amount)


def _parts(entries: Sequence[Entry], amount: Callable[[Entry], int]) -> tuple[FigurePart, ...]:
    """Pick what counts; who takes nothing is left out."""
    return tuple(_part(entry, amount(entry)) for entry in entries if amount(entry))


def _sum(parts: Sequence[FigurePart]) -> int:
    return sum(part.amount for part in parts if isinstance(part.amount, int))


def _summed(field: str, unit: str, recorded: int, parts: tuple[FigurePart, ...]) -> Figure:
    return _figure(field, unit, recorded, _sum(parts), parts=parts)


def _disk(parts: Sequence[FigurePart]) -> tuple[int, str]:
    """Round disk up to whole GB, once, at the end."""
    total_mb = _sum(parts)
    total_gb = -(-total_mb // _MIB_PER_GIB)
    exact = f"{total_mb:,} MiB / 1,024 = {total_gb:,} GB"
    return total_gb, exact if total_mb % _MIB_PER_GIB == 0 else f"{exact}, rounded up"


def _free(
    field: str,
    unit: str,
    recorded: int,
    *,
    total: tuple[str, int],
    parts: tuple[FigurePart, ...],
    used: int,
    steps: tuple[str, ...] = (),
) -> Figure:
    name, amount = total
    made = amount - used
    return _figure(
        field, unit, recorded, made, parts=parts, steps=(*steps, f"{name} {amount:,} - used {used:,} = {made:,}")
    )


def _cell(cell: NodeCell, entries: Sequence[Entry]) -> Iterator[Figure]:
    """Explain a cell's CPUs, memory and pages."""
    name = f"numa.{cell.id}"
    yield _summed(f"{name}.cpu_usage", "vCPUs", cell.cpu_usage, _of_cell(entries, cell.id, lambda take: take.vcpus))
    memory = _of_cell(entries, cell.id, lambda take: take.memory_mb)
    yield _summed(f"{name}.memory_usage", "MiB", cell.memory_usage_mb, memory)
    takes = [(entry, take) for entry in entries for take in entry.cells if take.cell == cell.id and take.pinned_cpus]
    pinned = frozenset().union(*(take.pinned_cpus for _, take in takes))
    parts = tuple(_part(entry, format_cpu_set(take.pinned_cpus)) for entry, take in takes)
    yield _figure(f"{name}.pinned_cpus", "CPUs", format_cpu_set(cell.pinned_cpus), format_cpu_set(pinned), parts=parts)
    for pages in cell.pages:
        of_size = _of_cell(entries, cell.id, partial(_pages, pages))
        yield _summed(f"{name}.pages.{pages.size_kb}", f"pages of {pages.size_kb} KiB", pages.used, of_size)


def _pages(pages: NodePages, take: CellTake) -> int:
    return sum(taken.count for taken in take.pages if taken.size_kb == pages.size_kb)


def _of_cell(entries: Sequence[Entry], cell: int, amount: Callable[[CellTake], int]) -> tuple[FigurePart, ...]:
    return _parts(entries, lambda entry: sum(amount(take) for take in entry.cells if take.cell == cell))


def _pci(node: ComputeNode, entries: Sequence[Entry], devices: Sequence[PciRecord]) -> Iterator[Figure]:
    """Explain how many devices of a kind are free: all that are tracked, less those held, less those shut out."""
    kinds = sorted({(device.vendor_id, device.product_id) for device in devices})
    for vendor, product in kinds:
        alike = {
            device.address: device for device in devices if (device.vendor_id, device.product_id) == (vendor, product)
        }
        pools = [pool for pool in node.pci_device_pools if (pool.vendor_id, pool.product_id) == (vendor, product)]
        held = [(entry, [address for address in entry.pci if address in alike]) for entry in entries]
        parts = [_part(entry, " ".join(addresses)) for entry, addresses in held if addresses]
        taken = {address for _, addresses in held for address in addresses}
        others = [device for address, device in alike.items() if address not in taken and device.status != "available"]
        parts += [
            FigurePart(kind="device", id=device.address, name=None, why=_shut(device), amount=device.address)
            for device in others
        ]
        free = len(alike) - len(taken) - len(others)
        step = f"{count(len(alike), 'device')} - {len(taken)} held - {len(others)} shut out = {free} free"
        recorded = sum(pool.count for pool in pools)
        yield _figure(f"pci.{vendor}_{product}", "devices", recorded, free, parts=parts, steps=(step,))


def _shut(device: PciRecord) -> str:
    if device.instance_uuid is not None:
        return f"{device.status}, by {device.instance_uuid}"
    reasons = {"unavailable": "a VF of it is in use", "unclaimable": "its PF is in use"}
    return f"{device.status}: {reasons.get(device.status, 'see pci_devices')}"
