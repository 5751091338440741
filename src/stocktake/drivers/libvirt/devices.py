"""
Step 4, the host's PCI devices. Invariant: whatever can't be given to a guest (a bridge) is not reported.

Types and names are Nova's (release 34, nova/virt/libvirt/host.py: `_get_pcidev_info`).
"""

from collections.abc import Iterable
from xml.etree.ElementTree import Element

from stocktake.drivers.libvirt.xml import number, read_xml, text_of
from stocktake.errors import InvalidData
from stocktake.model.pci import DeviceType, PciDevice

# PCI base class 06: host, ISA, PCI-to-PCI, CardBus and other bridges.
_BRIDGE_BASE_CLASS = 0x06


def pci_devices(documents: Iterable[str]) -> tuple[PciDevice, ...]:
    """
    Read libvirt's node device documents, in the order of their addresses; bridges are left out.

    Raises:
        InvalidData: a document can't be read: a list with a gap would have devices taken for removed.
    """
    devices = [device for text in documents if (device := pci_device(text)) is not None]
    return tuple(sorted(devices, key=lambda device: device.address))


def pci_device(text: str) -> PciDevice | None:
    """
    Read one node device; None for a bridge.

    Raises:
        InvalidData: not a PCI device, or without what identifies one.
    """
    root = read_xml(text, where="a host device")
    name = text_of(root, "name")
    capability = root.find("./capability[@type='pci']")
    if capability is None:
        raise InvalidData("not a PCI device", where=f"host device {name}")
    try:
        return _read(name, capability)
    except InvalidData as error:
        raise InvalidData(error.what, where=f"host device {name}") from error


def _read(name: str, capability: Element) -> PciDevice | None:
    # Class, subclass and programming interface; libvirt before 5.2 doesn't tell them.
    pci_class = text_of(capability, "class") or None
    is_bridge = capability.find("./capability[@type='pci-bridge']") is not None
    if is_bridge or (pci_class is not None and number(pci_class, what="class", base=0) >> 16 == _BRIDGE_BASE_CLASS):
        return None
    vendor_id, product_id = _id(capability, "vendor"), _id(capability, "product")
    dev_type, parent_addr = _function(capability)
    node = capability.find("numa")
    return PciDevice(
        address=_own_address(capability),
        vendor_id=vendor_id,
        product_id=product_id,
        dev_type=dev_type,
        parent_addr=parent_addr,
        numa_node=None if node is None else number(node.get("node"), what="numa node"),
        dev_id=name,
        label=f"label_{vendor_id}_{product_id}",
        pci_class=pci_class,
    )


def _id(capability: Element, tag: str) -> str:
    element = capability.find(tag)
    if element is None:
        raise InvalidData(f"{tag} is missing")
    return f"{number(element.get('id'), what=tag, base=0):04x}"


def _own_address(capability: Element) -> str:
    parts = [number(text_of(capability, tag), what=tag, base=0) for tag in ("domain", "bus", "slot", "function")]
    return pci_address(parts)


def _function(capability: Element) -> tuple[DeviceType, str | None]:
    """Physical function, virtual function (with its parent's address), or neither."""
    # As in Nova: what could have virtual functions is a PF, even while it has none.
    if capability.find("./capability[@type='virt_functions']") is not None:
        return "type-PF", None
    parent = capability.find("./capability[@type='phys_function']/address")
    if parent is None:
        return "type-PCI", None
    return "type-VF", address_of(parent)


def address_of(element: Element) -> str:
    """
    Read an `<address domain='0x0000' bus='0x01' slot='0x00' function='0x1'/>` as `0000:01:00.1`.

    Raises:
        InvalidData: a part is missing or isn't a number; without a domain it is 0.
    """
    parts = [number(element.get("domain", "0"), what="domain", base=0)]
    parts += [number(element.get(tag), what=tag, base=0) for tag in ("bus", "slot", "function")]
    return pci_address(parts)


def pci_address(parts: list[int]) -> str:
    """Write domain, bus, slot and function as `dddd:bb:ss.f`."""
    domain, bus, slot, function = parts
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
