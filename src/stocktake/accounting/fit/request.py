"""
Step 6, what a flavor asks for: extra specs read. Invariant: a mistake in a flavor is told, never guessed around.

The rules are Nova's (release 34, nova/virt/hardware.py: `numa_get_constraints` and what it calls; nova/pci/request.py:
`_translate_alias_to_requests`). Where this differs, on purpose:
- Nova overlooks `hw:numa_cpus.N` and `hw:numa_mem.N` of cells that there are not: here that is a mistake.
- Realtime (`hw:cpu_realtime`) is out of scope: a flavor that wants it is refused, not quietly given less.
- Entries of one PCI alias may be of several device types, and a count of 0 asks for nothing (Nova: for a host that has
  such a device, and for none of them).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Literal, TypeVar, get_args

from stocktake.accounting.capacity import RESOURCES
from stocktake.errors import InvalidData
from stocktake.model.pci import PciAffinity, PciAlias, PciRequest
from stocktake.model.topology import CPU_MAX, CpuPolicy, ThreadPolicy, format_cpu_set, parse_cpu_set
from stocktake.model.value import Value
from stocktake.model.workload import Flavor

EmulatorPolicy = Literal["share", "isolate"]
PageKind = Literal["small", "large", "any"]

NODES = "hw:numa_nodes"
CPUS = "hw:numa_cpus"
MEMORY = "hw:numa_mem"
POLICY = "hw:cpu_policy"
THREADS = "hw:cpu_thread_policy"
MASK = "hw:cpu_dedicated_mask"
PAGES = "hw:mem_page_size"
EMULATOR = "hw:emulator_threads_policy"
EMULATOR_TOO = "hw:cpu_emulator_threads"
AFFINITY = "hw:pci_numa_affinity_policy"
REALTIME = "hw:cpu_realtime"
SHARED_CPUS = re.compile(r"resources(?:[1-9][0-9]*)?:VCPU", re.ASCII)
DEDICATED_CPUS = re.compile(r"resources(?:[1-9][0-9]*)?:PCPU", re.ASCII)
HYPERTHREADING = re.compile(r"trait(?:[1-9][0-9]*)?:HW_CPU_HYPERTHREADING", re.ASCII)
_TRAIT_MEANS: Mapping[str, ThreadPolicy] = {"required": "require", "forbidden": "isolate"}

_POLICIES: tuple[CpuPolicy, ...] = get_args(CpuPolicy)
_THREAD_POLICIES: tuple[ThreadPolicy, ...] = get_args(ThreadPolicy)
_EMULATOR_POLICIES: tuple[EmulatorPolicy, ...] = get_args(EmulatorPolicy)
_AFFINITIES: tuple[PciAffinity, ...] = get_args(PciAffinity)
_PAGE_KINDS: tuple[PageKind, ...] = get_args(PageKind)

_NUMBER = re.compile(r"[0-9]{1,9}", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,9})([kKMGT])i?B?", re.ASCII)
_KIB = {"k": 1, "K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}
_TRUE = {"1", "t", "true", "on", "y", "yes"}
_SHOWN_MAX = 40

UNITS: Mapping[str, str] = {one.resource_class: one.quantity for one in RESOURCES.values()}
_TRAIT = re.compile(r"trait(?:[1-9][0-9]*)?:(.+)", re.ASCII)
_AMOUNT = re.compile(r"resources(?:[1-9][0-9]*)?:(.+)", re.ASCII)

T = TypeVar("T")


class CellRequest(Value, frozen=True, kw_only=True):
    """One guest cell to be placed: its shared and its dedicated vCPUs, and MiB of memory."""

    cpuset: frozenset[int] = frozenset()
    pcpuset: frozenset[int] = frozenset()
    memory_mb: int


class NumaRequest(Value, frozen=True, kw_only=True):
    """
    The cells that a guest wants, and by which policies.

    Attributes:
        cpu_policy: None is shared, as Nova keeps it.
        page_size: KiB, or a kind; None takes small pages, which may be overcommitted.
        emulator_threads: `isolate` takes one more dedicated CPU in the guest's first cell.
        pci_affinity: None is `legacy`.
    """

    cells: tuple[CellRequest, ...]
    cpu_policy: CpuPolicy | None = None
    cpu_thread_policy: ThreadPolicy | None = None
    page_size: int | PageKind | None = None
    emulator_threads: EmulatorPolicy | None = None
    pci_affinity: PciAffinity | None = None


def numa_request(flavor: Flavor) -> NumaRequest | None:
    """
    Read which cells a flavor asks for.

    Any of cells, dedicated CPUs and a page size makes a NUMA guest; without cells asked for it has one.

    Returns:
        None for a guest that floats over the whole host.

    Raises:
        InvalidData: an extra spec can't be read or contradicts another; `where` names it.
    """
    specs = flavor.extra_specs
    emulator = _emulator_threads(specs)
    policy = _cpu_policy(flavor, emulator)
    threads = _thread_policy(specs)
    affinity = pci_affinity(flavor)
    page_size = _page_size(specs)
    nodes = _nodes(specs)
    _check_policies(specs, policy, threads, emulator)
    pinning = policy in {"dedicated", "mixed"}
    laid_out = [spec for spec in specs if spec.startswith((f"{CPUS}.", f"{MEMORY}."))]
    if not (nodes or page_size or pinning or laid_out):
        return None
    if not 0 < flavor.vcpus <= CPU_MAX:
        raise InvalidData(f"a guest with NUMA cells has 1 to {CPU_MAX} vCPUs, not {flavor.vcpus}", where="vcpus")
    dedicated = _dedicated(specs, policy, flavor.vcpus)
    cells = _manual(flavor, nodes or 1, laid_out) if laid_out else _even(flavor, nodes or 1)
    return NumaRequest(
        cells=tuple(
            CellRequest(cpuset=cpus - dedicated, pcpuset=cpus & dedicated, memory_mb=memory_mb)
            for cpus, memory_mb in cells
        ),
        cpu_policy=policy,
        cpu_thread_policy=threads,
        page_size=page_size,
        emulator_threads=emulator,
        pci_affinity=affinity,
    )


def pci_affinity(flavor: Flavor) -> PciAffinity | None:
    """
    Read how near to its cells a guest wants its PCI devices; None is Nova's `legacy`.

    It makes no NUMA guest by itself (Nova's `get_pci_numa_policy_constraint`).

    Raises:
        InvalidData: it is none of the four.
    """
    return _word(flavor.extra_specs, AFFINITY, _AFFINITIES)


def _word(specs: Mapping[str, str], spec: str, words: tuple[T, ...]) -> T | None:
    """Read a spec that is one of some words."""
    said = specs.get(spec)
    if said is None:
        return None
    for word in words:
        if said == word:
            return word
    raise InvalidData(f"{_shown(said)} is not one of {', '.join(map(str, words))}", where=spec)


def _cpu_policy(flavor: Flavor, emulator: EmulatorPolicy | None) -> CpuPolicy | None:
    """Read the CPU policy, as a word or as what is wanted of Placement: PCPU is dedicated, VCPU shared."""
    specs = flavor.extra_specs
    policy: CpuPolicy | None = _word(specs, POLICY, _POLICIES)
    shared = {spec: _whole(spec, specs[spec], "a number of CPUs") for spec in specs if SHARED_CPUS.fullmatch(spec)}
    dedicated = {
        spec: _whole(spec, specs[spec], "a number of CPUs") for spec in specs if DEDICATED_CPUS.fullmatch(spec)
    }
    wanted = [spec for spec, count in (*dedicated.items(), *shared.items()) if count]
    if policy and wanted:
        raise InvalidData(f"it repeats {POLICY}", where=wanted[0], remedy="Use one or the other.")
    cpus = sum(dedicated.values())
    if cpus and sum(shared.values()):
        raise InvalidData("a flavor has shared or dedicated CPUs", where=wanted[0], remedy=f"Set {POLICY} to mixed.")
    # Isolated emulator threads have a CPU of their own.
    needed = flavor.vcpus + int(emulator == "isolate")
    if cpus not in {0, needed}:
        raise InvalidData(f"the guest takes {needed} dedicated CPUs, not {cpus}", where=wanted[0])
    return policy or ("dedicated" if cpus else "shared" if wanted else None)


def _thread_policy(specs: Mapping[str, str]) -> ThreadPolicy | None:
    """Read the thread policy, as a word or as a trait of the host."""
    threads: ThreadPolicy | None = _word(specs, THREADS, _THREAD_POLICIES)
    for spec in specs:
        if HYPERTHREADING.fullmatch(spec) and specs[spec] in _TRAIT_MEANS:
            if threads:
                raise InvalidData(f"it repeats {THREADS}", where=spec, remedy="Use one or the other.")
            return _TRAIT_MEANS[specs[spec]]
    return threads


def _emulator_threads(specs: Mapping[str, str]) -> EmulatorPolicy | None:
    """Read the emulator threads' policy by Nova's name or by the one that our own documents used."""
    said: EmulatorPolicy | None = _word(specs, EMULATOR, _EMULATOR_POLICIES)
    too: EmulatorPolicy | None = _word(specs, EMULATOR_TOO, _EMULATOR_POLICIES)
    if said and too and said != too:
        raise InvalidData(f"{too!r} contradicts {EMULATOR}, which is {said!r}", where=EMULATOR_TOO)
    return said or too


def _check_policies(
    specs: Mapping[str, str], policy: CpuPolicy | None, threads: ThreadPolicy | None, emulator: EmulatorPolicy | None
) -> None:
    """Refuse policies that contradict each other."""
    if specs.get(REALTIME, "").strip().lower() in _TRUE:
        raise InvalidData("realtime guests are not supported", where=REALTIME, remedy=f"Remove {REALTIME}.")
    if policy not in {"dedicated", "mixed"}:
        remedy = f"Set {POLICY} to dedicated or mixed."
        if threads:
            where = next((spec for spec in specs if HYPERTHREADING.fullmatch(spec)), THREADS)
            raise InvalidData("a thread policy needs CPUs of the guest's own", where=where, remedy=remedy)
        if emulator == "isolate":
            where = EMULATOR if EMULATOR in specs else EMULATOR_TOO
            raise InvalidData("isolating emulator threads needs CPUs of the guest's own", where=where, remedy=remedy)
    if policy != "mixed" and MASK in specs:
        raise InvalidData("a mask needs the mixed policy", where=MASK, remedy=f"Set {POLICY} to mixed.")
    if policy == "mixed" and MASK not in specs:
        raise InvalidData("it does not say which vCPUs are dedicated", where=MASK, remedy=f"Set {MASK} as in `0-1`.")


def _page_size(specs: Mapping[str, str]) -> int | PageKind | None:
    """Read a page size in KiB: a kind, a number of KiB, or a number with a unit of 1,024s."""
    said = specs.get(PAGES)
    if said is None:
        return None
    for kind in _PAGE_KINDS:
        if said == kind:
            return kind
    size = _SIZE.fullmatch(said)
    size_kb = int(size[1]) * _KIB[size[2]] if size else _whole(PAGES, said, "small, large, any, KiB or a size as 2MB")
    if not size_kb:
        raise InvalidData("a page size must be over 0", where=PAGES)
    return size_kb


def _nodes(specs: Mapping[str, str]) -> int | None:
    said = specs.get(NODES)
    if said is None:
        return None
    nodes = _whole(NODES, said, "a number of cells")
    if not nodes:
        raise InvalidData("a guest must have at least one cell", where=NODES)
    return nodes


def _dedicated(specs: Mapping[str, str], policy: CpuPolicy | None, vcpus: int) -> frozenset[int]:
    """Say which vCPUs are the guest's own; a mask that opens with `^` names those that are not."""
    every = frozenset(range(vcpus))
    if policy != "mixed":
        return every if policy == "dedicated" else frozenset()
    said = specs[MASK]
    named = _read(MASK, parse_cpu_set, f"0-{vcpus - 1},{said}" if said.strip().startswith("^") else said)
    if beyond := named - every:
        raise InvalidData(f"vCPU {format_cpu_set(beyond)} is not among the flavor's {vcpus}", where=MASK)
    if not named or named == every:
        which = "all" if named else "none"
        raise InvalidData(f"{which} of the vCPUs would be dedicated, and a mixed guest has both", where=MASK)
    return named


def _even(flavor: Flavor, nodes: int) -> list[tuple[frozenset[int], int]]:
    """Deal vCPUs and memory out evenly (Nova's `_get_numa_topology_auto`)."""
    for what, number in (("vCPUs", flavor.vcpus), ("MiB", flavor.memory_mb)):
        if number % nodes:
            remedy = f"Give each cell's share by {CPUS}.N and {MEMORY}.N."
            raise InvalidData(f"{number} {what} don't divide by {nodes} cells", where=NODES, remedy=remedy)
    each = flavor.vcpus // nodes
    return [(frozenset(range(at, at + each)), flavor.memory_mb // nodes) for at in range(0, flavor.vcpus, each)]


def _manual(flavor: Flavor, nodes: int, laid_out: list[str]) -> list[tuple[frozenset[int], int]]:
    """Deal vCPUs and memory out as the flavor says (Nova's `_get_numa_topology_manual`)."""
    specs = flavor.extra_specs
    # A flavor can't name more cells than it has specs, however large the number that it gives.
    for number in range(min(nodes, len(specs) + 1)):
        for spec in (f"{CPUS}.{number}", f"{MEMORY}.{number}"):
            if spec not in specs:
                raise InvalidData(f"it is missing: each of {nodes} cells needs its CPUs and its memory", where=spec)
    wanted = {f"{kind}.{number}" for kind in (CPUS, MEMORY) for number in range(nodes)}
    if strange := sorted(spec for spec in laid_out if spec not in wanted):
        raise InvalidData(f"the guest has cells 0 to {nodes - 1} only ({NODES})", where=strange[0])
    cells: list[tuple[frozenset[int], int]] = []
    given: frozenset[int] = frozenset()
    for number in range(nodes):
        cpus, memory_mb = _cell(flavor, number)
        if twice := cpus & given:
            raise InvalidData(f"vCPU {format_cpu_set(twice)} is in another cell already", where=f"{CPUS}.{number}")
        given |= cpus
        cells.append((cpus, memory_mb))
    if left := frozenset(range(flavor.vcpus)) - given:
        raise InvalidData(f"vCPU {format_cpu_set(left)} is in no cell", where=CPUS)
    total_mb = sum(memory_mb for _, memory_mb in cells)
    if total_mb != flavor.memory_mb:
        raise InvalidData(f"the cells have {total_mb} MiB together, the flavor {flavor.memory_mb}", where=MEMORY)
    return cells


def _cell(flavor: Flavor, number: int) -> tuple[frozenset[int], int]:
    """Read one cell's vCPUs and MiB."""
    where = f"{CPUS}.{number}"
    cpus = _read(where, parse_cpu_set, flavor.extra_specs[where])
    if not cpus:
        raise InvalidData("it names no vCPU", where=where)
    if beyond := cpus - frozenset(range(flavor.vcpus)):
        raise InvalidData(f"vCPU {format_cpu_set(beyond)} is not among the flavor's {flavor.vcpus}", where=where)
    where = f"{MEMORY}.{number}"
    memory_mb = _whole(where, flavor.extra_specs[where], "a number of MiB")
    if not memory_mb:
        raise InvalidData("a cell must have some memory", where=where)
    return cpus, memory_mb


def _whole(where: str, said: str, wanted: str) -> int:
    if not _NUMBER.fullmatch(said):
        raise InvalidData(f"{_shown(said)} is not {wanted}", where=where)
    return int(said)


def _read(where: str, read: Callable[[str], frozenset[int]], said: str) -> frozenset[int]:
    """Read a CPU set and name the spec if it can't be."""
    try:
        return read(said)
    except InvalidData as error:
        raise InvalidData(error.what, where=where) from error


ALIAS = "pci_passthrough:alias"


def pci_requests(flavor: Flavor, aliases: Sequence[PciAlias]) -> tuple[PciRequest, ...]:
    """
    Read which devices a flavor asks for, in the order in which it first names the aliases.

    Args:
        aliases: the host's setting `pci.alias`; entries of one name are alternatives.

    Raises:
        InvalidData: the extra spec can't be read, names no alias of this host, or one whose entries disagree about
            numa_policy while the flavor names none; `where` names the spec.
    """
    affinity = pci_affinity(flavor)
    known: dict[str, list[PciAlias]] = {}
    for entry in aliases:
        # As Nova does, which takes the blanks off both sides.
        known.setdefault(entry.name.strip(), []).append(entry)
    requests: list[PciRequest] = []
    for alias, count in _counts(flavor.extra_specs).items():
        specs = known.get(alias)
        if specs is None:
            raise _unknown(alias, known)
        policies = sorted({entry.numa_policy for entry in specs})
        if affinity is None and len(policies) > 1:
            what = f"entries of the alias {_shown(alias)} disagree about numa_policy: {', '.join(policies)}"
            raise InvalidData(what, where=ALIAS, remedy="Give all of them the same in pci.alias.")
        if count:
            policy = affinity or specs[0].numa_policy
            requests.append(PciRequest(alias=alias, count=count, specs=tuple(specs), numa_policy=policy))
    return tuple(requests)


def _counts(specs: Mapping[str, str]) -> dict[str, int]:
    """Read how many devices of each alias are wanted."""
    counts: dict[str, int] = {}
    if ALIAS not in specs:
        return counts
    for wish in specs[ALIAS].split(","):
        alias, _colon, count = (part.strip() for part in wish.partition(":"))
        if not alias or not _NUMBER.fullmatch(count):
            raise InvalidData(f"{_shown(wish)} is not an alias and a count, such as gpu:1", where=ALIAS)
        counts[alias] = counts.get(alias, 0) + int(count)
    return counts


def _unknown(alias: str, known: Mapping[str, object]) -> InvalidData:
    near = get_close_matches(alias, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    remedy = "Add it to pci.alias, or ask for another in the flavor."
    return InvalidData(f"this host has no alias {_shown(alias)}{hint}", where=ALIAS, remedy=remedy)


def _shown(said: str) -> str:
    return repr(said[:_SHOWN_MAX])


class Wanted(Value, frozen=True, kw_only=True):
    """A machine that somebody wants, its flavor read: `required` and `forbidden` are traits of the node."""

    flavor: Flavor
    volume_backed: bool = False
    numa: NumaRequest | None = None
    pci: tuple[PciRequest, ...] = ()
    required: frozenset[str] = frozenset()
    forbidden: frozenset[str] = frozenset()


def wanted(flavor: Flavor, aliases: Sequence[PciAlias], *, volume_backed: bool = False) -> Wanted:
    """
    Read all that a flavor asks for: figures, cells, PCI devices, traits.

    Amounts of classes that stocktake does not account for (`resources:CUSTOM_X`) are refused: only the scheduler could
    say whether they are free.

    Raises:
        InvalidData: an extra spec can't be read or contradicts another; `where` names it.
    """
    for spec in flavor.extra_specs:
        amount = _AMOUNT.fullmatch(spec)
        if amount is not None and amount[1] not in UNITS:
            remedy = "Ask for PCI devices by pci_passthrough:alias; other classes are known to the scheduler only."
            raise InvalidData(f"stocktake does not account for {amount[1][:_SHOWN_MAX]}", where=spec, remedy=remedy)
    required, forbidden = _traits(flavor.extra_specs)
    return Wanted(
        flavor=flavor,
        volume_backed=volume_backed,
        numa=numa_request(flavor),
        pci=pci_requests(flavor, aliases),
        required=required,
        forbidden=forbidden,
    )


def _traits(specs: Mapping[str, str]) -> tuple[frozenset[str], frozenset[str]]:
    """Read which traits a node has to have, and which not (Nova's `trait:NAME=required|forbidden`)."""
    said: dict[str, set[str]] = {"required": set(), "forbidden": set()}
    for spec, word in specs.items():
        found = _TRAIT.fullmatch(spec)
        if found is None:
            continue
        if word not in said:
            raise InvalidData(f"{word[:_SHOWN_MAX]!r} is neither required nor forbidden", where=spec)
        said[word].add(found[1])
    if both := sorted(said["required"] & said["forbidden"]):
        raise InvalidData(f"{both[0][:_SHOWN_MAX]} is both required and forbidden", where=f"trait:{both[0]}")
    return frozenset(said["required"]), frozenset(said["forbidden"])
