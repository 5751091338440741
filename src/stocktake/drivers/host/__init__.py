"""
Step 4, the driver `host`: this machine itself, without any hypervisor. Invariant: only /proc, /sys and statvfs are
asked.

One node, named as the host. It can list no guests. Memory's total and free come from one reading of /proc/meminfo.
"""

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

from stocktake.clock import Clock
from stocktake.drivers.host.cpu import cpu_info, host_traits, read_model, read_online, read_places
from stocktake.drivers.host.devices import read_devices
from stocktake.drivers.host.files import read_sizes_kb, read_text
from stocktake.drivers.host.numa import read_topology
from stocktake.drivers.machine import disk_report, read_boot_time, read_file_system, read_uptime_s, split_cpus
from stocktake.errors import DriverError, InvalidData, NodeNotFound, StocktakeError
from stocktake.model.hypervisor import Survey
from stocktake.model.value import plain
from stocktake.settings import Settings


def open_driver(settings: Settings, clock: Clock) -> "HostDriver":  # noqa: ARG001 (the protocol's form)
    """Open the driver for the machine that this runs on."""
    return HostDriver(settings, root=Path("/"), arch=os.uname().machine)


class HostDriver:
    """
    The machine whose /proc and /sys are under `root`.

    Attributes:
        name: `host`.
    """

    name = "host"

    def __init__(self, settings: Settings, *, root: Path, arch: str) -> None:
        self._settings = settings
        self._root = root
        self._arch = arch

    def node_names(self) -> tuple[str, ...]:
        """Give the one node: the host's name."""
        return (self._settings.host,)

    def survey(self, nodes: Collection[str]) -> dict[str, Survey | StocktakeError]:
        """Read the machine, for the node that it is; other names are not found."""
        return {node: self._survey(node) for node in nodes}

    def node_exists(self, node: str) -> bool:
        """Say whether this is the machine's name."""
        return node == self._settings.host

    def uptime_s(self) -> float | None:
        """Read the uptime in seconds."""
        return read_uptime_s(self._root)

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def _survey(self, node: str) -> Survey | StocktakeError:
        if node != self._settings.host:
            return NodeNotFound(f"this machine is called {self._settings.host!r}", where=node)
        try:
            return Survey(report=self._report(), guests=None)
        except (OSError, ValueError, InvalidData) as error:
            remedy = "Check that /proc and /sys are mounted and readable."
            return DriverError(f"the machine can't be read: {error}", where=node, remedy=remedy)
        except StocktakeError as error:
            return error

    def _report(self) -> Mapping[str, object]:
        root, settings = self._root, self._settings
        online = read_online(root)
        cpus = split_cpus(online, shared_spec=settings.cpu_shared_set, dedicated_spec=settings.cpu_dedicated_set)
        places = read_places(root, online)
        model = read_model(root)
        page_kb = os.sysconf("SC_PAGE_SIZE") // 1024
        topology = read_topology(root, cpus, places, page_kb=page_kb, reserved=settings.reserved_huge_pages)
        cells = len(topology.cells) if topology else 1
        booted_at = read_boot_time(root)
        return {
            "vcpus": len(cpus.shared | cpus.dedicated),
            "pcpus": len(cpus.dedicated),
            "vcpus_used": 0,
            **_memory(root),
            **disk_report(read_file_system(_images(settings))),
            "cpu_info": cpu_info(self._arch, model, places, cells),
            "numa_topology": plain(topology),
            "hypervisor_type": "host",
            "hypervisor_version": _kernel_version(root),
            "hypervisor_hostname": settings.host,
            "supported_instances": [],
            "pci_passthrough_devices": plain(read_devices(root)),
            "traits": sorted(host_traits(self._arch, model.flags, places)),
            "capabilities": {},
            "booted_at": booted_at.isoformat() if booted_at else None,
        }


def _memory(root: Path) -> dict[str, int]:
    """Read total, rounded down, and used, rounded up: what is neither free nor in buffers nor in the page cache."""
    sizes = read_sizes_kb(root / "proc/meminfo")
    if "MemTotal" not in sizes:
        raise InvalidData("/proc/meminfo has no MemTotal")
    total_mb = sizes["MemTotal"] // 1024
    unused_kb = sum(sizes.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    return {"memory_mb": total_mb, "memory_mb_used": max(total_mb - unused_kb // 1024, 0)}


def _images(settings: Settings) -> Path:
    """Say whose file system is the node's disk: the images' if there is such a folder, else the state path's."""
    place = settings.libvirt.instances_path
    return place if place.is_dir() else settings.state_path


def _kernel_version(root: Path) -> int | None:
    """Give the kernel's version in libvirt's form: 6.1.90 is 6001090."""
    found = re.match(r"(\d{1,3})\.(\d{1,3})(?:\.(\d{1,3}))?", read_text(root / "proc/sys/kernel/osrelease") or "")
    if found is None:
        return None
    major, minor, patch = (int(part or 0) for part in found.groups())
    return major * 1_000_000 + minor * 1_000 + patch
