"""Whether something fits: a "no" carries its dimension and its numbers. Invariant: every reason, not the first."""

from typing import Annotated

from msgspec import Meta

from stocktake.model.value import LARGEST, Value


class NoRoom(Value, frozen=True, kw_only=True):
    """
    One dimension that ran out.

    Attributes:
        what: `VCPU`, `PCPU`, `MEMORY_MB`, `DISK_GB`, `numa.memory`, `numa.pages.2048`, `numa.pinned_cpus`,
            `pci.<alias>`, `trait.<NAME>`, `state.down`,
            `scheduler.conflict`, ...
        asked, free, total: in the dimension's own unit.
        text: one sentence.
    """

    what: str
    asked: float
    free: float
    total: float
    text: str


Most = Annotated[float, Meta(ge=0, le=LARGEST)]


class Limits(Value, frozen=True, kw_only=True):
    """
    How far a node may be filled; None is unlimited, as the scheduler decides.

    Attributes:
        memory_mb, vcpus, disk_gb: the most that may be used of the node in all.
        pcpus: the same of CPUs to be pinned, where a node has them as `PCPU`; `vcpus` is of the others then.
        numa_cpu_ratio, numa_ram_ratio: the allocation ratios of a cell's shared CPUs and small pages.
    """

    memory_mb: Most | None = None
    vcpus: Most | None = None
    disk_gb: Most | None = None
    pcpus: Most | None = None
    numa_cpu_ratio: Most | None = None
    numa_ram_ratio: Most | None = None
