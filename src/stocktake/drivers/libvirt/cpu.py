"""
Step 4, the host's CPUs: which are online, model and features, what they can run, traits. Invariant: only what libvirt
says.

The forms and the table of traits are Nova's (release 34, nova/virt/libvirt/driver.py and utils.py), with what the table
lacks: `pni` is how libvirt spells SSE3, and the traits of mitigations. Nova asks for the CPU model that its guests get
by default; a trait here says what the host's CPU has, and is a standard one (os-traits).
"""

from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element, tostring

import libvirt
import os_traits

from stocktake.drivers.libvirt.connection import Hypervisor
from stocktake.drivers.libvirt.numa import has_hyperthreading
from stocktake.drivers.libvirt.xml import number, read_xml, text_of
from stocktake.model.value import encode


def read_online_cpus(hypervisor: Hypervisor) -> frozenset[int]:
    """Read which host CPUs are online."""
    _count, online, _online_count = hypervisor.getCPUMap()
    return frozenset(cpu for cpu, is_online in enumerate(online) if is_online)


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
