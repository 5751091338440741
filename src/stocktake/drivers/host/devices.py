"""Step 4, PCI devices from /sys. Invariant: whatever can't be given to a guest (a bridge) is not reported."""

import re
from pathlib import Path

from stocktake.drivers.host.files import read_number, read_text
from stocktake.model.pci import DeviceType, PciDevice

# PCI base class 06: host, ISA, PCI-to-PCI, CardBus and other bridges.
_BRIDGE_BASE_CLASS = 0x06
_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


def read_devices(root: Path) -> tuple[PciDevice, ...]:
    """
    Read the devices in the order of their addresses; none without a PCI bus.

    Raises:
        OSError, ValueError: one can't be read: a list with a gap would have devices taken for removed.
    """
    try:
        folders = sorted((root / "sys/bus/pci/devices").iterdir())
    except FileNotFoundError:
        return ()
    found = (_device(folder) for folder in folders if _ADDRESS.fullmatch(folder.name))
    return tuple(device for device in found if device is not None)


def _device(folder: Path) -> PciDevice | None:
    """Read one device; None for a bridge, and for one that was taken out while it was read."""
    pci_class = read_text(folder / "class")
    vendor, product = read_number(folder / "vendor", base=16), read_number(folder / "device", base=16)
    if pci_class is None or vendor is None or product is None or int(pci_class, 16) >> 16 == _BRIDGE_BASE_CLASS:
        return None
    dev_type, parent = _function(folder)
    numa_node = read_number(folder / "numa_node")
    vendor_id, product_id = f"{vendor:04x}", f"{product:04x}"
    return PciDevice(
        address=folder.name,
        vendor_id=vendor_id,
        product_id=product_id,
        dev_type=dev_type,
        parent_addr=parent,
        # The kernel's -1: the firmware does not say.
        numa_node=None if numa_node is None or numa_node < 0 else numa_node,
        dev_id="pci_" + re.sub("[:.]", "_", folder.name),
        label=f"label_{vendor_id}_{product_id}",
        pci_class=pci_class,
    )


def _function(folder: Path) -> tuple[DeviceType, str | None]:
    """Physical function, virtual function (with its parent's address), or neither."""
    try:
        return "type-VF", (folder / "physfn").readlink().name
    except FileNotFoundError:
        # As in Nova: what could have virtual functions is a PF, even while it has none.
        return ("type-PF" if read_number(folder / "sriov_totalvfs") else "type-PCI"), None
