"""
Step 4: an Ironic node to a report. Invariant: pure; a node's inventory is one machine of its resource class, reserved
while it is unavailable.

Nova's rules for the states in which a node is unavailable. That a node is unavailable is `reserved`, never a total of
0: what an instance holds of it stays valid.
"""

import re
from collections.abc import Mapping
from typing import Any

from stocktake.drivers.ironic.api import Node
from stocktake.model.books import StatValue
from stocktake.model.hypervisor import Survey
from stocktake.model.problem import Problem
from stocktake.model.value import LARGEST

TYPE = "ironic"
# The major version of the API, as in Nova.
VERSION = 1
_CLASS_MAX = 255
_SHOWN_MAX = 60
_TEXT_MAX = 1000

# Nova's names of architectures; others are no reason to say that a machine runs something.
# fmt: off
_ARCHITECTURES = frozenset({
    "aarch64", "alpha", "armv6", "armv7b", "armv7l", "cris", "i686", "ia64", "lm32", "m68k", "microblaze",
    "microblazeel", "mips", "mips64", "mips64el", "mipsel", "openrisc", "parisc", "parisc64", "ppc",
    "ppc64", "ppc64le", "ppcemb", "ppcle", "s390", "s390x", "sh4", "sh4eb", "sparc", "sparc64", "unicore32",
    "x86_64", "xtensa", "xtensaeb",
})
# fmt: on
_OTHER_NAMES = {"amd64": "x86_64", "x64": "x86_64", "i386": "i686", "i486": "i686", "i586": "i686", "arm64": "aarch64"}


def survey_of(node: Node, *, skip_reserve_in_use: bool = False) -> Survey:
    """
    Report a node's totals and its inventory.

    Args:
        skip_reserve_in_use: a node that only has an instance is not reserved.
    """
    problems: list[Problem] = []
    totals = {key: _whole(node, name, problems) for key, name in _SIZES.items()}
    in_use = node.instance_uuid is not None
    problems += _troubles(node)
    stats = _stats(node, problems)
    report: dict[str, object] = {
        "uuid": node.uuid,
        "hypervisor_hostname": node.uuid,
        "hypervisor_type": TYPE,
        "hypervisor_version": VERSION,
        **totals,
        **{f"{key}_used": total if in_use else 0 for key, total in totals.items()},
        "cpu_info": "",
        "numa_topology": None,
        "supported_instances": _supported(node),
        "inventories": _inventories(node, skip_reserve_in_use=skip_reserve_in_use),
        "traits": list(node.traits),
        "stats": stats,
    }
    return Survey(report=report, problems=tuple(problems))


def resource_class(name: str) -> str:
    """Make a class of what Ironic calls it, as Nova does: every run of other characters is one underscore."""
    return ("CUSTOM_" + re.sub(r"[^0-9A-Z]+", "_", name.upper()))[:_CLASS_MAX]


def is_available(node: Node) -> bool:
    """Say whether a node is available, an instance on it left aside."""
    # Ironic's API before 1.2 knew no `available`, and said null.
    ready = node.provision_state in (None, "available")
    return ready and not node.maintenance and node.power_state not in (None, "error")


_SIZES: Mapping[str, str] = {"vcpus": "cpus", "memory_mb": "memory_mb", "local_gb": "local_gb"}


def _inventories(node: Node, *, skip_reserve_in_use: bool) -> dict[str, dict[str, int]]:
    if not node.resource_class:
        return {}
    kept = not is_available(node) or (node.instance_uuid is not None and not skip_reserve_in_use)
    return {resource_class(node.resource_class): {"total": 1, "reserved": int(kept)}}


def _whole(node: Node, name: str, problems: list[Problem]) -> int:
    """Read a size; Ironic takes any text for one, and one that is none counts as 0."""
    said = node.properties.get(name)
    if said is None:
        return 0
    if isinstance(said, str) and re.fullmatch(r"\s*[0-9]{1,15}\s*", said, re.ASCII):
        said = int(said)
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said <= LARGEST:
        return said
    text = f"its property {name} is {_shown(said)}, not a whole number: it counts as 0"
    problems.append(
        _doubt("property-unreadable", name, text, "Set the property in Ironic, or let it inspect the node.")
    )
    return 0


def _supported(node: Node) -> list[list[str]]:
    said = str(node.properties.get("cpu_arch") or "").lower()
    name = _OTHER_NAMES.get(said, said)
    return [[name, "baremetal", "hvm"]] if name in _ARCHITECTURES else []


def _stats(node: Node, problems: list[Problem]) -> dict[str, StatValue]:
    """Tell the capabilities, and above them the states that an operator asks for."""
    stats: dict[str, StatValue] = dict(_capabilities(node, problems))
    architecture = node.properties.get("cpu_arch")
    if architecture is not None:
        stats["cpu_arch"] = str(architecture)[:_TEXT_MAX]
    told: dict[str, StatValue] = {
        "name": node.name,
        "provision_state": node.provision_state,
        "target_provision_state": node.target_provision_state,
        "power_state": node.power_state,
        "maintenance": node.maintenance,
        "maintenance_reason": node.maintenance_reason,
        "instance_uuid": node.instance_uuid,
        "resource_class": node.resource_class,
        "conductor_group": node.conductor_group or None,
        "shard": node.shard,
    }
    stats.update({key: value for key, value in told.items() if value is not None and value is not False})
    return stats


def _capabilities(node: Node, problems: list[Problem]) -> dict[str, str]:
    """Read `key:value,key:value`; what is neither is left out and told."""
    said: Any = node.properties.get("capabilities")
    if said is None or said == "":
        return {}
    if isinstance(said, Mapping):
        return {str(key): str(value) for key, value in said.items()}
    found: dict[str, str] = {}
    for part in str(said).split(","):
        key, colon, value = part.partition(":")
        if colon and ":" not in value:
            found[key.strip()] = value.strip()
        elif part.strip():
            text = f"its capability {_shown(part)} is not key:value and is ignored"
            problems.append(_doubt("capability-unreadable", "capabilities", text, "Correct its property capabilities."))
    return found


def _troubles(node: Node) -> list[Problem]:
    """Say what somebody has to put right before the node is available again."""
    problems: list[Problem] = []
    state = node.provision_state or ""
    words = f": {' '.join(node.last_error.split())[:_TEXT_MAX]}" if node.last_error else ""
    if state.endswith("failed") or state == "error":
        remedy = "Repair it in Ironic, then `openstack baremetal node manage` and `provide` it."
        problems.append(_wrong("provision-failed", state, f"its state is {state!r}{words}", remedy))
    if node.fault:
        remedy = "Repair the machine, then `openstack baremetal node maintenance unset`."
        text = f"Ironic put it into maintenance for a {node.fault}{words}"
        problems.append(_wrong("machine-faulty", node.fault, text, remedy))
    elif node.power_state == "error":
        problems.append(_wrong("machine-faulty", "power", f"its power can't be switched{words}", "Check its BMC."))
    if node.power_state is None and state == "available":
        text = "it is available and its power state is unknown: it is reserved"
        remedy = f"`openstack baremetal node power off {node.uuid}` finds out."
        problems.append(_doubt("power-unknown", "power_state", text, remedy))
    if not node.resource_class:
        text = "it has no resource class, so it has no inventory"
        remedy = f"`openstack baremetal node set --resource-class CLASS {node.uuid}`."
        problems.append(_wrong("no-resource-class", "resource_class", text, remedy))
    return problems


def _wrong(code: str, about: str, text: str, remedy: str) -> Problem:
    return Problem(code=code, about=about, text=text, remedy=remedy, severity="error")


def _doubt(code: str, about: str, text: str, remedy: str) -> Problem:
    return Problem(code=code, about=about, text=text, remedy=remedy)


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_MAX]
