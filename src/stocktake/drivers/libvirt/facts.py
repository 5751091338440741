"""
Step 4, what stays as it is while a host's libvirtd runs. Invariant: what follows from a document is worked out once per
text.

Some of it may change without libvirt telling (QEMU's version): `clear` has all of it read again. CPUs and huge pages
that come and go are seen at once, the pages on this machine only.
"""

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar
from xml.etree.ElementTree import Element, tostring

import libvirt

from stocktake.drivers.libvirt.connection import Hypervisor, is_lost
from stocktake.drivers.libvirt.cpu import cpu_info, expand_features, host_traits, read_online_cpus, supported_instances
from stocktake.drivers.libvirt.devices import pci_devices
from stocktake.drivers.libvirt.numa import HostLayout, ReservedPages, cell_by_cpu, host_topology
from stocktake.drivers.libvirt.xml import read_xml
from stocktake.drivers.machine import HostCpus, split_cpus
from stocktake.model.topology import HostTopology
from stocktake.model.value import Value, plain

Source = TypeVar("Source")
Made = TypeVar("Made")


class Options(Value, frozen=True, kw_only=True):
    """
    The settings that a sweep needs; sets in Nova's CPU-spec form, None for unset.

    `full_read_every`: while libvirt tells what changes, everything is read again once in so many sweeps.
    """

    instances_path: str
    cpu_shared_set: str | None = None
    cpu_dedicated_set: str | None = None
    reserved_pages: ReservedPages = {}
    full_read_every: int = 10


class Facts(NamedTuple):
    """
    What is known of a host for long.

    Attributes:
        layout: the same object for as long as it is equal.
        report: those keys of the driver's report that follow from it.
    """

    layout: HostLayout
    report: Mapping[str, object]


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


class _Made(Generic[Source, Made]):
    """The last thing made of a source; made again when the source is another."""

    def __init__(self, make: Callable[[Source], Made]) -> None:
        self._make = make
        self._last: tuple[Source, Made] | None = None

    def of(self, source: Source) -> Made:
        if self._last is None or self._last[0] != source:
            self._last = (source, self._make(source))
        return self._last[1]


class HostFacts:
    """Reads them once, until it is told to forget."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._read_with: tuple[frozenset[int], tuple[str, ...]] = (frozenset(), ())
        self._facts: Facts | None = None
        self._devices: object | None = None
        self._capabilities: _Made[str, Element] = _Made(lambda text: read_xml(text, where="capabilities"))
        self._pci: _Made[list[str], object] = _Made(lambda documents: plain(pci_devices(documents)))
        self._features: tuple[str, tuple[str, ...]] = ("", ())
        self._layout: HostLayout | None = None

    def clear(self) -> None:
        """Have everything read again."""
        self._facts = None
        self._devices = None

    def clear_devices(self) -> None:
        """Have the devices read again."""
        self._devices = None

    def read(self, hypervisor: Hypervisor, *, local: bool) -> Facts:
        """
        Read what the host is, unless it is known and its CPUs and huge pages are those that it was read with.

        Raises:
            InvalidData: a document can't be read.
            SettingsError: a CPU set doesn't fit the host.
        """
        now = read_online_cpus(hypervisor), _page_counts() if local else ()
        if self._facts is None or self._read_with != now:
            self._facts = self._read(hypervisor, now[0])
            self._read_with = now
        return self._facts

    def devices(self, hypervisor: Hypervisor) -> object:
        """
        Read the PCI devices as plain data, unless they are known.

        Raises:
            InvalidData: a document can't be read.
        """
        if self._devices is None:
            self._devices = self._pci.of(_device_documents(hypervisor))
        return self._devices

    def _read(self, hypervisor: Hypervisor, online: frozenset[int]) -> Facts:
        capabilities = self._capabilities.of(hypervisor.getCapabilities())
        options = self._options
        cpus = split_cpus(online, shared_spec=options.cpu_shared_set, dedicated_spec=options.cpu_dedicated_set)
        topology = host_topology(capabilities, cpus, options.reserved_pages)
        layout = _layout(capabilities, topology)
        self._layout = self._layout if layout == self._layout else layout
        assert self._layout is not None, "one of the two"
        return Facts(self._layout, self._report(hypervisor, capabilities, cpus, topology))

    def _report(
        self, hypervisor: Hypervisor, capabilities: Element, cpus: HostCpus, topology: HostTopology | None
    ) -> dict[str, object]:
        features = self._cpu_features(hypervisor, capabilities)
        hypervisor_type = hypervisor.getType()
        return {
            "hypervisor_type": hypervisor_type,
            "hypervisor_version": hypervisor.getVersion(),
            "vcpus": len(cpus.shared),
            "pcpus": len(cpus.dedicated),
            "numa_topology": None if topology is None else plain(topology),
            "cpu_info": cpu_info(capabilities, features),
            "supported_instances": [list(instance) for instance in supported_instances(capabilities)],
            "traits": sorted(host_traits(capabilities, features)),
            "capabilities": dict(_QEMU_CAPABILITIES) if hypervisor_type == "QEMU" else {},
        }

    def _cpu_features(self, hypervisor: Hypervisor, capabilities: Element) -> tuple[str, ...]:
        """Expand the CPU's features once per CPU: what a model has doesn't change while libvirt runs."""
        cpu = capabilities.find("./host/cpu")
        if cpu is None:
            return ()
        text = tostring(cpu, encoding="unicode")
        if self._features[0] != text:
            self._features = (text, expand_features(hypervisor, cpu))
        return self._features[1]


def _layout(capabilities: Element, topology: HostTopology | None) -> HostLayout:
    cells = () if topology is None else topology.cells
    sizes = sorted({pages.size_kb for cell in cells for pages in cell.pages})
    return HostLayout(
        cell_by_cpu=cell_by_cpu(capabilities),
        cells=frozenset(cell.id for cell in cells),
        # The kernel's default huge page is the smallest one, unless it was started with another.
        huge_kb=sizes[1] if len(sizes) > 1 else None,
    )


def _page_counts() -> tuple[str, ...]:
    """Read how many huge pages of each size each of this machine's cells has; only to see whether that changed."""
    counts: list[str] = []
    for path in sorted(Path("/sys/devices/system/node").glob("node*/hugepages/*/nr_hugepages")):
        with contextlib.suppress(OSError):
            counts.append(f"{path} {path.read_text(encoding='ascii')}")
    return tuple(counts)


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
