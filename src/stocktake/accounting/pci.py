"""
Step 6: PCI devices and who holds them. Invariant: pools plus held devices are all the devices, and none is in both.

Rules: docs/accounting.md, "PCI".
"""

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache

from stocktake.model.pci import DeviceSpec, DeviceStatus, PciDevice, PciPool, PciRecord
from stocktake.model.problem import Problem
from stocktake.model.value import replace

HELD: frozenset[DeviceStatus] = frozenset({"claimed", "allocated", "removed"})
Table = Mapping[str, PciRecord]


def matching(device: PciDevice, specs: Sequence[DeviceSpec]) -> DeviceSpec | None:
    """Find the first entry of device_spec that a device matches; a PF's exact address matches its VFs too."""
    return next((spec for spec in specs if _matches(device, spec)), None)


def tracked(
    devices: Sequence[PciDevice],
    saved: Sequence[PciRecord],
    specs: Sequence[DeviceSpec],
    *,
    provider_root: str | None = None,
) -> Table:
    """
    Bring the saved devices up to date with what the hypervisor has.

    Devices that match device_spec are tracked. One that is gone, or matches no longer, is dropped if it was free
    and kept as `removed` until it is freed if not.

    Args:
        provider_root: the root provider's name if devices are reported to the scheduler: it names their providers.
    """
    before = {record.address: record for record in saved}
    table: dict[str, PciRecord] = {}
    for device in devices:
        spec = matching(device, specs)
        if spec is not None:
            table[device.address] = _tracked(device, spec, before.get(device.address), provider_root)
    for address, record in before.items():
        if address not in table and record.status in HELD and record.instance_uuid is not None:
            table[address] = replace(record, status="removed")
    return table


def freed(table: Table, existing: AbstractSet[str], seen: AbstractSet[tuple[str, str]]) -> Table:
    """
    Give back what holders that no longer exist hold; what was removed meanwhile goes.

    Args:
        existing: uuids of the instances here and of those that move.
        seen: unmanaged guests, by uuid, and the address of each device that the hypervisor gives them now.
    """
    kept: dict[str, PciRecord] = {}
    for address, record in table.items():
        holder = record.instance_uuid
        if holder is None or holder in existing or (holder, address) in seen:
            kept[address] = record
        elif record.status != "removed":
            kept[address] = replace(record, status="available", instance_uuid=None, request_id=None)
    return kept


def allocated(table: Table, counted: AbstractSet[str]) -> Table:
    """Turn claimed into allocated for the holders that are counted."""
    return {
        address: replace(record, status="allocated")
        if record.status == "claimed" and record.instance_uuid in counted
        else record
        for address, record in table.items()
    }


def taken(table: Table, holder: str, addresses: Collection[str]) -> tuple[Table, tuple[Problem, ...]]:
    """Let an unmanaged guest hold the tracked devices that the hypervisor gave it."""
    after = dict(table)
    problems: list[Problem] = []
    for address in sorted(addresses):
        record = after.get(address)
        if record is None or record.instance_uuid == holder:
            continue
        if record.instance_uuid is not None:
            text = f"guest {holder} has PCI device {address}, which {record.instance_uuid} holds"
            problems.append(Problem(code="pci-device-taken", about=holder, text=text, severity="error"))
            continue
        after[address] = replace(record, status="allocated", instance_uuid=holder)
    return after, tuple(problems)


def excluded(table: Table) -> tuple[Table, tuple[Problem, ...]]:
    """
    Close off what a PF or VF in use excludes: a used PF its VFs, a used VF its PF.

    The excluded one is `unclaimable` while the other is claimed, `unavailable` once it is allocated.
    """
    used = {address: record for address, record in table.items() if record.status in HELD}
    by_parent: dict[str, list[PciRecord]] = {}
    for record in used.values():
        if record.dev_type == "type-VF" and record.parent_addr is not None:
            by_parent.setdefault(record.parent_addr, []).append(record)
    after: dict[str, PciRecord] = {}
    problems: list[Problem] = []
    for address, record in table.items():
        rivals = by_parent.get(address, []) if record.dev_type == "type-PF" else []
        if record.dev_type == "type-VF" and record.parent_addr in used:
            rivals = [used[record.parent_addr]]
        if rivals and address not in used:
            sure = any(rival.status != "claimed" for rival in rivals)
            after[address] = replace(record, status="unavailable" if sure else "unclaimable")
            continue
        after[address] = record
        if rivals and record.dev_type == "type-PF":
            held = ", ".join(sorted(rival.address for rival in rivals))
            text = f"PCI device {address} is held by {record.instance_uuid}, and its virtual functions {held} are too"
            problems.append(Problem(code="pci-function-conflict", about=address, text=text, severity="error"))
    return after, tuple(problems)


def pools(table: Table) -> tuple[PciPool, ...]:
    """Group the free devices that are alike; VFs are pooled per parent PF, and an empty pool is none."""
    counts: Counter[tuple[str, str, int | None, tuple[tuple[str, str], ...]]] = Counter()
    for record in table.values():
        if record.status == "available":
            tags = tuple(sorted(record.tags.items()))
            counts[record.vendor_id, record.product_id, record.numa_node, tags] += 1
    made = (
        PciPool(vendor_id=vendor, product_id=product, numa_node=numa_node, count=count, tags=dict(tags))
        for (vendor, product, numa_node, tags), count in counts.items()
    )
    return tuple(sorted(made, key=_pool_order))


def held_by(table: Table) -> dict[str, tuple[str, ...]]:
    """Index the addresses of held devices by their holder."""
    holders: dict[str, list[str]] = {}
    for address, record in sorted(table.items()):
        if record.instance_uuid is not None and record.status in HELD:
            holders.setdefault(record.instance_uuid, []).append(address)
    return {holder: tuple(addresses) for holder, addresses in holders.items()}


def provider_address(record: PciRecord | PciDevice) -> str:
    """Give the address that a device's pool and provider are named after: its PF's for a VF, else its own."""
    return record.parent_addr if record.dev_type == "type-VF" and record.parent_addr else record.address


def _tracked(device: PciDevice, spec: DeviceSpec, before: PciRecord | None, provider_root: str | None) -> PciRecord:
    status: DeviceStatus = "available"
    holder, request = None, None
    if before is not None and before.status in HELD and before.instance_uuid is not None:
        # A device that is back after it disappeared in use is in use.
        status = "allocated" if before.status == "removed" else before.status
        holder, request = before.instance_uuid, before.request_id
    return replace(
        PciRecord.of(device),
        status=status,
        instance_uuid=holder,
        request_id=request,
        resource_class=spec.resource_class,
        traits=spec.traits,
        physical_network=spec.tags.get("physical_network"),
        tags=_tags(device, spec, provider_root),
    )


def _pool_order(pool: PciPool) -> tuple[str, str, str, int, list[tuple[str, str]]]:
    """Order pools by all that tells them apart, so that the devices' order does not show."""
    numa_node = -1 if pool.numa_node is None else pool.numa_node
    return pool.tags.get("address", ""), pool.vendor_id, pool.product_id, numa_node, sorted(pool.tags.items())


def _tags(device: PciDevice, spec: DeviceSpec, provider_root: str | None) -> dict[str, str]:
    address = provider_address(device)
    tags = {**spec.tags, "dev_type": device.dev_type, "address": address}
    if device.dev_type != "type-PCI":
        # As in Nova, which says of every network function who manages it: this host, unless device_spec says otherwise.
        tags.setdefault("remote_managed", "false")
    # The network service's devices have no provider of ours to name.
    if provider_root is not None and not spec.tags.get("physical_network"):
        # Nova writes the address in upper case in a provider's name.
        tags["rp_name"] = f"{provider_root}_{address.upper()}"
    return tags


def _matches(device: PciDevice, spec: DeviceSpec) -> bool:
    if not _glob(spec.vendor_id, device.vendor_id) or not _glob(spec.product_id, device.product_id):
        return False
    if spec.address is None and not spec.address_parts:
        return True
    addresses = [device.address]
    exact = spec.address is not None and "*" not in spec.address
    if exact and device.dev_type == "type-VF" and device.parent_addr is not None:
        addresses.append(device.parent_addr)
    return any(_address_matches(address, spec) for address in addresses)


def _address_matches(address: str, spec: DeviceSpec) -> bool:
    parts = _parts(address)
    if spec.address_parts:
        named = zip(("domain", "bus", "slot", "function"), parts, strict=False)
        return all(part in spec.address_parts[name] for name, part in named if name in spec.address_parts)
    globs = _parts(spec.address or "*")
    if len(globs) < len(parts):
        globs = ("*",) * (len(parts) - len(globs)) + globs
    return all(_glob(pattern, part) for pattern, part in zip(globs, parts, strict=False))


# A machine has the same addresses at every refresh.
@lru_cache(maxsize=4096)
def _parts(address: str) -> tuple[str, ...]:
    """Split an address into domain, bus, slot and function."""
    return tuple(re.split("[:.]", address))


def _glob(pattern: str, text: str) -> bool:
    return pattern == "*" or pattern.lower() == text.lower()
