"""
PCI: devices as a hypervisor reports them, as the ledger tracks them, the pools of free ones, and what a guest asks for.

Invariant: a device is in one pool (free) or held by one instance, never both.
"""

from collections.abc import Mapping
from typing import Literal

from stocktake.model.value import Value

DeviceType = Literal["type-PCI", "type-PF", "type-VF"]
DeviceStatus = Literal["available", "claimed", "allocated", "removed", "unavailable", "unclaimable"]
PciAffinity = Literal["required", "preferred", "legacy", "socket"]


class PciDevice(Value, frozen=True, kw_only=True):
    """
    One device as the driver reports it; addresses are `dddd:bb:ss.f` in lower-case hexadecimal.

    Attributes:
        parent_addr: the PF's address, for a VF.
        numa_node: None if the firmware does not say.
    """

    address: str
    vendor_id: str
    product_id: str
    dev_type: DeviceType = "type-PCI"
    parent_addr: str | None = None
    numa_node: int | None = None
    dev_id: str | None = None
    label: str | None = None
    pci_class: str | None = None


class PciRecord(Value, frozen=True, kw_only=True):
    """
    One device as the ledger tracks it (table `pci_devices`); `instance_uuid` holds it unless free.

    `resource_class` and `traits` are what device_spec says of it for the scheduler; one with a `physical_network`
    belongs to the network service, and the scheduler is not told of it. `tags` are those of its pool while it is free.
    """

    address: str
    vendor_id: str
    product_id: str
    dev_type: DeviceType
    parent_addr: str | None = None
    numa_node: int | None = None
    label: str | None = None
    dev_id: str | None = None
    status: DeviceStatus = "available"
    instance_uuid: str | None = None
    request_id: str | None = None
    resource_class: str | None = None
    traits: frozenset[str] = frozenset()
    physical_network: str | None = None
    tags: Mapping[str, str] = {}

    @classmethod
    def of(cls, device: PciDevice) -> "PciRecord":
        """Start to track a device: free."""
        return cls(
            address=device.address,
            vendor_id=device.vendor_id,
            product_id=device.product_id,
            dev_type=device.dev_type,
            parent_addr=device.parent_addr,
            numa_node=device.numa_node,
            label=device.label,
            dev_id=device.dev_id,
        )


class PciPool(Value, frozen=True, kw_only=True):
    """Free devices that are alike; `tags` hold `dev_type`, `address` and what device_spec adds."""

    vendor_id: str
    product_id: str
    numa_node: int | None
    count: int
    tags: Mapping[str, str]


class DeviceSpec(Value, frozen=True, kw_only=True):
    """
    Which devices may be given to guests: one entry of the setting `pci.device_spec` (Nova's name and form).

    Attributes:
        vendor_id, product_id: four hexadecimal digits, or `*`.
        address: a glob such as `*:0a:00.*`, or None for any.
        address_parts: instead of `address`, what `domain`, `bus`, `slot` and `function` may be, written as in an
            address; one that is left out may be anything. The setting's patterns are matched where it is read: they are
            never sent anywhere, for one can be made to take for ever.
        resource_class: Placement class for the devices; None makes `CUSTOM_PCI_<vendor>_<product>`.
        traits: Placement traits for their provider.
        tags: everything else (such as physical_network).
    """

    vendor_id: str = "*"
    product_id: str = "*"
    address: str | None = None
    address_parts: Mapping[str, frozenset[str]] | None = None
    resource_class: str | None = None
    traits: frozenset[str] = frozenset()
    tags: Mapping[str, str] = {}


class PciAlias(Value, frozen=True, kw_only=True):
    """
    A name for devices that a flavor may ask for: one entry of the setting `pci.alias` (Nova's name and form).

    Several entries of one name are alternatives.

    Attributes:
        vendor_id, product_id: four hexadecimal digits; None for any (then resource_class says which).
        device_type: None for any; Nova's default is `type-PCI`.
        resource_class, traits: what to ask of the scheduler.
    """

    name: str
    vendor_id: str | None = None
    product_id: str | None = None
    device_type: DeviceType | None = "type-PCI"
    numa_policy: PciAffinity = "legacy"
    resource_class: str | None = None
    traits: frozenset[str] = frozenset()


class PciRequest(Value, frozen=True, kw_only=True):
    """
    Devices of one alias that a guest asks for.

    Attributes:
        specs: the alias's entries; a device is right if one of them says so.
        numa_policy: how near to the guest's cells they must be: the flavor's word, or else the alias's.
    """

    alias: str
    count: int
    specs: tuple[PciAlias, ...]
    numa_policy: PciAffinity = "legacy"


class Chosen(Value, frozen=True, kw_only=True):
    """The devices that a guest gets for one alias: their addresses, in order."""

    alias: str
    addresses: tuple[str, ...]
