"""
Step 4, how much the host has: memory, disk, CPU model, what it can run. Invariant: total and free come from one
reading.

The forms are Nova's (release 34, nova/virt/libvirt/driver.py: `get_available_resource`); where its figures can lie
(memory from two sources, see docs), ours come from one.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple
from xml.etree.ElementTree import Element, tostring

import libvirt

from stocktake.drivers.libvirt.connection import Hypervisor, StoragePool
from stocktake.drivers.libvirt.images import GIB
from stocktake.drivers.libvirt.xml import number, read_xml, text_of
from stocktake.model.value import encode


class Memory(NamedTuple):
    """Host memory in MiB: total rounded down, used rounded up."""

    total_mb: int
    used_mb: int


class Disk(NamedTuple):
    """The images' file system, in bytes; `free` is what an ordinary user may still write."""

    total: int
    used: int
    free: int


def read_memory(hypervisor: Hypervisor) -> Memory:
    """
    Read the host's memory; used is what is neither free nor in buffers nor in the page cache.

    `getMemoryStats` gives all four in one reading. A hypervisor without it (libvirt's test driver, some remote ones)
    tells its total and its free memory in two calls; if those contradict each other, nothing is taken for used.
    """
    try:
        stats = hypervisor.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        total_mb = int(hypervisor.getInfo()[1])
        return Memory(total_mb, max(0, total_mb - hypervisor.getFreeMemory() // 1024**2))
    unused_kb = stats["free"] + stats.get("buffers", 0) + stats.get("cached", 0)
    total_mb = stats["total"] // 1024
    return Memory(total_mb, total_mb - unused_kb // 1024)


def read_online_cpus(hypervisor: Hypervisor) -> frozenset[int]:
    """Read which host CPUs are online."""
    _count, online, _online_count = hypervisor.getCPUMap()
    return frozenset(cpu for cpu, is_online in enumerate(online) if is_online)


def read_local_disk(path: str) -> Disk:
    """Read the file system of `path`; if that doesn't exist yet, of its nearest parent that does."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    status = os.statvfs(place)
    return Disk(
        total=status.f_blocks * status.f_frsize,
        used=(status.f_blocks - status.f_bfree) * status.f_frsize,
        free=status.f_bavail * status.f_frsize,
    )


def read_pool_disk(hypervisor: Hypervisor, path: str) -> Disk | None:
    """
    Read a remote host's disk from its storage pools: the one at `path`, else the one called `default`.

    None if it has neither; its disk is then unknown from here.
    """
    pools = hypervisor.listAllStoragePools()
    chosen = next((pool for pool in pools if _target_path(pool) == path.rstrip("/")), None)
    chosen = chosen or next((pool for pool in pools if pool.name() == "default"), None)
    if chosen is None:
        return None
    _state, total, used, free = chosen.info()
    return Disk(total=total, used=used, free=free)


def _target_path(pool: StoragePool) -> str:
    return text_of(read_xml(pool.XMLDesc(), where=f"storage pool {pool.name()}"), "./target/path").rstrip("/")


def disk_report(disk: Disk | None, growth: int) -> dict[str, int | None]:
    """
    Write the disk's figures in whole GiB: total and least available rounded down, used rounded up.

    `growth` is what thin images may still grow by, in bytes; the least available is negative if that is more than
    there is. Without a known disk the total is 0.
    """
    if disk is None:
        return {"local_gb": 0, "local_gb_used": 0, "disk_available_least": None}
    return {
        "local_gb": disk.total // GIB,
        "local_gb_used": min(-(-disk.used // GIB), disk.total // GIB),
        "disk_available_least": (disk.free - growth) // GIB,
    }


def expand_features(hypervisor: Hypervisor, cpu: Element) -> tuple[str, ...]:
    """
    List every feature of the host's CPU, sorted: its model's own and those listed beside it.

    Where libvirt can't expand a model (other architectures, the test driver), only those listed.
    """
    listed = {feature.get("name", "") for feature in cpu.findall("feature")}
    if not text_of(cpu, "model") or text_of(cpu, "arch") == "aarch64":
        # libvirt knows no features of aarch64 models; what it expands there is an empty list.
        return tuple(sorted(listed - {""}))
    flags = libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES
    try:
        expanded = hypervisor.baselineCPU([tostring(cpu, encoding="unicode")], flags)
    except libvirt.libvirtError as error:
        if error.get_error_code() not in (libvirt.VIR_ERR_NO_SUPPORT, libvirt.VIR_ERR_CONFIG_UNSUPPORTED):
            raise
        return tuple(sorted(listed - {""}))
    for feature in read_xml(expanded, where="the expanded CPU").findall("feature"):
        name = feature.get("name", "")
        if feature.get("policy") == "disable":
            listed.discard(name)
        else:
            listed.add(name)
    return tuple(sorted(listed - {""}))


def cpu_info(capabilities: Element, features: Iterable[str]) -> str:
    """
    Write the CPU as Nova's JSON text: arch, model, vendor, topology, features.

    Raises:
        InvalidData: the topology has no numbers.
    """
    cpu = capabilities.find("./host/cpu")
    topology = None if cpu is None else cpu.find("topology")
    counts = {
        name: None if topology is None else number(topology.get(name), what=f"the CPU's {name}")
        for name in ("sockets", "cores", "threads")
    }
    return encode(
        {
            "arch": None if cpu is None else text_of(cpu, "arch") or None,
            "model": None if cpu is None else text_of(cpu, "model") or None,
            "vendor": None if cpu is None else text_of(cpu, "vendor") or None,
            "topology": {"cells": len(capabilities.findall("./host/topology/cells/cell")) or 1, **counts},
            "features": sorted(features),
        }
    )


# Nova's canonical words where libvirt's differ (nova/objects/fields.py); what Nova has no word for keeps libvirt's.
_ARCHES = {"i386": "i686", "i486": "i686", "i586": "i686", "x86_32": "i686", "x86_32p": "i686", "amd64": "x86_64"}
_HV_TYPES = {"xapi": "xen"}
_VM_MODES = {"pv": "xen", "hv": "hvm", "baremetal": "hvm"}


def supported_instances(capabilities: Element) -> tuple[tuple[str, str, str], ...]:
    """List what the host can run, as (architecture, hypervisor, mode) in Nova's words and libvirt's order."""
    found = [
        (
            _canonical(arch.get("name"), _ARCHES),
            _canonical(domain.get("type"), _HV_TYPES),
            _canonical(text_of(guest, "os_type"), _VM_MODES),
        )
        for guest in capabilities.findall("./guest")
        for arch in guest.findall("./arch")
        for domain in arch.findall("./domain")
    ]
    return tuple(instance for instance in dict.fromkeys(found) if all(instance))


def _canonical(name: str | None, words: Mapping[str, str]) -> str:
    lower = (name or "").lower()
    return words.get(lower, lower)
