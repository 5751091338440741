"""
NUMA: cells of a host, cells of a guest, and what a guest takes of a cell. Invariant: a cell's usage is the sum of its
takes.

CPU sets are read as people write them, `0-3,^2,8`: what `^` names is out, wherever it stands. The JSON names are Nova's
(`memory`, `mempages`, `pagesize`), so that a stored topology reads like Nova's.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Literal

from msgspec import field

from stocktake.errors import InvalidData
from stocktake.model.value import Value

CpuPolicy = Literal["shared", "dedicated", "mixed"]
ThreadPolicy = Literal["prefer", "isolate", "require"]


class HostPages(Value, frozen=True, kw_only=True):
    """The pages of one size that a host cell has: size in KiB, counts in pages."""

    size_kb: int
    total: int
    reserved: int = 0


class HostCell(Value, frozen=True, kw_only=True):
    """
    One NUMA cell as the hypervisor reports it.

    Attributes:
        cpuset: CPUs for floating (shared) guests.
        pcpuset: CPUs that may be pinned (dedicated).
        memory_mb: MiB.
        siblings: sets of CPUs that share a core.
    """

    id: int
    cpuset: frozenset[int]
    pcpuset: frozenset[int] = frozenset()
    memory_mb: int = field(name="memory")
    siblings: tuple[frozenset[int], ...] = ()
    pages: tuple[HostPages, ...] = field(name="mempages", default=())
    socket: int | None = None


class HostTopology(Value, frozen=True, kw_only=True):
    """The NUMA cells of a host."""

    cells: tuple[HostCell, ...]


class GuestCell(Value, frozen=True, kw_only=True):
    """
    One NUMA cell of a guest; `id` names the host cell it sits on.

    Attributes:
        cpuset: the guest's shared vCPUs.
        pcpuset: the guest's dedicated vCPUs.
        memory_mb: MiB.
        pagesize_kb: KiB; None takes the host cell's smallest.
        cpu_pinning: guest vCPU to host CPU.
        cpuset_reserved: host CPUs taken for the emulator threads.
    """

    id: int
    cpuset: frozenset[int] = frozenset()
    pcpuset: frozenset[int] = frozenset()
    memory_mb: int = field(name="memory")
    pagesize_kb: int | None = field(name="pagesize", default=None)
    cpu_pinning: Mapping[int, int] | None = None
    cpu_policy: CpuPolicy | None = None
    cpu_thread_policy: ThreadPolicy | None = None
    cpuset_reserved: frozenset[int] | None = None


class GuestTopology(Value, frozen=True, kw_only=True):
    """The NUMA cells of a guest."""

    cells: tuple[GuestCell, ...]
    emulator_threads_policy: Literal["isolate", "share"] | None = None


class PagesTaken(Value, frozen=True, kw_only=True):
    """How many pages of one size (KiB) are taken."""

    size_kb: int
    count: int


class CellTake(Value, frozen=True, kw_only=True):
    """What one holder takes of one host cell: whole shared vCPUs, MiB, pinned host CPUs, pages."""

    cell: int
    vcpus: int
    memory_mb: int
    pinned_cpus: frozenset[int] = frozenset()
    pages: tuple[PagesTaken, ...] = ()


class NodePages(Value, frozen=True, kw_only=True):
    """A host cell's pages of one size with what is used; counts in pages."""

    size_kb: int
    total: int
    reserved: int
    used: int


class NodeCell(Value, frozen=True, kw_only=True):
    """A host cell with its usage, as the record keeps it; Nova's names."""

    id: int
    cpuset: frozenset[int]
    pcpuset: frozenset[int]
    memory_mb: int = field(name="memory")
    siblings: tuple[frozenset[int], ...]
    pages: tuple[NodePages, ...] = field(name="mempages")
    socket: int | None
    cpu_usage: int
    memory_usage_mb: int = field(name="memory_usage")
    pinned_cpus: frozenset[int]


class NodeTopology(Value, frozen=True, kw_only=True):
    """The cells of a node's record."""

    cells: tuple[NodeCell, ...]


# No machine has more; a typing error must not make a set of millions.
CPU_MAX = 65535
_SHOWN_MAX = 40
_RULE = re.compile(r"(\^?)\s*([0-9]{1,9})(?:\s*-\s*([0-9]{1,9}))?", re.ASCII)


def parse_cpu_set(spec: str) -> frozenset[int]:
    """
    Read a CPU set: numbers and ranges, separated by commas; a leading `^` takes out (Nova's and libvirt's form).

    Raises:
        InvalidData: a rule that can't be read, a range that runs backwards, or a CPU over 65535.
    """
    taken: set[int] = set()
    left_out: set[int] = set()
    for rule in spec.split(","):
        bare = rule.strip()
        if not bare:
            continue
        found = _RULE.fullmatch(bare)
        if found is None:
            raise InvalidData(f"{bare[:_SHOWN_MAX]!r} is not a CPU or a range of CPUs such as 0-3")
        low = int(found[2])
        high = int(found[3]) if found[3] else low
        if high < low:
            raise InvalidData(f"the range {bare!r} runs backwards")
        if high > CPU_MAX:
            raise InvalidData(f"{bare!r} names a CPU over {CPU_MAX}")
        (left_out if found[1] else taken).update(range(low, high + 1))
    return frozenset(taken - left_out)


def format_cpu_set(cpus: Iterable[int]) -> str:
    """Write CPUs as people do: `0-3,8`; empty for none."""
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
