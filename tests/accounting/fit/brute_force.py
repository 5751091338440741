"""
NUMA fitting by trying everything: every order of host cells, every choice of CPUs. Slow, and too plain to be wrong.

It shares no code with what it judges: the rules are written down again, as questions to a finished choice.
"""

from collections.abc import Callable, Iterator
from itertools import combinations, permutations

from stocktake.accounting.fit.request import CellRequest, NumaRequest
from stocktake.model.fitting import Limits
from stocktake.model.topology import GuestCell, GuestTopology, NodeCell, NodePages, NodeTopology

KIB_PER_MIB = 1024


def fits(
    request: NumaRequest,
    topology: NodeTopology,
    limits: Limits | None,
    accepts: Callable[[frozenset[int]], bool] | None = None,
) -> bool:
    """Whether any order of host cells, any page sizes and any choice of CPUs holds the guest."""
    return any(
        (accepts is None or accepts(frozenset(cell.id for cell in hosts)))
        and all(
            cell_fits(request, wanted, host, limits, reserve=wants_reserve(request, number))
            for number, (wanted, host) in enumerate(zip(request.cells, hosts, strict=True))
        )
        for hosts in permutations(topology.cells, len(request.cells))
    )


def wants_reserve(request: NumaRequest, number: int) -> int:
    return 1 if request.emulator_threads == "isolate" and number == 0 else 0


def cell_fits(
    request: NumaRequest, wanted: CellRequest, host: NodeCell, limits: Limits | None, *, reserve: int
) -> bool:
    return (
        memory_fits(request, wanted, host, limits)
        and shared_fits(wanted, host, limits)
        and any(pages_fit(request, wanted, host, pages, limits) for pages in host.pages)
        and any(True for _ in pinnings(request, wanted, host, reserve=reserve))
    )


def pinning(request: NumaRequest) -> bool:
    return request.cpu_policy in {"dedicated", "mixed"}


def ram_ratio(request: NumaRequest, limits: Limits | None) -> float | None:
    told = limits.numa_ram_ratio if limits else None
    if pinning(request):
        return 1.0 if told is None else min(told, 1.0)
    return told


def memory_fits(request: NumaRequest, wanted: CellRequest, host: NodeCell, limits: Limits | None) -> bool:
    ratio = ram_ratio(request, limits)
    after = host.memory_usage_mb + wanted.memory_mb
    return wanted.memory_mb <= host.memory_mb and (ratio is None or after <= host.memory_mb * ratio)


def shared_fits(wanted: CellRequest, host: NodeCell, limits: Limits | None) -> bool:
    ratio = limits.numa_cpu_ratio if limits else None
    count = len(wanted.cpuset)
    if not count:
        return True
    return count <= len(host.cpuset) and (ratio is None or host.cpu_usage + count <= len(host.cpuset) * ratio)


def pages_fit(
    request: NumaRequest, wanted: CellRequest, host: NodeCell, pages: NodePages, limits: Limits | None
) -> bool:
    """Whether these pages are of a size that was asked for, and hold the memory."""
    small = pages.size_kb == min(each.size_kb for each in host.pages)
    asked = request.page_size
    if asked == "large":
        right = not small
    elif asked in {"small", None}:
        right = small
    else:
        right = asked in {"any", pages.size_kb}
    count, part = divmod(wanted.memory_mb * KIB_PER_MIB, pages.size_kb)
    holds = pages.total - pages.reserved
    if not right or part or count > holds:
        return False
    ratio = ram_ratio(request, limits) if small else 1.0
    if asked is not None:
        ratio = 1.0 if ratio is None else min(ratio, 1.0)
    return ratio is None or pages.used + count <= holds * ratio


def pinnings(
    request: NumaRequest, wanted: CellRequest, host: NodeCell, *, reserve: int
) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    """Give every set of CPUs to pin and to reserve that the policy allows."""
    for pins in combinations(sorted(host.pcpuset), len(wanted.pcpuset)):
        for reserved in combinations(sorted(host.pcpuset - set(pins)), reserve):
            if pins_obey(request, host, frozenset(pins), frozenset(reserved)):
                yield frozenset(pins), frozenset(reserved)


def cores_of(host: NodeCell) -> list[frozenset[int]]:
    lone = host.pcpuset - frozenset().union(*host.siblings)
    return [*host.siblings, *(frozenset({cpu}) for cpu in lone)]


def pins_obey(request: NumaRequest, host: NodeCell, pins: frozenset[int], reserved: frozenset[int]) -> bool:
    """Whether these CPUs may be taken together."""
    free = host.pcpuset - host.pinned_cpus
    if not (pins | reserved) <= free or pins & reserved:
        return False
    if request.cpu_thread_policy == "isolate":
        most = max((len(core) for core in cores_of(host)), default=1)
        for core in cores_of(host):
            if len(core & (pins | reserved)) > 1 or (core & (pins | reserved) and not core <= free):
                return False
            if core & pins and len(core) < most:
                return False
    return request.cpu_thread_policy != "require" or on_siblings(host, pins)


def on_siblings(host: NodeCell, pins: frozenset[int]) -> bool:
    """Whether each core gives the same number of threads, two at least, and at most one fewer; each could as many."""
    if not pins:
        return True
    free = host.pcpuset - host.pinned_cpus
    used = [(len(core & pins), len(core & free)) for core in cores_of(host) if core & pins]
    return any(
        all(able >= each and given <= each for given, able in used) and sum(given < each for given, _ in used) <= 1
        for each in range(2, 9)
    )


def wrong_with(answer: GuestTopology, request: NumaRequest, topology: NodeTopology, limits: Limits | None) -> list[str]:
    """Say what of an answer breaks a rule."""
    hosts = {cell.id: cell for cell in topology.cells}
    ids = [cell.id for cell in answer.cells]
    if len(set(ids)) != len(ids) or len(ids) != len(request.cells) or not set(ids) <= hosts.keys():
        return [f"guest cells sit on {ids}"]
    wrong: list[str] = []
    if answer.emulator_threads_policy != request.emulator_threads:
        wrong.append("emulator threads")
    for number, (wanted, cell) in enumerate(zip(request.cells, answer.cells, strict=True)):
        reserve = wants_reserve(request, number)
        wrong += [
            f"cell {number}: {text}" for text in wrong_cell(request, wanted, cell, hosts[cell.id], limits, reserve)
        ]
    return wrong


def wrong_cell(  # noqa: PLR0917
    request: NumaRequest,
    wanted: CellRequest,
    cell: GuestCell,
    host: NodeCell,
    limits: Limits | None,
    reserve: int,
) -> Iterator[str]:
    if (cell.cpuset, cell.pcpuset, cell.memory_mb) != (wanted.cpuset, wanted.pcpuset, wanted.memory_mb):
        yield "not what was asked for"
    if (cell.cpu_policy, cell.cpu_thread_policy) != (request.cpu_policy, request.cpu_thread_policy):
        yield "policies"
    if not memory_fits(request, wanted, host, limits):
        yield "memory"
    if not shared_fits(wanted, host, limits):
        yield "shared CPUs"
    if (cell.pagesize_kb is None) != (request.page_size is None):
        yield "page size told or not"
    size_kb = cell.pagesize_kb or min(pages.size_kb for pages in host.pages)
    if not any(pages.size_kb == size_kb and pages_fit(request, wanted, host, pages, limits) for pages in host.pages):
        yield "pages"
    yield from wrong_pins(request, wanted, cell, host, reserve)


def wrong_pins(
    request: NumaRequest, wanted: CellRequest, cell: GuestCell, host: NodeCell, reserve: int
) -> Iterator[str]:
    if not pinning(request):
        if cell.cpu_pinning is not None or cell.cpuset_reserved is not None:
            yield "pinned without a policy"
        return
    pins, reserved = cell.cpu_pinning or {}, cell.cpuset_reserved or frozenset()
    if pins.keys() != wanted.pcpuset or len(set(pins.values())) != len(pins) or len(reserved) != reserve:
        yield "pins"
    taken = frozenset(pins.values())
    if not pins_obey(request, host, taken, reserved):
        yield "thread policy"
    could = any(on_siblings(host, some) for some, _ in pinnings(request, wanted, host, reserve=reserve))
    if request.cpu_thread_policy in {None, "prefer"} and could and not on_siblings(host, taken):
        yield "siblings were to be had"
