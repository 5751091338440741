"""
Step 5: believe, doubt or refuse what the hypervisor said. Invariant: only here is a `Host` made, and every reason is
given.

Rules: docs/accounting.md, "What the driver must report". What is missing, of the wrong type or negative where it can't
be is refused, and so is what no ledger can hold: the nodes of a host are saved together, and one may not take the
others down. What is inconsistent becomes a problem on the node.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from stocktake.errors import InvalidData
from stocktake.model.books import StatValue
from stocktake.model.hypervisor import Guest, Host, HostView, Refusal
from stocktake.model.pci import PciDevice
from stocktake.model.problem import Problem
from stocktake.model.provider import Inventory
from stocktake.model.topology import CPU_MAX, HostCell, HostTopology
from stocktake.model.value import LARGEST, UUID, Value, convert, replace

REQUIRED = (
    "vcpus",
    "memory_mb",
    "local_gb",
    "vcpus_used",
    "memory_mb_used",
    "local_gb_used",
    "cpu_info",
    "numa_topology",
)

_SHOWN_MAX = 40
Total = Annotated[int, Meta(ge=0, le=LARGEST)]
Used = Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]


class ReportedInventory(Value, frozen=True, kw_only=True):
    """One class of a node that is allocated as a whole: its total, and how much of that is reserved."""

    total: Annotated[int, Meta(gt=0, le=2**31 - 1)]
    reserved: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class Report(Value, frozen=True, kw_only=True):
    """The keys that are read, with their types; which of them must be there is said by REQUIRED."""

    vcpus: Total = 0
    pcpus: Total | None = None
    memory_mb: Total = 0
    local_gb: Total = 0
    vcpus_used: Used = 0
    memory_mb_used: Used = 0
    local_gb_used: Used = 0
    cpu_info: str = ""
    numa_topology: HostTopology | None = None
    inventories: dict[str, ReportedInventory] | None = None
    hypervisor_type: str | None = None
    hypervisor_version: Used | None = None
    hypervisor_hostname: str | None = None
    disk_available_least: Used | None = None
    supported_instances: tuple[tuple[str, ...], ...] | None = None
    pci_passthrough_devices: tuple[PciDevice, ...] | None = None
    stats: dict[str, StatValue] | None = None
    uuid: str | None = None
    traits: frozenset[str] | None = None
    capabilities: dict[str, bool] | None = None
    booted_at: Annotated[datetime, Meta(tz=True)] | None = None


_KINDS: Mapping[str, Any] = {field.name: field.type for field in msgspec.structs.fields(Report)}
_PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
_REMEDY = "Check the driver; the figures are recorded as they were reported."
_ENCODER = msgspec.json.Encoder()


def verify(view: HostView) -> Host | Refusal:
    """Turn a view into a host, with what is doubtful as problems; or refuse it with every reason."""
    missing = [f"{key} is missing" for key in REQUIRED if key not in view.report]
    said, wrong = _typed(view.report)
    if missing or wrong:
        return Refusal(node=view.node, reasons=(*missing, *wrong))
    topology, cell_problems = _distinct(said.numa_topology)
    guests, guest_problems = _guests(view.guests)
    devices, device_problems = _devices(said.pci_passthrough_devices or ())
    host = Host(
        node=view.node,
        uuid=said.uuid,
        host_ip=view.host_ip,
        vcpus=said.vcpus,
        pcpus=said.pcpus,
        memory_mb=said.memory_mb,
        local_gb=said.local_gb,
        vcpus_used=said.vcpus_used,
        memory_mb_used=said.memory_mb_used,
        local_gb_used=said.local_gb_used,
        disk_available_least=said.disk_available_least,
        hypervisor_type=said.hypervisor_type,
        hypervisor_version=said.hypervisor_version,
        # The name that its record is kept under, whatever it calls itself: by another it would be lost, and deleted.
        hypervisor_hostname=view.node,
        cpu_info=said.cpu_info,
        supported_instances=said.supported_instances or (),
        inventories=_inventories(said.inventories),
        numa_topology=topology,
        pci_devices=devices,
        stats=said.stats,
        traits=said.traits or frozenset(),
        capabilities=said.capabilities or {},
        booted_at=said.booted_at,
        guests=guests,
        metrics=view.metrics,
    )
    doubts = (
        *_totals(host),
        *_name(view.node, said.hypervisor_hostname),
        *cell_problems,
        *_cells(host),
        *device_problems,
        *guest_problems,
    )
    return replace(host, problems=(*view.problems, *doubts))


def _inventories(said: Mapping[str, ReportedInventory] | None) -> dict[str, Inventory] | None:
    """Make the inventories that were reported; no more than the total can be reserved."""
    if said is None:
        return None
    return {
        name: Inventory(total=one.total, reserved=min(one.reserved, one.total), max_unit=one.total)
        for name, one in said.items()
    }


def _typed(given: Mapping[str, object]) -> tuple[Report, list[str]]:
    """Read every key as its type, all at once; if something is wrong, key by key, to say what is wrong with each."""
    known = {key: value for key, value in given.items() if key in _KINDS}
    try:
        said = convert(known, Report, where="")
    except InvalidData:
        return _typed_by_key(known)
    return said, _senseless(said)


def _typed_by_key(known: Mapping[str, object]) -> tuple[Report, list[str]]:
    sound: dict[str, Any] = {}
    wrong: list[str] = []
    for key, value in known.items():
        try:
            sound[key] = convert(value, _KINDS[key], where="")
        except InvalidData as error:
            wrong.append(f"{key}: {_storable(error.what)}")
    said = Report(**sound)
    return said, wrong + _senseless(said)


def _senseless(said: Report) -> list[str]:
    """Say what is of the right type and can't be."""
    wrong = [f"{key}: has text that no database can store" for key in _unstorable(said)]
    if said.uuid is not None and not UUID.fullmatch(said.uuid):
        wrong.append(f"uuid: {said.uuid!r} is not a UUID in canonical form")
    numbers = [number for number in (said.stats or {}).values() if isinstance(number, float)]
    if not all(map(math.isfinite, numbers)):
        wrong.append("stats: has a number that is nan or infinite")
    if said.booted_at is not None:
        try:
            said.booted_at.astimezone(UTC)
        except OverflowError:
            wrong.append(f"booted_at: {said.booted_at.isoformat()} is not a time in UTC")
    cells = said.numa_topology.cells if said.numa_topology else ()
    return wrong + [f"numa_topology: {text}" for cell in cells for text in _wrong(cell)]


def _unstorable(said: Report) -> Iterator[str]:
    """Find the keys with text that no database can store; nearly always none, which the encoder says at once."""
    try:
        suspicious = b"\\u0000" in _ENCODER.encode(said)
    except UnicodeError:
        suspicious = True
    if suspicious:
        for key in _KINDS:
            if any(text != _storable(text) for text in _texts(msgspec.to_builtins(getattr(said, key)))):
                yield key


def _texts(data: object) -> Iterator[str]:
    """Give all text in plain data, keys too; what the types of a report let through is not deep."""
    if isinstance(data, str):
        yield data
    elif isinstance(data, Mapping):
        for key, value in data.items():
            yield from (*_texts(key), *_texts(value))
    elif isinstance(data, Sequence):
        for value in data:
            yield from _texts(value)


def _storable(text: str) -> str:
    """Write what no database can hold, NUL and halves of characters, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _wrong(cell: HostCell) -> list[str]:
    """Say what of a cell no machine can have; the count divides by page sizes."""
    wrong: list[str] = []
    if not 0 <= cell.memory_mb <= LARGEST:
        wrong.append(f"cell {cell.id} has {cell.memory_mb} MiB")
    wrong.extend(f"cell {cell.id} has CPU {cpu}" for cpu in sorted(cell.cpuset | cell.pcpuset) if not _is_cpu(cpu))
    sizes = Counter(pages.size_kb for pages in cell.pages)
    wrong.extend(f"cell {cell.id} lists pages of {size} KiB twice" for size, count in sizes.items() if count > 1)
    for pages in cell.pages:
        if not 0 < pages.size_kb <= LARGEST:
            wrong.append(f"cell {cell.id} has pages of {pages.size_kb} KiB")
        for what, number in (("", pages.total), (" reserved", pages.reserved)):
            if not 0 <= number <= LARGEST:
                wrong.append(f"cell {cell.id} has {number}{what} pages of {pages.size_kb} KiB")
    return wrong


def _is_cpu(number: int) -> bool:
    return 0 <= number <= CPU_MAX


def _totals(host: Host) -> list[Problem]:
    """Compare the hypervisor's own used figures with its totals."""
    problems: list[Problem] = []
    for key, used, total in (
        ("vcpus_used", host.vcpus_used, host.vcpus),
        ("memory_mb_used", host.memory_mb_used, host.memory_mb),
        ("local_gb_used", host.local_gb_used, host.local_gb),
    ):
        if used < 0:
            problems.append(_doubt("used-negative", key, f"the hypervisor says that {key} is {used}"))
        # Virtual CPUs in use may well outnumber the real ones.
        elif used > total and key != "vcpus_used":
            problems.append(_doubt("used-above-total", key, f"the hypervisor says that {key} is {used} of {total}"))
    least = host.disk_available_least
    if least is not None and least > host.local_gb:
        text = f"disk_available_least is {least} GiB of {host.local_gb}"
        problems.append(_doubt("used-above-total", "disk_available_least", text))
    return problems


def _name(node: str, said: str | None) -> list[Problem]:
    """Compare the name that a node is asked for by with the one that it gives itself, if it does."""
    if not said or said == node:
        return []
    return [
        _doubt("node-name-differs", "hypervisor_hostname", f"the node is asked for as {node} and calls itself {said}")
    ]


def _distinct(topology: HostTopology | None) -> tuple[HostTopology | None, list[Problem]]:
    """Keep one cell per id: a cell that is counted twice would hold everything twice."""
    if topology is None:
        return None, []
    kept = {cell.id: cell for cell in reversed(topology.cells)}
    if len(kept) == len(topology.cells):
        return topology, []
    twice = sorted(number for number, count in Counter(cell.id for cell in topology.cells).items() if count > 1)
    text = f"cell {', '.join(map(str, twice))} is reported twice; the first is kept"
    cells = tuple(sorted(kept.values(), key=lambda cell: cell.id))
    return HostTopology(cells=cells), [_doubt("cells-overlap", "numa_topology", text)]


def _cells(host: Host) -> list[Problem]:
    """Check that the cells share no CPU and add up to the host."""
    if host.numa_topology is None:
        return []
    problems: list[Problem] = []
    counts = Counter(_cpus(host.numa_topology))
    twice = sorted(cpu for cpu, count in counts.items() if count > 1)
    if twice:
        problems.append(_doubt("cells-overlap", "numa_topology", f"CPU {', '.join(map(str, twice))} is in two cells"))
    shared = {cpu for cell in host.numa_topology.cells for cpu in cell.cpuset}
    # What a driver calls the host's CPUs may leave out the dedicated ones.
    if host.vcpus not in {len(counts), len(shared)}:
        text = f"the cells have {len(counts)} CPUs together, the host {host.vcpus}"
        problems.append(_doubt("cells-differ-from-host", "numa_topology", text))
    memory_mb = sum(cell.memory_mb for cell in host.numa_topology.cells)
    # Kernel and firmware keep some memory for themselves, never more than a fiftieth.
    if abs(memory_mb - host.memory_mb) * 50 > host.memory_mb:
        text = f"the cells have {memory_mb} MiB together, the host {host.memory_mb}"
        problems.append(_doubt("cells-differ-from-host", "numa_topology", text))
    return problems


def _cpus(topology: HostTopology) -> list[int]:
    return [cpu for cell in topology.cells for cpu in cell.cpuset | cell.pcpuset]


def _devices(devices: Sequence[PciDevice]) -> tuple[tuple[PciDevice, ...], list[Problem]]:
    """Keep devices that have an address of their own; of two with one address the first."""
    kept: dict[str, PciDevice] = {}
    problems: list[Problem] = []
    for device in devices:
        if not _PCI_ADDRESS.fullmatch(device.address):
            text = f"PCI device {device.address!r} has no address of the form 0000:00:00.0 and is left out"
            problems.append(_doubt("pci-address-invalid", device.address, text))
        elif device.address in kept:
            text = f"PCI device {device.address} is reported twice; the first is kept"
            problems.append(_doubt("pci-device-twice", device.address, text))
        else:
            kept[device.address], doubts = _located(device)
            problems.extend(doubts)
    return tuple(kept.values()), problems


def _located(device: PciDevice) -> tuple[PciDevice, list[Problem]]:
    """Leave out of a device's place what can't be; a NUMA node below 0 is the kernel's word for an unknown one."""
    problems: list[Problem] = []
    numa_node, parent = device.numa_node, device.parent_addr
    if numa_node is not None and not _is_cpu(numa_node):
        if numa_node > 0:
            text = f"PCI device {device.address} is reported on NUMA node {numa_node}, which is ignored"
            problems.append(_doubt("pci-device-doubtful", device.address, text))
        numa_node = None
    if parent is not None and (parent == device.address or not _PCI_ADDRESS.fullmatch(parent)):
        text = f"PCI device {device.address} is reported as a part of {parent[:_SHOWN_MAX]!r}, which is ignored"
        problems.append(_doubt("pci-device-doubtful", device.address, text))
        parent = None
    if (numa_node, parent) == (device.numa_node, device.parent_addr):
        return device, []
    return replace(device, numa_node=numa_node, parent_addr=parent), problems


def _guests(guests: Sequence[Guest] | None) -> tuple[tuple[Guest, ...] | None, list[Problem]]:
    """Keep one guest per uuid; what can't be read of one is told and never fails the node."""
    if guests is None:
        return None, []
    kept: dict[str, Guest] = {}
    problems: list[Problem] = []
    for guest in guests:
        sound, doubts = _sound(guest)
        if sound.uuid in kept:
            problems.append(_doubt("guest-twice", sound.uuid, f"guest {sound.uuid} is reported twice"))
            continue
        problems.extend(doubts)
        kept[sound.uuid] = sound
    return tuple(kept.values()), problems


def _sound(guest: Guest) -> tuple[Guest, list[Problem]]:
    """Leave out of a guest what can't be, and say so; nearly always that is nothing, which is seen at once."""
    plain = guest.uuid.isprintable() and guest.name.isprintable() and guest.state.isprintable()
    if plain and guest.numa is None and guest.trouble is None and _is_counted(guest):
        return guest, []
    changes: dict[str, Any] = {}
    doubts: list[tuple[str, str]] = []
    texts = {"uuid": guest.uuid, "name": guest.name, "state": guest.state, "trouble": guest.trouble}
    odd = {key: _storable(text) for key, text in texts.items() if text is not None and text != _storable(text)}
    if odd:
        changes |= odd
        doubts.append(("guest-unreadable", f"its {', '.join(odd)} has text that no database can store"))
    numbers = {"vcpus": guest.vcpus, "memory_mb": guest.memory_mb, "disk_mb": guest.disk_mb}
    wrong = {key: number for key, number in numbers.items() if not 0 <= number <= LARGEST}
    if wrong:
        changes |= dict.fromkeys(wrong, 0)
        said = ", ".join(f"{key} {number}" for key, number in wrong.items())
        doubts.append(("guest-impossible", f"{said} is impossible and counts as nothing"))
    if guest.numa is not None and not all(0 <= cell.memory_mb <= LARGEST for cell in guest.numa.cells):
        changes["numa"] = None
        doubts.append(("guest-impossible", "the memory of its cells is impossible: it is placed on no cell"))
    sound = replace(guest, **changes) if changes else guest
    if guest.trouble is not None and "trouble" not in odd:
        doubts.append(("guest-unreadable", guest.trouble))
    return sound, [_doubt(code, sound.uuid, f"guest {sound.name}: {text}") for code, text in doubts]


def _is_counted(guest: Guest) -> bool:
    return 0 <= guest.vcpus <= LARGEST and 0 <= guest.memory_mb <= LARGEST and 0 <= guest.disk_mb <= LARGEST


def _doubt(code: str, about: str, text: str) -> Problem:
    return Problem(code=code, about=about, text=text, remedy=_REMEDY)
