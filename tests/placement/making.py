"""Makes the values that the tests of this room start from."""

import uuid
from typing import Literal

from stocktake.model.books import ComputeNode, Tally
from stocktake.model.hypervisor import Host
from stocktake.model.pci import PciRecord
from stocktake.model.provider import Inventory, Provider, ProviderTree
from stocktake.model.value import replace
from stocktake.placement.desired import child_uuid
from stocktake.settings import PlacementSection

ROOT = "5d1ad8b6-3c1f-4e0b-a3a5-3f8f7d1c2a10"


class Section(PlacementSection, frozen=True, kw_only=True):
    """The settings' section `placement`, with other defaults."""

    mode: Literal["embedded", "remote", "none"] = "none"
    connection: str = "sqlite:///unused.db"
    timeout_s: float = 10.0


def host(**changes: object) -> Host:
    """A host with 8 CPUs, 16 GiB and 100 GB."""
    plain = Host(
        node="node-1",
        vcpus=8,
        memory_mb=16384,
        local_gb=100,
        vcpus_used=0,
        memory_mb_used=0,
        local_gb_used=0,
        hypervisor_hostname="node-1",
    )
    return replace(plain, **changes)


def tally(*devices: PciRecord, **changes: object) -> Tally:
    """Its tally, with ratios of 4.0, 1.5 and 1.25."""
    node = ComputeNode(
        uuid=ROOT,
        host="host-1",
        hypervisor_hostname="node-1",
        vcpus=8,
        memory_mb=16384,
        local_gb=100,
        vcpus_used=0,
        memory_mb_used=0,
        local_gb_used=0,
        free_ram_mb=0,
        free_disk_gb=0,
        cpu_allocation_ratio=4.0,
        ram_allocation_ratio=1.5,
        disk_allocation_ratio=1.25,
    )
    return Tally(node=replace(node, **changes), entries=(), pci_devices=devices)


def stock(total: int = 8, **more: float | bool) -> Inventory:
    """An inventory whose max_unit is its total."""
    return replace(Inventory(total=total, max_unit=total), **more)


def tree(name: str, *children: Provider, root_uuid: str | None = None, **changes: object) -> ProviderTree:
    """A node's tree: 8 VCPU, a trait, and what is ours."""
    root = Provider(
        uuid=root_uuid or str(uuid.uuid4()),
        name=name,
        inventories={"VCPU": stock(8, allocation_ratio=4.0, ratio_is_initial=True), "MEMORY_MB": stock(1024)},
        traits=frozenset({"COMPUTE_NODE"}),
        own_classes=frozenset({"VCPU", "PCPU", "MEMORY_MB", "DISK_GB", "CUSTOM_OURS"}),
        own_traits=frozenset({"COMPUTE_STATUS_DISABLED", "CUSTOM_OURS"}),
    )
    return ProviderTree(providers=(replace(root, **changes), *children))


def child(root: ProviderTree, address: str, total: int = 1, name: str = "CUSTOM_PCI_10DE_1DB6") -> Provider:
    """A PCI device's provider below a tree's root."""
    full = f"{root.root.name}_{address}"
    return Provider(
        uuid=child_uuid(root.root.uuid, full),
        name=full,
        parent_uuid=root.root.uuid,
        inventories={name: stock(total, reserved_is_initial=True)},
        traits=frozenset({"COMPUTE_MANAGED_PCI_DEVICE"}),
        own_classes=frozenset({name}),
        own_traits=frozenset({"COMPUTE_MANAGED_PCI_DEVICE"}),
    )


def with_children(root: ProviderTree, *children: Provider) -> ProviderTree:
    """The same root with other children."""
    return ProviderTree(providers=(root.root, *children))


def with_root(given: ProviderTree, **changes: object) -> ProviderTree:
    """The same children below a changed root."""
    return ProviderTree(providers=(replace(given.root, **changes), *given.providers[1:]))
