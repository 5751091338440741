"""
Step 4, one reading of everything a libvirt host says of itself. Law: a sweep either gives the whole host or fails.

It runs in the connection's worker thread. The number of calls doesn't depend on the number of disks or vCPUs: a dozen,
and one document per guest and per PCI device.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar
from xml.etree.ElementTree import Element, tostring

import libvirt

from stocktake.drivers.cpus import HostCpus, split_cpus
from stocktake.drivers.libvirt.capacity import (
    cpu_info,
    disk_report,
    expand_features,
    read_local_disk,
    read_memory,
    read_online_cpus,
    read_pool_disk,
    supported_instances,
)
from stocktake.drivers.libvirt.connection import Domain, Hypervisor, is_local, is_lost, message_of
from stocktake.drivers.libvirt.devices import pci_devices
from stocktake.drivers.libvirt.guests import DefinitionCache, Disk, read_guests
from stocktake.drivers.libvirt.images import Image, growth_bytes, read_image
from stocktake.drivers.libvirt.placing import Layout
from stocktake.drivers.libvirt.topology import ReservedPages, cell_by_cpu, host_topology
from stocktake.drivers.libvirt.traits import host_traits
from stocktake.drivers.libvirt.xml import read_xml
from stocktake.errors import InvalidData
from stocktake.model.hypervisor import Guest, Survey
from stocktake.model.topology import HostTopology
from stocktake.model.value import Value, plain

Source = TypeVar("Source")
Made = TypeVar("Made")


class Options(Value, frozen=True, kw_only=True):
    """The settings that a sweep needs; sets in Nova's CPU-spec form, None for unset."""

    instances_path: str
    cpu_shared_set: str | None = None
    cpu_dedicated_set: str | None = None
    reserved_pages: ReservedPages = {}


# What a host with nothing but libvirt and QEMU does: they read raw, qcow2 and ISO images, plug network interfaces into
# a running guest, grow a disk under it (`blockresize`), and let guests share a disk (`<shareable/>`). Nova's driver
# claims more; the rest (device tags, certificates, accelerators, rescue, aki/ari/ami images) is Nova's own work.
_QEMU_CAPABILITIES: Mapping[str, bool] = {
    "supports_attach_interface": True,
    "supports_extend_volume": True,
    "supports_image_type_iso": True,
    "supports_image_type_qcow2": True,
    "supports_image_type_raw": True,
    "supports_migrate_to_same_host": False,
    "supports_multiattach": True,
    "supports_pcpus": True,
}


class _Kept(Generic[Source, Made]):
    """The last thing made of a document; made again when the document is another."""

    def __init__(self, make: Callable[[Source], Made]) -> None:
        self._make = make
        self._last: tuple[Source, Made] | None = None

    def of(self, source: Source) -> Made:
        if self._last is None or self._last[0] != source:
            self._last = (source, self._make(source))
        return self._last[1]


class Sweeper:
    """Reads one host again and again; what it parsed is kept only while the documents are still the same."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._definitions = DefinitionCache()
        self._capabilities: _Kept[str, Element] = _Kept(lambda text: read_xml(text, where="capabilities"))
        self._devices: _Kept[list[str], object] = _Kept(lambda documents: plain(pci_devices(documents)))
        self._features: tuple[str, tuple[str, ...]] = ("", ())
        self._booted_at: datetime | None = None

    def sweep(self, hypervisor: Hypervisor) -> tuple[str, Survey]:
        """
        Read the whole host: its name and what it says.

        Raises:
            InvalidData: a document of the host (not of a guest) can't be read.
            SettingsError: a CPU set doesn't fit the host.
        """
        name = hypervisor.getHostname()
        local = is_local(hypervisor.getURI())
        capabilities = self._capabilities.of(hypervisor.getCapabilities())
        cpus = split_cpus(
            read_online_cpus(hypervisor),
            shared_spec=self._options.cpu_shared_set,
            dedicated_spec=self._options.cpu_dedicated_set,
        )
        topology = host_topology(capabilities, cpus, self._options.reserved_pages)
        guests, images = read_guests(
            hypervisor,
            self._definitions,
            _layout(capabilities, topology),
            _measure_local if local else _measure_by_libvirt,
        )
        report = {
            **self._host_report(hypervisor, name, capabilities),
            **self._disk_report(hypervisor, growth_bytes(images), local=local),
            **_usage(cpus, topology, guests),
            "booted_at": self._boot_time() if local else None,
        }
        return name, Survey(report=report, guests=guests)

    def _host_report(self, hypervisor: Hypervisor, name: str, capabilities: Element) -> dict[str, object]:
        features = self._cpu_features(hypervisor, capabilities)
        memory = read_memory(hypervisor)
        hypervisor_type = hypervisor.getType()
        return {
            "hypervisor_hostname": name,
            "hypervisor_type": hypervisor_type,
            "hypervisor_version": hypervisor.getVersion(),
            "uuid": None,
            "memory_mb": memory.total_mb,
            "memory_mb_used": memory.used_mb,
            "cpu_info": cpu_info(capabilities, features),
            "supported_instances": [list(instance) for instance in supported_instances(capabilities)],
            "traits": sorted(host_traits(capabilities, features)),
            "capabilities": dict(_QEMU_CAPABILITIES) if hypervisor_type == "QEMU" else {},
            "pci_passthrough_devices": self._devices.of(_device_documents(hypervisor)),
            "stats": {},
        }

    def _disk_report(self, hypervisor: Hypervisor, growth: int, *, local: bool) -> dict[str, int | None]:
        path = self._options.instances_path
        return disk_report(read_local_disk(path) if local else read_pool_disk(hypervisor, path), growth)

    def _cpu_features(self, hypervisor: Hypervisor, capabilities: Element) -> tuple[str, ...]:
        """Expand the CPU's features once per CPU: what a model has doesn't change while libvirt runs."""
        cpu = capabilities.find("./host/cpu")
        if cpu is None:
            return ()
        text = tostring(cpu, encoding="unicode")
        if self._features[0] != text:
            self._features = (text, expand_features(hypervisor, cpu))
        return self._features[1]

    def _boot_time(self) -> str | None:
        """Read when this machine started, once: a clock that is set later would move it."""
        if self._booted_at is None:
            self._booted_at = read_boot_time()
        return None if self._booted_at is None else self._booted_at.isoformat()


def _usage(cpus: HostCpus, topology: HostTopology | None, guests: tuple[Guest, ...]) -> dict[str, object]:
    return {
        "vcpus": len(cpus.shared),
        "pcpus": len(cpus.dedicated),
        # Nova's meaning: what the running guests have, pinned or not.
        "vcpus_used": sum(guest.vcpus for guest in guests if guest.active),
        "numa_topology": None if topology is None else plain(topology),
    }


def _layout(capabilities: Element, topology: HostTopology | None) -> Layout:
    cells = () if topology is None else topology.cells
    sizes = sorted({pages.size_kb for cell in cells for pages in cell.pages})
    return Layout(
        cell_by_cpu=cell_by_cpu(capabilities),
        cells=frozenset(cell.id for cell in cells),
        # The kernel's default huge page is the smallest one, unless it was started with another.
        huge_kb=sizes[1] if len(sizes) > 1 else None,
    )


def _measure_local(domain: Domain, disk: Disk) -> Image:
    """Read a disk's file, or ask libvirtd where this user may not (QEMU's images are often its own user's only)."""
    try:
        return read_image(disk.path, disk.image_format)
    except InvalidData as error:
        if not isinstance(error.__cause__, PermissionError):
            raise
    return _measure_by_libvirt(domain, disk)


def _measure_by_libvirt(domain: Domain, disk: Disk) -> Image:
    """Ask libvirtd for a disk's size: 2 ms each, and a running guest's QEMU is asked in turn."""
    try:
        capacity, allocation, _physical = domain.blockInfo(disk.path)
    except libvirt.libvirtError as error:
        if error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
            raise
        raise InvalidData(f"disk {disk.path}: {message_of(error)}") from error
    return Image(identity=disk.path, virtual=capacity, allocated=allocation)


def _device_documents(hypervisor: Hypervisor) -> list[str]:
    """Read the documents of the PCI devices; one that goes away in between is left out."""
    documents: list[str] = []
    try:
        devices = hypervisor.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_PCI_DEV)
    except libvirt.libvirtError as error:
        # A libvirtd without its node device driver reports no devices; Nova's behaviour.
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        return []
    for device in devices:
        try:
            documents.append(device.XMLDesc())
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_NODE_DEVICE or is_lost(error, hypervisor):
                raise
    return documents


def read_boot_time() -> datetime | None:
    """Read when this machine started, from /proc/stat, in UTC; None where there is no such file."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    seconds = next((line.split()[1] for line in lines if line.startswith("btime ")), None)
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC)


def read_uptime_s() -> float | None:
    """Read for how many seconds this machine has been up, from /proc/uptime; None where there is no such file."""
    try:
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return None
