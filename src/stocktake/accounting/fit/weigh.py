"""
Step 6, which of the nodes that a machine fits is the best. Invariant: a score is the sum of its parts, and each is
shown.

The weighers are Nova's (release 34, nova/weights.py and nova/scheduler/weights/): their names, what they weigh, and how
weights become comparable. Rules: docs/accounting.md, "Which node is best".
"""

from collections.abc import Mapping, Sequence

from stocktake.accounting.instance_usage import MIB_PER_GIB
from stocktake.model.books import ComputeNode
from stocktake.model.rules import Weights
from stocktake.model.value import Value, replace

# Weighers whose weights are compared with 0, and below it count as 0; the others' with the least of the nodes'.
_FROM_ZERO = frozenset({"ram", "cpu", "disk", "io_ops"})
# Of more free devices than this a node has no more than others.
_DEVICES_MAX = 99


class Part(Value, frozen=True, kw_only=True):
    """
    What one weigher says of one node.

    Attributes:
        weight: in the weigher's own unit.
        normalised: 0 to 1 among the nodes compared.
        score: normalised, times the multiplier.
    """

    weigher: str
    weight: float
    normalised: float
    multiplier: float
    score: float


class Weighed(Value, frozen=True, kw_only=True):
    """A node with its score, the higher the better, and what makes it."""

    node: ComputeNode
    score: float
    parts: tuple[Part, ...]


def weigh(nodes: Sequence[ComputeNode], weights: Weights) -> tuple[Weighed, ...]:
    """Order nodes, the best first; of equals the first by name."""
    found = [_weights_of(node, weights) for node in nodes]
    columns = [
        _column(name, [weights_of[name] for weights_of in found], multiplier)
        for name, multiplier in _multipliers(weights).items()
    ]
    weighed: list[Weighed] = []
    for place, node in enumerate(nodes):
        parts = tuple(column[place] for column in columns)
        weighed.append(Weighed(node=node, score=sum(part.score for part in parts), parts=parts))
    return tuple(sorted(weighed, key=lambda one: (-one.score, one.node.hypervisor_hostname, one.node.uuid)))


def leaning(weights: Weights, *, pack: bool) -> Weights:
    """Make the weighers of what is free prefer full nodes, or empty ones, as strongly as they prefer now."""
    sign = -1 if pack else 1
    return replace(weights, ram=sign * abs(weights.ram), cpu=sign * abs(weights.cpu), disk=sign * abs(weights.disk))


def _column(name: str, found: Sequence[float], multiplier: float) -> list[Part]:
    """Make one weigher's weights comparable; a node that is alone has nothing to be better than."""
    if name in _FROM_ZERO:
        found = [max(weight, 0) for weight in found]
    lowest = 0 if name in _FROM_ZERO else min(found, default=0)
    span = max(found) - lowest if len(found) > 1 else 0
    parts: list[Part] = []
    for weight in found:
        normalised = (weight - lowest) / span if span else 0.0
        # Adding 0 makes 0 of -0, which no reader expects.
        score = multiplier * normalised + 0.0
        parts.append(Part(weigher=name, weight=weight, normalised=normalised, multiplier=multiplier, score=score))
    return parts


def _multipliers(weights: Weights) -> Mapping[str, float]:
    return {
        "ram": weights.ram,
        "cpu": weights.cpu,
        "disk": weights.disk,
        "io_ops": weights.io_ops,
        "num_instances": weights.num_instances,
        # Nova's option says how much a failure counts against a node.
        "build_failure": -weights.build_failure,
        "pci": weights.pci,
        "metrics": weights.metrics,
    }


def _weights_of(node: ComputeNode, weights: Weights) -> Mapping[str, float]:
    """Weigh a node: MiB of memory and disk, vCPUs, counts."""
    # Thin images may leave less free than the record says.
    least_gb = node.free_disk_gb if node.disk_available_least is None else node.disk_available_least
    devices = sum(pool.count for pool in node.pci_device_pools)
    return {
        "ram": node.free_ram_mb,
        "cpu": node.vcpus * node.cpu_allocation_ratio - node.vcpus_used,
        "disk": min(node.free_disk_gb, least_gb) * MIB_PER_GIB,
        "io_ops": _stat(node, "io_workload"),
        "num_instances": _stat(node, "num_instances"),
        "build_failure": _stat(node, "failed_builds"),
        # Few are better: devices are kept for who wants some, and one node's are used up before another's.
        "pci": _DEVICES_MAX + 1 - min(devices, _DEVICES_MAX),
        "metrics": _metrics(node, weights),
    }


def _stat(node: ComputeNode, name: str) -> float:
    found = node.stats.get(name)
    # A driver may have said anything.
    return found if isinstance(found, int | float) else 0


def _metrics(node: ComputeNode, weights: Weights) -> float:
    values = {metric.name: metric.value for metric in node.metrics}
    ratios = {name: ratio for name, ratio in weights.metric_ratios.items() if ratio}
    if not ratios.keys() <= values.keys():
        return weights.weight_of_unavailable
    return sum(values[name] * ratio for name, ratio in ratios.items())
