"""
Step 7b: a node's books to the provider tree that the scheduler should hold. Invariant: pure, and only names that are
ours.

Rules: docs/accounting.md, "Placement inventory of a node". Traits that others put on a provider are not named here.
Which capabilities become traits is Nova 34's: what a flavor or an image may ask for by trait must mean the same here.
PCI devices are child providers, one each, or a PF whose functions it counts; their names, classes and traits are Nova's
(`[pci]report_in_placement`): a provider is `<node>_<ADDRESS>`. What Nova refuses (a PF beside its functions, functions
that differ) is reported as well as the scheduler can say it, with a problem.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from uuid import UUID, uuid5

from stocktake.accounting.capacity import cpu_totals
from stocktake.model.books import Tally
from stocktake.model.hypervisor import Host
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem
from stocktake.model.provider import Inventory, Provider, ProviderTree
from stocktake.model.rules import Rules
from stocktake.model.value import replace, shared
from stocktake.placement.names import class_name, is_custom, is_standard_class, is_trait, trait_names
from stocktake.placement.overrides import NodeOverrides, ProviderOverride

TRAIT_OF_CAPABILITY: Mapping[str, str] = {
    "supports_accelerators": "COMPUTE_ACCELERATORS",
    "supports_address_space_emulated": "COMPUTE_ADDRESS_SPACE_EMULATED",
    "supports_address_space_passthrough": "COMPUTE_ADDRESS_SPACE_PASSTHROUGH",
    "supports_attach_interface": "COMPUTE_NET_ATTACH_INTERFACE",
    "supports_bfv_rescue": "COMPUTE_RESCUE_BFV",
    "supports_device_tagging": "COMPUTE_DEVICE_TAGGING",
    "supports_ephemeral_encryption": "COMPUTE_EPHEMERAL_ENCRYPTION",
    "supports_ephemeral_encryption_luks": "COMPUTE_EPHEMERAL_ENCRYPTION_LUKS",
    "supports_ephemeral_encryption_plain": "COMPUTE_EPHEMERAL_ENCRYPTION_PLAIN",
    "supports_extend_volume": "COMPUTE_VOLUME_EXTEND",
    "supports_image_type_aki": "COMPUTE_IMAGE_TYPE_AKI",
    "supports_image_type_ami": "COMPUTE_IMAGE_TYPE_AMI",
    "supports_image_type_ari": "COMPUTE_IMAGE_TYPE_ARI",
    "supports_image_type_iso": "COMPUTE_IMAGE_TYPE_ISO",
    "supports_image_type_ploop": "COMPUTE_IMAGE_TYPE_PLOOP",
    "supports_image_type_qcow2": "COMPUTE_IMAGE_TYPE_QCOW2",
    "supports_image_type_raw": "COMPUTE_IMAGE_TYPE_RAW",
    "supports_image_type_vdi": "COMPUTE_IMAGE_TYPE_VDI",
    "supports_image_type_vhd": "COMPUTE_IMAGE_TYPE_VHD",
    "supports_image_type_vhdx": "COMPUTE_IMAGE_TYPE_VHDX",
    "supports_image_type_vmdk": "COMPUTE_IMAGE_TYPE_VMDK",
    "supports_mem_backing_file": "COMPUTE_MEM_BACKING_FILE",
    "supports_migrate_to_same_host": "COMPUTE_SAME_HOST_COLD_MIGRATE",
    "supports_multiattach": "COMPUTE_VOLUME_MULTI_ATTACH",
    "supports_remote_managed_ports": "COMPUTE_REMOTE_MANAGED_PORTS",
    "supports_secure_boot": "COMPUTE_SECURITY_UEFI_SECURE_BOOT",
    "supports_socket_pci_numa_affinity": "COMPUTE_SOCKET_PCI_NUMA_AFFINITY",
    "supports_stateless_firmware": "COMPUTE_SECURITY_STATELESS_FIRMWARE",
    "supports_tagged_attach_interface": "COMPUTE_NET_ATTACH_INTERFACE_WITH_TAG",
    "supports_tagged_attach_volume": "COMPUTE_VOLUME_ATTACH_WITH_TAG",
    "supports_trusted_certs": "COMPUTE_TRUSTED_CERTS",
    "supports_virtio_fs": "COMPUTE_STORAGE_VIRTIO_FS",
}


# As a driver's addresses are verified, in the upper case that Nova writes them in.
_ADDRESS = re.compile(r"[0-9A-F]{4,8}:[0-9A-F]{2}:[0-9A-F]{2}\.[0-7]")
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
        inventories = _device_inventories(chosen)
        traits, more = _device_traits(address, chosen)
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
    """Say, by a device's address, of which child provider (its uuid) and as what class it is reported, if it is."""
    return {
        device.address: (child_uuid(root_uuid, _name(root_name, address)), _class(device))
        for address, chosen in _groups(devices, []).items()
        for device in chosen
    }


def _groups(devices: Iterable[PciRecord], problems: list[Problem]) -> dict[str, Sequence[PciRecord]]:
    """Group the devices that are reported by the address that their provider is named after, in the order of those."""
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


def is_device_name(root_name: str, name: str) -> bool:
    """Say whether a child provider of ours may have a name: its root's, and a device's address."""
    return name.startswith(f"{root_name}_") and _ADDRESS.fullmatch(name.removeprefix(f"{root_name}_")) is not None


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


def _device_inventories(devices: Sequence[PciRecord]) -> dict[str, Inventory]:
    """Count the devices of each class; a device is never allocated twice, and what an operator reserved stays so."""
    counts: dict[str, int] = {}
    for device in devices:
        name = _class(device)
        counts[name] = counts.get(name, 0) + 1
    return {
        name: Inventory(total=count, max_unit=count, reserved_is_initial=True) for name, count in sorted(counts.items())
    }


def _class(device: PciRecord) -> str:
    return class_name(device.resource_class or f"CUSTOM_PCI_{device.vendor_id}_{device.product_id}")


def _device_traits(address: str, devices: Sequence[PciRecord]) -> tuple[frozenset[str], list[Problem]]:
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


COMPUTE_NODE = "COMPUTE_NODE"
DISABLED = "COMPUTE_STATUS_DISABLED"
NODE_CLASSES = frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB"})
NODE_TRAITS = frozenset(TRAIT_OF_CAPABILITY.values()) | {DISABLED}


def desired(
    host: Host, tally: Tally, rules: Rules, *, disabled: bool, overrides: NodeOverrides
) -> tuple[ProviderTree, tuple[Problem, ...]]:
    """
    Work out what the scheduler should hold of one node.

    Args:
        disabled: the node's service takes no new instances.
        overrides: what provider.yaml adds to this node.

    Returns:
        The tree, and what is inconsistent: reserves above totals, unknown traits, entries that can't be combined.
    """
    node = tally.node
    inventories, problems = _inventories(host, tally, rules) if host.inventories is None else _whole(host)
    traits, unknown = _traits(host, disabled=disabled)
    own_traits, own_classes = _own(node.owned_traits), shared(node.owned_classes | NODE_CLASSES)
    root = Provider(
        uuid=node.uuid,
        name=host.hypervisor_hostname,
        inventories=inventories,
        traits=traits,
        own_classes=own_classes,
        own_traits=own_traits,
        whole=frozenset() if host.inventories is None else frozenset(inventories),
    )
    found = [*problems, *unknown, *overrides.problems]
    children: tuple[Provider, ...] = ()
    if rules.report_pci:
        children, trouble = device_providers(root, tally.pci_devices, node.owned_classes, node.owned_traits)
        found += trouble
    providers = [_added(root, overrides.root, found)]
    for child in children:
        override = overrides.others.get(child.uuid) or overrides.others.get(child.name)
        providers.append(_added(child, override, found))
    return ProviderTree(providers=tuple(providers)), tuple(found)


def _inventories(host: Host, tally: Tally, rules: Rules) -> tuple[dict[str, Inventory], list[Problem]]:
    """Make the node's own classes; one whose total is 0 is left out, as Placement knows no such inventory."""
    node = tally.node
    vcpus, pcpus = cpu_totals(host.numa_topology, host.vcpus, host.pcpus)
    # A reserve of less than one GB takes a whole one: rounded up, as free disk must never be overstated.
    reserved_gb = -(-rules.reserved_host_disk_mb // 1024)
    # A ratio of 0 is unset, as in Nova.
    wanted = (
        ("VCPU", vcpus, rules.reserved_host_cpus, rules.cpu_allocation_ratio or None, node.cpu_allocation_ratio),
        ("PCPU", pcpus, 0, 1.0, 1.0),
        (
            "MEMORY_MB",
            host.memory_mb,
            rules.reserved_host_memory_mb,
            rules.ram_allocation_ratio or None,
            node.ram_allocation_ratio,
        ),
        ("DISK_GB", host.local_gb, reserved_gb, rules.disk_allocation_ratio or None, node.disk_allocation_ratio),
    )
    inventories: dict[str, Inventory] = {}
    problems: list[Problem] = []
    for name, total, reserved, configured, recorded in wanted:
        if total == 0:
            continue
        if reserved > total:
            problems.append(_reserved_above_total(name, reserved, total, host.node))
        inventories[name] = Inventory(
            total=total,
            # Placement refuses reserved > total; the problem says it.
            reserved=min(reserved, total),
            max_unit=total,
            allocation_ratio=recorded if configured is None else configured,
            ratio_is_initial=configured is None,
        )
    return inventories, problems


def _whole(host: Host) -> tuple[dict[str, Inventory], list[Problem]]:
    """Take what a node that is allocated as a whole has; a name that the scheduler can't know is left out."""
    said = host.inventories or {}
    inventories = {name: held for name, held in said.items() if is_standard_class(name) or is_custom(name)}
    problems = [_unknown_class(name, host.node) for name in sorted(said.keys() - inventories.keys())]
    return inventories, problems


def _unknown_class(name: str, node: str) -> Problem:
    return Problem(
        code="unknown-class",
        about=name,
        text=f"{node} is reported with {name}, which is neither a standard resource class nor a custom one",
        remedy="Name it CUSTOM_..., in upper-case letters, digits and underscores.",
    )


def _reserved_above_total(name: str, reserved: int, total: int, node: str) -> Problem:
    return Problem(
        code="reserved-above-total",
        about=f"{node} {name}",
        text=f"{reserved} {name} are reserved for the host, which has {total}: all of it is reported as reserved",
        remedy="Lower the reserve in the settings (reserved_host_*).",
    )


def _traits(host: Host, *, disabled: bool) -> tuple[frozenset[str], list[Problem]]:
    traits = frozenset().union(host.traits, _of_capabilities(host), {COMPUTE_NODE})
    unknown = sorted(name for name in traits if not is_trait(name))
    problems = [
        Problem(
            code="unknown-trait",
            about=name,
            text=f"the driver reports trait {name}, which is neither a standard one nor a well-formed CUSTOM_ one",
            remedy="A newer os-traits may know it; else its name has to start with CUSTOM_.",
        )
        for name in unknown
    ]
    return shared((traits - frozenset(unknown)) | ({DISABLED} if disabled else frozenset())), problems


def _of_capabilities(host: Host) -> frozenset[str]:
    return frozenset(
        TRAIT_OF_CAPABILITY[name] for name, able in host.capabilities.items() if able and name in TRAIT_OF_CAPABILITY
    )


# Ten thousand alike nodes share one set of names instead of holding ten thousand.
@lru_cache(maxsize=256)
def _own(owned: frozenset[str]) -> frozenset[str]:
    return owned | NODE_TRAITS


def _added(provider: Provider, override: ProviderOverride | None, problems: list[Problem]) -> Provider:
    """Add what provider.yaml says; a class that we report ourselves is not its to say."""
    if override is None:
        return provider
    taken = sorted(override.inventories.keys() & provider.inventories.keys())
    for name in taken:
        text = f"{override.source} adds {name} to {provider.name}, which has it from its devices already: left out"
        remedy = "Remove the class from the file, or give it another name."
        problems.append(Problem(code="override-class-taken", about=name, text=text, remedy=remedy))
    added = {name: said for name, said in override.inventories.items() if name not in taken}
    return replace(
        provider, inventories={**provider.inventories, **added}, traits=shared(provider.traits | override.traits)
    )
