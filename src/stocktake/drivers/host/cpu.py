"""
Step 4, the machine's CPUs: what they are, where they sit, what they can. Invariant: only CPUs that are online count.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from stocktake.drivers.host.files import numbered, read_cpus, read_number, read_text
from stocktake.drivers.machine import HYPERTHREADING, X86_TRAITS, cpu_traits
from stocktake.model.value import Value, encode


class HostCpu(Value, frozen=True, kw_only=True):
    """Where a CPU sits, and with which (itself included) it shares a core."""

    package: int
    core: int
    siblings: frozenset[int]


class CpuModel(Value, frozen=True, kw_only=True):
    """What /proc/cpuinfo says of the first CPU; the vendor in libvirt's words."""

    model: str | None
    vendor: str | None
    flags: frozenset[str]


def read_online(root: Path) -> frozenset[int]:
    """
    Read which CPUs are online; without /sys those of /proc/cpuinfo.

    Raises:
        OSError, InvalidData: it can't be read.
    """
    online = read_cpus(root / "sys/devices/system/cpu/online")
    if online:
        return online
    lines = (read_text(root / "proc/cpuinfo") or "").splitlines()
    return frozenset(int(line.partition(":")[2]) for line in lines if line.startswith("processor"))


def read_places(root: Path, online: frozenset[int]) -> dict[int, HostCpu]:
    """
    Read where each online CPU sits; a kernel that doesn't say has each on a core of its own in package 0.

    Raises:
        OSError, ValueError, InvalidData: it can't be read.
    """
    places: dict[int, HostCpu] = {}
    for number, folder in numbered(root / "sys/devices/system/cpu", "cpu").items():
        if number not in online:
            continue
        topology = folder / "topology"
        package = read_number(topology / "physical_package_id")
        core = read_number(topology / "core_id")
        siblings = read_cpus(topology / "thread_siblings_list") & online
        places[number] = HostCpu(
            # Some virtual machines and some arm64 firmware give -1.
            package=max(package or 0, 0),
            core=number if core is None else core,
            siblings=siblings or frozenset({number}),
        )
    return places | {
        cpu: HostCpu(package=0, core=cpu, siblings=frozenset({cpu})) for cpu in sorted(online - places.keys())
    }


# The vendors' own strings to libvirt's names.
_VENDORS = {"GenuineIntel": "Intel", "AuthenticAMD": "AMD", "HygonGenuine": "Hygon"}


def read_model(root: Path) -> CpuModel:
    """
    Read model, vendor and flags.

    Raises:
        OSError: /proc/cpuinfo can't be read.
    """
    said: dict[str, str] = {}
    for line in (read_text(root / "proc/cpuinfo") or "").splitlines():
        name, colon, rest = line.partition(":")
        if colon:
            said.setdefault(name.strip(), rest.strip())
    vendor = said.get("vendor_id") or said.get("CPU implementer")
    return CpuModel(
        model=said.get("model name") or said.get("cpu model") or said.get("cpu"),
        vendor=_VENDORS.get(vendor, vendor) if vendor else None,
        # x86 says flags, arm64 Features, s390x features.
        flags=frozenset((said.get("flags") or said.get("Features") or said.get("features") or "").split()),
    )


def cpu_info(arch: str, model: CpuModel, places: Mapping[int, HostCpu], cells: int) -> str:
    """Write arch, model, vendor, topology and features as JSON in Nova's form; sockets are per cell, as libvirt's."""
    packages = {cpu.package for cpu in places.values()}
    cores = {(cpu.package, cpu.core) for cpu in places.values()}
    topology = {
        "cells": max(cells, 1),
        "sockets": max(len(packages) // max(cells, 1), 1),
        "cores": max(len(cores) // max(len(packages), 1), 1),
        "threads": max((len(cpu.siblings) for cpu in places.values()), default=1),
    }
    features = sorted(model.flags)
    return encode(
        {"arch": arch, "model": model.model, "vendor": model.vendor, "topology": topology, "features": features}
    )


# The kernel's own flags whose traits have another name.
_TRAITS = {
    **X86_TRAITS,
    "pcid": ("HW_CPU_X86_INTEL_PCID",),
    "pclmulqdq": ("HW_CPU_X86_CLMUL",),
    "sev": ("HW_CPU_X86_AMD_SEV",),
    "sev_es": ("HW_CPU_X86_AMD_SEV_ES",),
    "sev_snp": ("HW_CPU_X86_AMD_SEV_SNP",),
}


def host_traits(arch: str, flags: Iterable[str], places: Mapping[int, HostCpu]) -> frozenset[str]:
    """Name what the CPUs can as standard traits; a flag without one is left out."""
    threads = any(len(cpu.siblings) > 1 for cpu in places.values())
    return cpu_traits(arch, flags, _TRAITS) | ({HYPERTHREADING} if threads else frozenset())
