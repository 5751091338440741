"""
Step 4, the host's CPUs: which are online, model and features, what they can run, traits. Invariant: only what libvirt
says.

The forms are Nova's (release 34, nova/virt/libvirt/driver.py). For traits Nova asks for the CPU model that its guests
get by default; a trait here says what the host's CPU has, and is a standard one (os-traits).
"""

from collections.abc import Iterable, Mapping
from xml.etree.ElementTree import Element, tostring

import libvirt

from stocktake.drivers.libvirt.connection import Hypervisor
from stocktake.drivers.libvirt.numa import has_hyperthreading
from stocktake.drivers.libvirt.xml import number, read_xml, text_of
from stocktake.drivers.machine import HYPERTHREADING, STANDARD_TRAITS, X86_TRAITS, cpu_traits
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


# libvirt's own names of features (its cpu_map) whose traits have another name.
_TRAITS = {
    **X86_TRAITS,
    "amd_no_ssb": ("HW_CPU_X86_AMD_NO_SSB",),
    "amd_ssbd": ("HW_CPU_X86_AMD_SSBD",),
    "hle": ("HW_CPU_X86_TSX",),
    "ibpb": ("HW_CPU_X86_AMD_IBPB",),
    "pclmuldq": ("HW_CPU_X86_CLMUL",),
    "spec_ctrl": ("HW_CPU_X86_INTEL_SPEC_CTRL",),
    "ssbd": ("HW_CPU_X86_INTEL_SSBD",),
    "sse4.1": ("HW_CPU_X86_SSE41",),
    "sse4.2": ("HW_CPU_X86_SSE42",),
}


def host_traits(capabilities: Element, features: Iterable[str]) -> frozenset[str]:
    """Name what the host offers: its CPU's traits, its architecture, those it can run, and hyper-threading."""
    arch = text_of(capabilities, "./host/cpu/arch")
    runs = {guest_arch.get("name", "") for guest_arch in capabilities.findall("./guest/arch")}
    names = {f"HW_ARCH_{arch.upper()}"} | {f"COMPUTE_ARCH_{name.upper()}" for name in runs}
    if has_hyperthreading(capabilities):
        names.add(HYPERTHREADING)
    return STANDARD_TRAITS.intersection(names) | cpu_traits(arch, features, _TRAITS)
