"""
Step 6, which of a cell's CPUs a guest is pinned to. Invariant: a thread policy is kept to the letter, or the cell is
refused.

The rules are Nova's (release 34, nova/virt/hardware.py: `_pack_instance_onto_cores`):
- `require`: the same number of threads, two at least, of each core taken; only the last may give fewer. The cores have
  that many free threads, the last too.
- `prefer` (and no policy): the same if it can be had, any free CPUs otherwise. Nova then takes one thread of each core;
  here cores with most free threads give all they have.
- `isolate`: one thread of each core taken. The core's other threads are free and stay so, and it is a core with as many
  threads as any of the cell, or the host itself may be on the others.
- A CPU reserved for emulator threads is any other free one; with `isolate`, one of a core that is free as a whole.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from stocktake.model.fitting import NoRoom
from stocktake.model.topology import NodeCell, ThreadPolicy


@dataclass(frozen=True, slots=True)
class Core:
    """
    CPUs that share a core and may be pinned.

    Attributes:
        pinnable: those that guests may be pinned to, taken or not.
        free: those of them that nobody has, in order.
        whole: all the core's threads may be pinned and are free.
        ownable: all its threads may be pinned.
        threads: how many it has, those for floating guests too.
    """

    pinnable: int
    free: tuple[int, ...]
    whole: bool
    ownable: bool
    threads: int


@dataclass(frozen=True, slots=True)
class Cores:
    """A cell's cores, its free CPUs, and how many threads its largest core has."""

    cell: int
    cores: tuple[Core, ...] = ()
    free: frozenset[int] = frozenset()
    pinnable: int = 0
    threads: int = 1


def cores_of(cell: NodeCell, free: frozenset[int]) -> Cores:
    """Sort a cell's CPUs that may be pinned into cores; one of which no siblings are told is a core of its own."""
    told = frozenset[int]().union(*cell.siblings)
    # A CPU that is told in two cores, as no machine has, takes both with it, as the count will.
    doubtful = len(told) < sum(map(len, cell.siblings))
    cores: list[Core] = []
    seen: set[int] = set()
    for core in (*cell.siblings, *(frozenset({cpu}) for cpu in sorted(cell.pcpuset - told))):
        own = core & cell.pcpuset
        blocked = core
        if doubtful:
            own -= seen
            seen |= core
            blocked = core.union(*(other for other in cell.siblings if other & own))
        if own:
            cores.append(
                Core(
                    pinnable=len(own),
                    free=tuple(sorted(own & free)),
                    whole=blocked <= free,
                    ownable=blocked <= cell.pcpuset,
                    threads=len(core),
                )
            )
    threads = max(map(len, cell.siblings), default=1)
    return Cores(cell=cell.id, cores=tuple(cores), free=free, pinnable=len(cell.pcpuset), threads=threads)


def no_cores(cores: Cores, count: int, policy: ThreadPolicy | None, *, reserve: int) -> list[NoRoom]:
    """
    Say what is missing to pin `count` vCPUs and reserve 0 or 1 CPU; nothing if they fit.

    `numa.pinned_cpus` counts CPUs, `numa.whole_cores` cores for `isolate`, `numa.sibling_cpus` CPUs for `require`.
    """
    missing: list[NoRoom] = []
    asked, free, total = count + reserve, len(cores.free), cores.pinnable
    if asked > free:
        text = f"{asked} CPUs to pin wanted for one guest cell, {free} free of {total} on host cell {cores.cell}"
        missing.append(NoRoom(what="numa.pinned_cpus", asked=asked, free=free, total=total, text=text))
    if policy == "isolate":
        whole, alone = _whole_cores(cores)
        # The reserved CPU may be on a core that guests' vCPUs may not be on; a vCPU not.
        free = len(alone) + min(reserve, len(whole) - len(alone))
        total = sum(core.ownable for core in cores.cores)
        if asked > free:
            text = f"{asked} cores wanted for one guest cell, {free} wholly free of {total} on host cell {cores.cell}"
            missing.append(NoRoom(what="numa.whole_cores", asked=asked, free=free, total=total, text=text))
    if policy == "require" and count > (free := _sibling_room(cores, (len(core.free) for core in cores.cores))):
        total = _sibling_room(cores, (core.pinnable for core in cores.cores))
        wanted = f"{count} CPUs on sibling threads wanted for one guest cell"
        text = f"{wanted}, {free} free of {total} on host cell {cores.cell}"
        missing.append(NoRoom(what="numa.sibling_cpus", asked=count, free=free, total=total, text=text))
    return missing


def pick_cpus(
    cores: Cores, count: int, policy: ThreadPolicy | None, *, reserve: int
) -> tuple[tuple[int, ...], frozenset[int]]:
    """
    Choose `count` CPUs to pin, siblings next to each other, and 0 or 1 CPU for the emulator threads.

    Asks for `no_cores` to have found nothing missing.
    """
    if policy == "isolate":
        whole, alone = _whole_cores(cores)
        pins = tuple(core.free[0] for core in alone[:count])
        left = (core.free[0] for core in whole if core.free[0] not in pins)
        return pins, frozenset(islice(left, reserve))
    pins = _sibling_cpus(cores, count)
    return pins, _spare_cpu(cores, frozenset(pins)) if reserve else frozenset()


def _sibling_cpus(cores: Cores, count: int) -> tuple[int, ...]:
    """Take as many threads of each core as will do, from all down to two; if none will, the emptiest cores whole."""
    for threads in range(cores.threads, 1, -1):
        able = [core for core in cores.cores if len(core.free) >= threads]
        if threads * len(able) >= count:
            # Of those that will do, cores with few free threads go first: what is left stays in one piece.
            able.sort(key=lambda core: len(core.free))
            return tuple(islice((cpu for core in able for cpu in core.free[:threads]), count))
    emptiest = sorted(cores.cores, key=lambda core: -len(core.free))
    return tuple(islice((cpu for core in emptiest for cpu in core.free), count))


def _spare_cpu(cores: Cores, taken: frozenset[int]) -> frozenset[int]:
    """Take the free CPU that breaks up least: a lone thread before one of a free core."""
    left = [[cpu for cpu in core.free if cpu not in taken] for core in cores.cores]
    return frozenset(min((free for free in left if free), key=len)[:1])


def _sibling_room(cores: Cores, counts: Iterable[int]) -> int:
    """Count the CPUs that can be had if each core gives the same number, two at least."""
    threads_of = list(counts)
    return max((each * sum(has >= each for has in threads_of) for each in range(2, cores.threads + 1)), default=0)


def _whole_cores(cores: Cores) -> tuple[list[Core], list[Core]]:
    """Give the cores that are free as a whole, and those of them with as many threads as any."""
    whole = sorted((core for core in cores.cores if core.whole), key=lambda core: core.threads)
    return whole, [core for core in whole if core.threads == cores.threads]
