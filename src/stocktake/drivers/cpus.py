"""
Step 4, which CPUs are sold as what. Invariant: only CPUs that are online count, and none is sold twice.

The rules are Nova's (release 34, nova/virt/libvirt/driver.py: `_get_vcpu_available`, `_get_pcpu_available`).
"""

from stocktake.errors import InvalidData, SettingsError
from stocktake.model.cpuset import format_cpu_set, parse_cpu_set
from stocktake.model.value import Value


class HostCpus(Value, frozen=True, kw_only=True):
    """
    Online host CPUs: `shared` for floating guests, `dedicated` sold to pinned ones; no CPU is in both.

    `pinnable` are those that a guest may be pinned to: the dedicated ones, or all where no set is configured.
    """

    shared: frozenset[int]
    dedicated: frozenset[int] = frozenset()
    pinnable: frozenset[int] = frozenset()


def split_cpus(online: frozenset[int], *, shared_spec: str | None, dedicated_spec: str | None) -> HostCpus:
    """
    Say which CPUs are sold as what.

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
        raise SettingsError(f"{name}: no CPU is left of {spec!r}")
    if missing := cpus - online:
        raise SettingsError(
            f"{name}: CPU {format_cpu_set(missing)} is not on this host or offline (online: {format_cpu_set(online)})",
            remedy=f"Change {name}, or bring the CPU online.",
        )
    return cpus
