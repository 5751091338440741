"""
Step 7b: PCI devices to child providers. Invariant: one provider a device, or a PF whose functions it counts.

Names, classes and traits are Nova's (`[pci]report_in_placement`): a provider is `<node>_<ADDRESS>`. What Nova refuses
(a PF beside its functions, functions that differ) is reported as well as the scheduler can say it, with a problem.
"""

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID, uuid5

from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem
from stocktake.model.provider import Inventory, Provider
from stocktake.placement.names import class_name, is_trait, trait_names

MANAGED_DEVICE = "COMPUTE_MANAGED_PCI_DEVICE"
_HELD = ("claimed", "allocated")


def child_uuid(root_uuid: str, name: str) -> str:
    """Give the uuid of a child provider of ours: always the same for the same root and name."""
    return str(uuid5(UUID(root_uuid), name))


def device_providers(
    root: Provider, devices: Iterable[PciRecord], owned_classes: frozenset[str], owned_traits: frozenset[str]
) -> tuple[tuple[Provider, ...], tuple[Problem, ...]]:
    """
    Make the child providers of a node's tracked devices, sorted by name.

    Devices that are gone, and those of a physical network (they are the network service's), have none.
    """
    problems: list[Problem] = []
    providers = []
    for address, chosen in _groups(devices, problems).items():
        name = _name(root.name, address)
        inventories = _inventories(chosen)
        traits, more = _traits(address, chosen)
        problems += more
        providers.append(
            Provider(
                uuid=child_uuid(root.uuid, name),
                name=name,
                parent_uuid=root.uuid,
                inventories=inventories,
                traits=traits,
                own_classes=owned_classes | inventories.keys(),
                own_traits=owned_traits | {MANAGED_DEVICE},
            )
        )
    return tuple(providers), tuple(problems)


def device_places(root_uuid: str, root_name: str, devices: Iterable[PciRecord]) -> Mapping[str, tuple[str, str]]:
    """Say, by a device's address, of which child provider (its uuid) and as what class it is sold, if it is."""
    return {
        device.address: (child_uuid(root_uuid, _name(root_name, address)), _class(device))
        for address, chosen in _groups(devices, []).items()
        for device in chosen
    }


def _groups(devices: Iterable[PciRecord], problems: list[Problem]) -> dict[str, Sequence[PciRecord]]:
    """Group the devices that are sold by the address that their provider is named after, in the order of those."""
    groups: dict[str, list[PciRecord]] = {}
    for device in devices:
        if device.status == "removed" or device.physical_network is not None:
            continue
        groups.setdefault(_place(device, problems), []).append(device)
    result: dict[str, Sequence[PciRecord]] = {}
    for address, group in sorted(groups.items()):
        result[address], found = _chosen(address, sorted(group, key=lambda device: device.address))
        problems += found
    return result


def _name(root_name: str, address: str) -> str:
    return f"{root_name}_{address.upper()}"


def _place(device: PciRecord, problems: list[Problem]) -> str:
    """Give the address that the device's provider is named after."""
    if device.dev_type != "type-VF":
        return device.address
    if device.parent_addr is not None:
        return device.parent_addr
    text = f"virtual function {device.address} does not say which device it is a part of: it is reported by itself"
    problems.append(Problem(code="pci-function-without-parent", about=device.address, text=text))
    return device.address


def _chosen(address: str, group: Sequence[PciRecord]) -> tuple[Sequence[PciRecord], list[Problem]]:
    """
    Choose between a PF and its functions where both are tracked: they exclude each other, a provider can't say so.

    The functions, unless the whole device is in use.
    """
    whole = [device for device in group if device.address == address]
    parts = [device for device in group if device.address != address]
    if not whole or not parts:
        return group, []
    held = any(device.status in _HELD for device in whole)
    names = ", ".join(device.address for device in parts)
    text = (
        f"device {address} and its functions {names} are all in device_spec: the scheduler is told of "
        f"{'the whole device, which is in use' if held else 'the functions'} only"
    )
    remedy = "Match either the physical function or its virtual functions in device_spec."
    problem = Problem(code="pci-device-and-functions", about=address, text=text, remedy=remedy)
    return (whole if held else parts), [problem]


def _inventories(devices: Sequence[PciRecord]) -> dict[str, Inventory]:
    """Count the devices of each class; a device is never sold twice, and what an operator reserved stays so."""
    counts: dict[str, int] = {}
    for device in devices:
        name = _class(device)
        counts[name] = counts.get(name, 0) + 1
    return {
        name: Inventory(total=count, max_unit=count, reserved_is_initial=True) for name, count in sorted(counts.items())
    }


def _class(device: PciRecord) -> str:
    return class_name(device.resource_class or f"CUSTOM_PCI_{device.vendor_id}_{device.product_id}")


def _traits(address: str, devices: Sequence[PciRecord]) -> tuple[frozenset[str], list[Problem]]:
    """Give the traits that every one of a provider's devices has: one that some lack would promise too much."""
    each = [trait_names(device.traits) for device in devices]
    common = frozenset.intersection(*each)
    problems = []
    if len({_class(device) for device in devices}) > 1 or any(traits != common for traits in each):
        names = ", ".join(f"{device.address} {_class(device)}" for device in devices)
        text = f"the functions of {address} differ in class or traits ({names}): only traits that all have are reported"
        remedy = "Give all functions of one device the same resource_class and traits in device_spec."
        problems.append(Problem(code="pci-functions-differ", about=address, text=text, remedy=remedy))
    assert all(is_trait(name) for name in common)
    return common | {MANAGED_DEVICE}, problems
