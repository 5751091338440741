"""
Step 4, what `host` and `libvirt` read of a machine alike: its CPUs' split and traits, disk, uptime. Invariant: only
CPUs that are online count, and none is given out twice.

The rules for CPUs are Nova's (release 34, nova/virt/libvirt/driver.py: `_get_vcpu_available`, `_get_pcpu_available`).
"""

import os
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import os_traits

from stocktake.errors import InvalidData, SettingsError
from stocktake.model.topology import format_cpu_set, parse_cpu_set
from stocktake.model.value import Value

_GIB = 1024**3
_ROOT = Path("/")


class HostCpus(Value, frozen=True, kw_only=True):
    """
    Online host CPUs: `shared` (VCPU) for floating guests, `dedicated` (PCPU) for pinned ones; no CPU is in both.

    `pinnable` are those that a guest may be pinned to: the dedicated ones, or all where no set is configured.
    """

    shared: frozenset[int]
    dedicated: frozenset[int] = frozenset()
    pinnable: frozenset[int] = frozenset()


def split_cpus(online: frozenset[int], *, shared_spec: str | None, dedicated_spec: str | None) -> HostCpus:
    """
    Split the online CPUs into shared and dedicated ones.

    Neither set: every online CPU is shared. Only `cpu_dedicated_set`: none is shared.

    Raises:
        SettingsError: a set can't be read, is empty, names CPUs that are absent or offline, or the two overlap.
    """
    shared = _configured("cpu_shared_set", shared_spec, online)
    dedicated = _configured("cpu_dedicated_set", dedicated_spec, online)
    if shared is None:
        shared = online if dedicated is None else frozenset()
    both = shared & (dedicated or frozenset())
    if both:
        raise SettingsError(
            f"cpu_shared_set and cpu_dedicated_set both name CPU {format_cpu_set(both)}",
            remedy="A CPU is for floating guests or for pinned ones: take it out of one of them.",
        )
    pinnable = online if not (shared_spec or dedicated_spec) else dedicated or frozenset()
    return HostCpus(shared=shared, dedicated=dedicated or frozenset(), pinnable=pinnable)


def _configured(name: str, spec: str | None, online: frozenset[int]) -> frozenset[int] | None:
    if not spec:
        return None
    try:
        cpus = parse_cpu_set(spec)
    except InvalidData as error:
        raise SettingsError(f"{name}: {error.what}", remedy="Write CPUs as in `2-15,^8`.") from error
    if not cpus:
        raise SettingsError(f"{name}: {spec!r} names no CPU")
    if missing := cpus - online:
        raise SettingsError(
            f"{name}: CPU {format_cpu_set(missing)} is not on this host or offline (online: {format_cpu_set(online)})",
            remedy=f"Change {name}, or bring the CPU online.",
        )
    return cpus


class FileSystem(NamedTuple):
    """The file system of the guests' images, in bytes; `free` is what an ordinary user may still write."""

    total: int
    used: int
    free: int


def read_file_system(path: Path) -> FileSystem:
    """Read the file system of `path`; if that doesn't exist yet, of its nearest parent that does."""
    while not path.exists() and path != path.parent:
        path = path.parent
    status = os.statvfs(path)
    return FileSystem(
        total=status.f_blocks * status.f_frsize,
        used=(status.f_blocks - status.f_bfree) * status.f_frsize,
        free=status.f_bavail * status.f_frsize,
    )


def disk_report(disk: FileSystem | None, growth: int = 0) -> dict[str, int | None]:
    """
    Write the disk's figures in whole GiB: total and least available rounded down, used rounded up.

    `growth` is what thin images may still grow by, in bytes; the least available is negative if that is more than is
    free. Without a known disk the total is 0.
    """
    if disk is None:
        return {"local_gb": 0, "local_gb_used": 0, "disk_available_least": None}
    return {
        "local_gb": disk.total // _GIB,
        "local_gb_used": min(-(-disk.used // _GIB), disk.total // _GIB),
        "disk_available_least": (disk.free - growth) // _GIB,
    }


def read_boot_time(root: Path = _ROOT) -> datetime | None:
    """Read when the machine whose /proc is under `root` started, in UTC; None where that can't be read."""
    try:
        lines = (root / "proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    seconds = next((line.split()[1] for line in lines if line.startswith("btime ")), None)
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC)


def read_uptime_s(root: Path = _ROOT) -> float | None:
    """Read for how many seconds the machine has been up; None where that can't be read."""
    try:
        return float((root / "proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return None


# CPU features whose traits have another name, as the kernel and libvirt both spell them (libvirt's hyphens apart); the
# table is Nova's (release 34, nova/virt/libvirt/utils.py) with `pni`, SSE3, and the traits of mitigations.
X86_TRAITS: Mapping[str, tuple[str, ...]] = {
    "aes": ("HW_CPU_X86_AESNI",),
    "bmi1": ("HW_CPU_X86_BMI",),
    "fma": ("HW_CPU_X86_FMA3",),
    "gfni": ("HW_CPU_X86_AVX512GFNI",),
    "md_clear": ("HW_CPU_X86_INTEL_MD_CLEAR",),
    "pni": ("HW_CPU_X86_SSE3",),
    "rtm": ("HW_CPU_X86_TSX",),
    "sha_ni": ("HW_CPU_X86_SHA",),
    "svm": ("HW_CPU_X86_SVM", "HW_CPU_X86_AMD_SVM"),
    "vaes": ("HW_CPU_X86_AVX512VAES",),
    "virt_ssbd": ("HW_CPU_X86_AMD_VIRT_SSBD",),
    "vmx": ("HW_CPU_X86_VMX", "HW_CPU_X86_INTEL_VMX"),
    "vpclmulqdq": ("HW_CPU_X86_AVX512VPCLMULQDQ",),
}
HYPERTHREADING = "HW_CPU_HYPERTHREADING"
STANDARD_TRAITS = frozenset(os_traits.get_traits())
_PREFIXES = {"x86_64": "HW_CPU_X86_", "i686": "HW_CPU_X86_", "aarch64": "HW_CPU_AARCH64_"}


def cpu_traits(arch: str, features: Iterable[str], x86_traits: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
    """
    Name a CPU's features as standard traits; a feature without one is left out.

    Args:
        arch: architectures other than x86 and aarch64 have none.
        x86_traits: the traits of x86 features that are not spelt alike, by feature with underscores.
    """
    prefix = _PREFIXES.get(arch)
    if prefix is None:
        return frozenset()
    table = x86_traits if arch != "aarch64" else {}
    spelt = (feature.replace("-", "_") for feature in features)
    names = (name for one in spelt for name in table.get(one, (prefix + one.upper().replace("_", ""),)))
    return STANDARD_TRAITS.intersection(names)
