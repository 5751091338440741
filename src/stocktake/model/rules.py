"""The settings that the pure rules need. Invariant: the core never reads settings; it is handed these."""

from collections.abc import Mapping

from stocktake.model.pci import DeviceSpec
from stocktake.model.value import Value, replace


class Rules(Value, frozen=True, kw_only=True):
    """
    The settings that the pure rules need: MiB, whole CPUs; a ratio of None or 0 is unset.

    Attributes:
        host: this service's name.
        device_specs: which PCI devices may be given to guests.
        report_pci: PCI devices become child providers.
    """

    host: str
    reserved_host_memory_mb: int = 512
    reserved_host_cpus: int = 0
    reserved_host_disk_mb: int = 0
    cpu_allocation_ratio: float | None = None
    ram_allocation_ratio: float | None = None
    disk_allocation_ratio: float | None = None
    initial_cpu_allocation_ratio: float = 4.0
    initial_ram_allocation_ratio: float = 1.0
    initial_disk_allocation_ratio: float = 1.0
    device_specs: tuple[DeviceSpec, ...] = ()
    report_pci: bool = True

    def for_whole(self) -> "Rules":
        """Give the rules of a node that is allocated as a whole: nothing is reserved, and no ratio is above 1."""
        return replace(
            self,
            reserved_host_memory_mb=0,
            reserved_host_cpus=0,
            reserved_host_disk_mb=0,
            cpu_allocation_ratio=1.0,
            ram_allocation_ratio=1.0,
            disk_allocation_ratio=1.0,
        )


class Weights(Value, frozen=True, kw_only=True):
    """
    How much each weigher counts among the nodes that a machine fits; Nova's defaults.

    Attributes:
        ram, cpu, disk, io_ops, num_instances, build_failure, pci, metrics: multipliers; below 0 less is better.
        metric_ratios: how much of each metric makes a node's `metrics`.
        weight_of_unavailable: a node's `metrics` if it lacks one of them.
    """

    ram: float = 1.0
    cpu: float = 1.0
    disk: float = 1.0
    io_ops: float = -1.0
    num_instances: float = 0.0
    build_failure: float = 1_000_000.0
    pci: float = 1.0
    metrics: float = 1.0
    metric_ratios: Mapping[str, float] = {}
    weight_of_unavailable: float = -10_000.0
