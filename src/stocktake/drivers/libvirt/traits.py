"""
Step 4, what the CPU can do, in the scheduler's words. Invariant: only standard traits (os-traits), only what libvirt
says.

The table is Nova's (release 34, nova/virt/libvirt/utils.py) with what it lacks: `pni` is how libvirt spells SSE3, and
the traits of mitigations. Nova asks for the CPU model that its guests get by default; a trait here says what the host's
CPU has.
"""

from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element

import os_traits

from stocktake.drivers.libvirt.topology import has_hyperthreading
from stocktake.drivers.libvirt.xml import text_of

# libvirt's feature names (its cpu_map) to traits, where the trait isn't the name without hyphens.
_X86_TRAITS: Mapping[str, tuple[str, ...]] = {
    "aes": ("HW_CPU_X86_AESNI",),
    "amd-no-ssb": ("HW_CPU_X86_AMD_NO_SSB",),
    "amd-ssbd": ("HW_CPU_X86_AMD_SSBD",),
    "bmi1": ("HW_CPU_X86_BMI",),
    "fma": ("HW_CPU_X86_FMA3",),
    "gfni": ("HW_CPU_X86_AVX512GFNI",),
    "hle": ("HW_CPU_X86_TSX",),
    "ibpb": ("HW_CPU_X86_AMD_IBPB",),
    "md-clear": ("HW_CPU_X86_INTEL_MD_CLEAR",),
    "pclmuldq": ("HW_CPU_X86_CLMUL",),
    "pni": ("HW_CPU_X86_SSE3",),
    "rtm": ("HW_CPU_X86_TSX",),
    "sha-ni": ("HW_CPU_X86_SHA",),
    "spec-ctrl": ("HW_CPU_X86_INTEL_SPEC_CTRL",),
    "ssbd": ("HW_CPU_X86_INTEL_SSBD",),
    "sse4.1": ("HW_CPU_X86_SSE41",),
    "sse4.2": ("HW_CPU_X86_SSE42",),
    "svm": ("HW_CPU_X86_SVM", "HW_CPU_X86_AMD_SVM"),
    "vaes": ("HW_CPU_X86_AVX512VAES",),
    "virt-ssbd": ("HW_CPU_X86_AMD_VIRT_SSBD",),
    "vmx": ("HW_CPU_X86_VMX", "HW_CPU_X86_INTEL_VMX"),
    "vpclmulqdq": ("HW_CPU_X86_AVX512VPCLMULQDQ",),
}

_STANDARD = frozenset(os_traits.get_traits())


def cpu_traits(arch: str, features: Iterable[str]) -> frozenset[str]:
    """Name the traits of a CPU with libvirt's `features`; architectures other than x86 and aarch64 have none."""
    prefix = {"x86_64": "HW_CPU_X86_", "i686": "HW_CPU_X86_", "aarch64": "HW_CPU_AARCH64_"}.get(arch)
    if prefix is None:
        return frozenset()
    table = _X86_TRAITS if arch != "aarch64" else {}
    names = (name for feature in features for name in table.get(feature, (_spelt_alike(prefix, feature),)))
    return _STANDARD.intersection(names)


def _spelt_alike(prefix: str, feature: str) -> str:
    return prefix + feature.upper().replace("-", "")


def host_traits(capabilities: Element, features: Iterable[str]) -> frozenset[str]:
    """Name what the host offers: its CPU's traits, its architecture, those it can run, and hyper-threading."""
    arch = text_of(capabilities, "./host/cpu/arch")
    runs = {guest_arch.get("name", "") for guest_arch in capabilities.findall("./guest/arch")}
    names = {f"HW_ARCH_{arch.upper()}"} | {f"COMPUTE_ARCH_{name.upper()}" for name in runs}
    if has_hyperthreading(capabilities):
        names.add("HW_CPU_HYPERTHREADING")
    return _STANDARD.intersection(names) | cpu_traits(arch, features)
