"""
Step 6, a guest's cells onto the host's: chosen, pinned, paged. Invariant: what fits by the rules below is never
refused.

The rules are Nova's (release 34, nova/virt/hardware.py: `numa_fit_instance_to_host`, `_numa_fit_instance_cell`,
`_pack_instance_onto_cores`). Each guest cell sits on one host cell, each on another. Where this differs, on purpose:
- `isolate` takes whole cores wherever all their threads may be pinned (Nova: only where shared and dedicated CPUs are
  the same), and its emulator threads get a core that is free to the last thread.
- A mixed guest's shared vCPUs count against the cell's, and a cell of it without dedicated ones may be.
- A guest that named no page size is held to the memory that small pages have, not to the cell's.

Which of a cell's CPUs a guest is pinned to: a thread policy is kept to the letter, or the cell is refused.
- `require`: the same number of threads, two at least, of each core taken; only the last may give fewer. The cores have
  that many free threads, the last too.
- `prefer` (and no policy): the same if it can be had, any free CPUs otherwise. Nova then takes one thread of each core;
  here cores with most free threads give all they have.
- `isolate`: one thread of each core taken. The core's other threads are free and stay so, and it is a core with as many
  threads as any of the cell, or the host itself may be on the others.
- A CPU reserved for emulator threads is any other free one; with `isolate`, one of a core that is free as a whole.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from stocktake.accounting.fit.request import CellRequest, NumaRequest
from stocktake.model.fitting import Limits, NoRoom
from stocktake.model.topology import GuestCell, GuestTopology, NodeCell, NodeTopology, ThreadPolicy

KIB_PER_MIB = 1024
# Sets of host cells looked at in vain before devices are said to be near to none; twelve cells have no more.
SETS_MAX = 4096
PINNING = ("dedicated", "mixed")

Accepts = Callable[[frozenset[int]], bool]


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


@dataclass(frozen=True, slots=True)
class _Room:
    """A host cell, its CPUs, and how far it may be filled: None is unlimited."""

    cell: NodeCell
    cores: Cores
    cpu_ratio: float | None
    ram_ratio: float | None


def fit_numa(
    request: NumaRequest,
    topology: NodeTopology | None,
    *,
    limits: Limits | None = None,
    accepts: Accepts | None = None,
    preferred_cells: Collection[int] = (),
    avoided_cells: Collection[int] = (),
    pack: bool = False,
) -> GuestTopology | tuple[NoRoom, ...]:
    """
    Find host cells for a guest's cells, CPUs to pin and pages.

    Small pages and shared CPUs follow the limits' ratios; dedicated CPUs, the memory of a guest that has some, and
    pages that were asked for are never overcommitted. No guest cell takes more than a host cell has in all.

    Args:
        limits: only the NUMA ratios are looked at; None is unlimited.
        accepts: whether a set of host cell ids will do, such as one that the wanted PCI devices are near to.
        preferred_cells: ids to look at first, such as those near to devices that the guest would like.
        avoided_cells: ids to look at last, such as those with devices that this guest did not ask for.
        pack: look at the fullest cells first; otherwise at the emptiest (Nova's default).

    Returns:
        The guest's cells, `id` naming the host's; or each dimension that ran out, on the cell where least is missing.
    """
    cells = topology.cells if topology else ()
    rooms = _ordered(_rooms(cells, request, limits), request, preferred_cells, avoided_cells, pack=pack)
    tries = [
        [
            _place(request, wanted, room, reserve=int(request.emulator_threads == "isolate" and number == 0))
            for room in rooms
        ]
        for number, wanted in enumerate(request.cells)
    ]
    homes = [[at for at, found in enumerate(row) if isinstance(found, GuestCell)] for row in tries]
    matched = len(_matching(homes))
    if matched < len(homes):
        return _reasons(tries, homes, matched=matched, cells=len(cells))
    ids = [room.cell.id for room in rooms]
    chosen = _first_choice(homes, lambda taken: accepts is None or accepts(frozenset(ids[at] for at in taken)))
    if chosen is None:
        text = "no set of host cells that the guest fits is near enough to the devices that it asks for"
        return (NoRoom(what="numa.affinity", asked=len(homes), free=0, total=len(cells), text=text),)
    placed = [row[at] for row, at in zip(tries, chosen, strict=True)]
    return GuestTopology(
        cells=tuple(found for found in placed if isinstance(found, GuestCell)),
        emulator_threads_policy=request.emulator_threads,
    )


def _rooms(cells: Sequence[NodeCell], request: NumaRequest, limits: Limits | None) -> list[_Room]:
    """See what is free of each cell; a CPU that two cells report belongs to the first."""
    pinned = frozenset[int]().union(*(cell.pinned_cpus for cell in cells))
    cpu_ratio = limits.numa_cpu_ratio if limits else None
    ram_ratio = limits.numa_ram_ratio if limits else None
    pinning = request.cpu_policy in PINNING
    if pinning:
        ram_ratio = 1.0 if ram_ratio is None else min(ram_ratio, 1.0)
    rooms: list[_Room] = []
    for cell in cells:
        # Sorting CPUs into cores is most of the work, and a floating guest has no use for it.
        cores = cores_of(cell, cell.pcpuset - pinned) if pinning else Cores(cell=cell.id)
        rooms.append(_Room(cell, cores, cpu_ratio, ram_ratio))
        pinned |= cell.pcpuset
    return rooms


def _ordered(
    rooms: list[_Room], request: NumaRequest, preferred: Collection[int], avoided: Collection[int], *, pack: bool
) -> list[_Room]:
    """Sort host cells by how gladly they are taken; ties keep the host's order."""
    pinning = request.cpu_policy in PINNING
    # A guest that takes every cell has nothing to choose from: its cells keep the host's order, as in Nova.
    sign = 0 if len(rooms) <= len(request.cells) else 1 if pack else -1

    def key(room: _Room) -> tuple[bool, bool, int, int]:
        cell = room.cell
        free_cpus = len(room.cores.free) if pinning else -cell.cpu_usage
        free_mb = cell.memory_mb - cell.memory_usage_mb
        return cell.id in avoided, cell.id not in preferred, sign * free_cpus, sign * free_mb

    return sorted(rooms, key=key)


def _place(request: NumaRequest, wanted: CellRequest, room: _Room, *, reserve: int) -> GuestCell | tuple[NoRoom, ...]:
    """Place one guest cell on one host cell, or say all that is missing there."""
    policy = request.cpu_thread_policy
    count = len(wanted.pcpuset)
    page_size, missing = _pages(request, wanted, room)
    missing = [*_memory(wanted, room), *missing, *_shared_cpus(wanted, room)]
    missing += no_cores(room.cores, count, policy, reserve=reserve)
    if missing:
        return tuple(missing)
    cpus, reserved = pick_cpus(room.cores, count, policy, reserve=reserve)
    pinning = request.cpu_policy in PINNING
    return GuestCell(
        id=room.cell.id,
        cpuset=wanted.cpuset,
        pcpuset=wanted.pcpuset,
        memory_mb=wanted.memory_mb,
        pagesize_kb=page_size,
        cpu_pinning=dict(zip(sorted(wanted.pcpuset), cpus, strict=True)) if pinning else None,
        cpu_policy=request.cpu_policy,
        cpu_thread_policy=policy,
        cpuset_reserved=reserved or None,
    )


def _memory(wanted: CellRequest, room: _Room) -> list[NoRoom]:
    cell = room.cell
    free = float(cell.memory_mb)
    if room.ram_ratio is not None:
        free = min(free, cell.memory_mb * room.ram_ratio - cell.memory_usage_mb)
    return _short(cell.id, "numa.memory", "MiB of memory", asked=wanted.memory_mb, free=free, total=cell.memory_mb)


def _shared_cpus(wanted: CellRequest, room: _Room) -> list[NoRoom]:
    cell = room.cell
    free = float(len(cell.cpuset))
    if room.cpu_ratio is not None:
        free = min(free, len(cell.cpuset) * room.cpu_ratio - cell.cpu_usage)
    asked, total = len(wanted.cpuset), len(cell.cpuset)
    return _short(cell.id, "numa.shared_cpus", "shared CPUs", asked=asked, free=free, total=total)


def _short(cell: int, what: str, unit: str, *, asked: int, free: float, total: int) -> list[NoRoom]:
    """Say that something is missing, if it is: whole units, free rounded down."""
    whole = max(int(free), 0)
    if asked <= whole:
        return []
    text = f"{asked} {unit} wanted for one guest cell, {whole} free of {total} on host cell {cell}"
    return [NoRoom(what=what, asked=asked, free=whole, total=total, text=text)]


def _pages(request: NumaRequest, wanted: CellRequest, room: _Room) -> tuple[int | None, list[NoRoom]]:
    """
    Choose a page size: the largest that does, as Nova's `_numa_cell_supports_pagesize_request`.

    Returns:
        The size in KiB, None if the guest named none; and why not, of each size that might have done.
    """
    cell, asked = room.cell, request.page_size
    sizes = sorted((pages.size_kb for pages in cell.pages), reverse=True)
    choices: Mapping[int | str | None, list[int]] = {
        None: sizes[-1:],
        "small": sizes[-1:],
        "large": sizes[:-1],
        "any": sizes,
    }
    sizes = choices[asked] if asked in choices else [size for size in sizes if size == asked]
    missing: list[NoRoom] = []
    for size_kb in sizes:
        short = _too_few(size_kb, wanted, room, named=asked is not None)
        if short is None:
            return (None if asked is None else size_kb), []
        missing.append(short)
    if missing:
        return None, missing
    if isinstance(asked, int):
        what, count = f"pages of {asked} KiB", -(-wanted.memory_mb * KIB_PER_MIB // asked)
    else:
        # Nobody can say how many pages: MiB, then.
        what, count = f"{asked or 'small'} pages", wanted.memory_mb
    text = f"host cell {cell.id} has no {what}"
    return None, [NoRoom(what=f"numa.pages.{asked or 'small'}", asked=count, free=0, total=0, text=text)]


def _too_few(size_kb: int, wanted: CellRequest, room: _Room, *, named: bool) -> NoRoom | None:
    """Say why a guest cell's memory can't be had in whole pages of this size, if it can't."""
    cell = room.cell
    pages = next(pages for pages in cell.pages if pages.size_kb == size_kb)
    what = f"numa.pages.{size_kb}"
    holds = pages.total - pages.reserved
    ratio: float | None = 1.0
    if size_kb == min(pages.size_kb for pages in cell.pages):
        ratio = room.ram_ratio
        if named:
            ratio = 1.0 if ratio is None else min(ratio, 1.0)
    free = float(holds) if ratio is None else min(holds, holds * ratio - pages.used)
    # Rounded up: part of a page is a page.
    count = -(-wanted.memory_mb * KIB_PER_MIB // size_kb)
    short = _short(cell.id, what, f"pages of {size_kb} KiB", asked=count, free=free, total=pages.total)
    if short:
        return short[0]
    if wanted.memory_mb * KIB_PER_MIB % size_kb:
        text = f"{wanted.memory_mb} MiB is not a whole number of pages of {size_kb} KiB"
        return NoRoom(what=what, asked=count, free=max(int(free), 0), total=pages.total, text=text)
    return None


def _matching(homes: Sequence[Sequence[int]], taken: Collection[int] = ()) -> dict[int, int]:
    """Give as many guest cells as can be a host cell of their own (augmenting paths): host cell to guest cell."""
    holder: dict[int, int] = {}

    def settle(guest: int, seen: set[int]) -> bool:
        for home in homes[guest]:
            if home in taken or home in seen:
                continue
            seen.add(home)
            if home not in holder or settle(holder[home], seen):
                holder[home] = guest
                return True
        return False

    for guest in range(len(homes)):
        settle(guest, set())
    return holder


def _first_choice(homes: Sequence[Sequence[int]], accepted: Callable[[frozenset[int]], bool]) -> tuple[int, ...] | None:
    """
    Take the first choice of distinct host cells, in the order of preference, that is accepted.

    It is the one that trying all permutations in order would give, without trying them: a set of cells that leads
    nowhere is not looked at twice, and none is taken that leaves another guest cell without a home.
    """
    in_vain: set[frozenset[int]] = set()

    def choose(taken: tuple[int, ...]) -> tuple[int, ...] | None:
        if len(taken) == len(homes):
            return taken if accepted(frozenset(taken)) else None
        rest = homes[len(taken) + 1 :]
        for home in homes[len(taken)]:
            now = frozenset((*taken, home))
            if home in taken or now in in_vain or len(in_vain) >= SETS_MAX:
                continue
            if len(_matching(rest, now)) == len(rest) and (found := choose((*taken, home))):
                return found
            in_vain.add(now)
        return None

    return choose(())


def _reasons(
    tries: Sequence[Sequence[GuestCell | tuple[NoRoom, ...]]],
    homes: Sequence[Sequence[int]],
    *,
    matched: int,
    cells: int,
) -> tuple[NoRoom, ...]:
    """Say what ran out: of each dimension the worst guest cell, on the host cell where it lacks least."""
    worst: dict[str, NoRoom] = {}
    for row, fits in zip(tries, homes, strict=True):
        if fits:
            continue
        least: dict[str, NoRoom] = {}
        for reason in (reason for found in row if not isinstance(found, GuestCell) for reason in found):
            if reason.what not in least or _lack(reason) < _lack(least[reason.what]):
                least[reason.what] = reason
        for what, reason in least.items():
            if what not in worst or _lack(reason) > _lack(worst[what]):
                worst[what] = reason
    if worst and len(homes) <= cells:
        return tuple(worst.values())
    text = f"{len(homes)} guest cells need a host cell each, {matched} of {cells} are usable"
    if not cells:
        text = "the node reports no NUMA cells"
    return (NoRoom(what="numa.cells", asked=len(homes), free=matched, total=cells, text=text), *worst.values())


def _lack(reason: NoRoom) -> float:
    return reason.asked - reason.free


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
