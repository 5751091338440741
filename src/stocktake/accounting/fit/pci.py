"""
Step 6, free PCI devices for a guest: which of them. Invariant: what some choice of devices gives is never refused.

The policies are Nova's (release 34, nova/pci/stats.py: `_filter_pools` and what it calls). Of the choices that they
leave open the best is taken: nearest to the guest's cells, then not the network service's, then the one that breaks up
least. What Nova takes request by request, from one pool after the other, is here weighed together: a device goes to the
request that has no other, and a PF and its functions never both.

How much work it is: giving devices to requests is a matching, by augmenting paths. Only where a free PF and its free
functions are both asked for may it take more than one. Cards that are alike are tried as one, and after TRIES_MAX
matchings the best found so far stands, be it none. Cards as they are in hosts take a handful; sixteen of 32 functions
drawn at random, for eight requests at random, a few hundreds at worst.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from stocktake.accounting.pci import Table, provider_address
from stocktake.model.fitting import NoRoom
from stocktake.model.pci import Chosen, PciAffinity, PciAlias, PciRecord, PciRequest
from stocktake.model.topology import format_cpu_set

TRIES_MAX = 1024

Sockets = Mapping[int, int | None]


class Distance(IntEnum):
    """How far a device is from a guest's cells; a guest without cells is near to all."""

    NEAR = 0
    SAME_SOCKET = 1
    UNKNOWN = 2
    FAR = 3


REACH: Mapping[PciAffinity, frozenset[Distance]] = {
    "required": frozenset({Distance.NEAR}),
    "socket": frozenset({Distance.NEAR, Distance.SAME_SOCKET}),
    "legacy": frozenset({Distance.NEAR, Distance.UNKNOWN}),
    "preferred": frozenset(Distance),
}


@dataclass(frozen=True, slots=True)
class _Device:
    """
    A free device that some request may have.

    Attributes:
        card: the address of its PF, or its own.
        whole: it is a PF.
        wanted_by: the requests that may have it, by number.
        breaks: it is a function of a PF that is free as a whole.
        left: how many functions of its PF are free.
    """

    address: str
    card: str
    whole: bool
    wanted_by: frozenset[int]
    distance: Distance
    network: bool
    breaks: bool
    left: int

    @property
    def order(self) -> tuple[Distance, bool, bool, bool, int, str, str]:
        """How gladly it is taken; functions of the PF that has the fewest left go first."""
        return self.distance, self.network, self.whole, self.breaks, self.left, self.card, self.address

    @property
    def kind(self) -> tuple[tuple[int, ...], Distance, bool]:
        """What else may stand in for it."""
        return tuple(sorted(self.wanted_by)), self.distance, self.network


@dataclass(frozen=True, slots=True)
class _Card:
    """A free PF with its free functions, wanted both; `kind` tells which cards differ in their number at most."""

    whole: _Device
    functions: tuple[_Device, ...]
    kind: tuple[object, ...]


# The devices of each request, by its number.
_Held = list[list[_Device]]


def chosen_devices(
    requests: Sequence[PciRequest], table: Table, *, cells: Collection[int] | None, sockets: Sockets
) -> tuple[Chosen, ...] | None:
    """
    Find free devices for all that a guest asks for; None if they can't be had, without the reasons.

    Args:
        table: the node's devices, after `pci.excluded`; only available ones are taken.
        cells: ids of the host cells that the guest is on; None for a guest without a NUMA topology, for which no
            policy matters.
        sockets: the socket of each host cell; None is unknown.

    Returns:
        The devices of each request, in order.
    """
    devices = _devices(requests, table, cells, sockets)
    held = _shared_out(devices, [request.count for request in requests])
    if held is None:
        return None
    return tuple(
        Chosen(alias=request.alias, addresses=tuple(sorted(device.address for device in row)))
        for request, row in zip(requests, held, strict=True)
    )


def lacking_devices(
    requests: Sequence[PciRequest], table: Table, *, cells: Collection[int] | None, sockets: Sockets
) -> tuple[NoRoom, ...]:
    """Say which requests, taken in order, there are no devices for; empty if there are for all."""
    had: list[PciRequest] = []
    missing: list[NoRoom] = []
    for request in requests:
        if chosen_devices([*had, request], table, cells=cells, sockets=sockets) is None:
            missing.append(_reason(request, had, table, cells, sockets))
        else:
            had.append(request)
    return tuple(missing)


def matches(record: PciRecord, request: PciRequest) -> bool:
    """Say whether a device is what a request asks for, free or not; a PF only if it is asked for as one."""
    return any(_matches(record, spec) for spec in request.specs)


def _matches(record: PciRecord, spec: PciAlias) -> bool:
    kinds = ("type-PCI", "type-VF") if spec.device_type is None else (spec.device_type,)
    # A device of no class that device_spec names has the one that the scheduler is told.
    named = record.resource_class or f"CUSTOM_PCI_{record.vendor_id}_{record.product_id}".upper()
    return (
        record.dev_type in kinds
        and (spec.vendor_id or record.vendor_id).lower() == record.vendor_id.lower()
        and (spec.product_id or record.product_id).lower() == record.product_id.lower()
        and spec.resource_class in {None, named}
        and spec.traits <= record.traits
    )


def _distance(record: PciRecord, cells: Collection[int] | None, sockets: Sockets) -> Distance:
    """Measure how far a device is; sockets count only if every cell's is known, as in Nova."""
    if cells is None or record.numa_node in cells:
        return Distance.NEAR
    if record.numa_node is None:
        return Distance.UNKNOWN
    own = None if None in sockets.values() else sockets.get(record.numa_node)
    same = own is not None and own in {sockets.get(cell) for cell in cells}
    return Distance.SAME_SOCKET if same else Distance.FAR


def _devices(
    requests: Sequence[PciRequest], table: Table, cells: Collection[int] | None, sockets: Sockets
) -> list[_Device]:
    """See which free devices each request may have, the one liked best first."""
    free = _free(table.values())
    left = Counter(provider_address(record) for record in free if record.dev_type == "type-VF")
    devices: list[_Device] = []
    # Hundreds of functions are alike.
    seen: dict[tuple[object, ...], frozenset[int]] = {}
    for record in free:
        distance = _distance(record, cells, sockets)
        told = record.dev_type, record.vendor_id, record.product_id, record.resource_class, record.traits, distance
        if told not in seen:
            seen[told] = frozenset(
                number
                for number, request in enumerate(requests)
                if distance in REACH[request.numa_policy] and matches(record, request)
            )
        wanted_by = seen[told]
        if not wanted_by:
            continue
        card = provider_address(record)
        parent = table.get(record.parent_addr or "")
        devices.append(
            _Device(
                address=record.address,
                card=card,
                whole=record.dev_type == "type-PF",
                wanted_by=wanted_by,
                distance=distance,
                network=record.physical_network is not None,
                breaks=parent is not None and parent.status == "available",
                left=left[card],
            )
        )
    return sorted(devices, key=lambda device: device.order)


def _free(records: Iterable[PciRecord]) -> list[PciRecord]:
    return [record for record in records if record.status == "available"]


def _shared_out(devices: Sequence[_Device], counts: Sequence[int]) -> _Held | None:
    """
    Give each request its number of devices, no PF beside its functions; None if that can't be done.

    Branch and bound: while the best matching takes a PF and functions of it, one of the two is left out. No matching
    of what is left is better than that one was, so it bounds all that come of it.
    """
    cards = _cards(devices)
    best: _Held | None = None
    bound: tuple[object, ...] | None = None
    todo: list[frozenset[str]] = [frozenset()]
    tries = 0
    while todo and tries < TRIES_MAX:
        tries += 1
        out = todo.pop()
        held = _matching([device for device in devices if device.address not in out], counts)
        if held is None or (best is not None and _cost(held) >= _cost(best)):
            continue
        bound = bound or _cost(held)
        clash = _clash(held, cards)
        if clash is not None:
            todo += _without(clash, cards, out)
            continue
        best = held
        if _cost(best) == bound:
            break
    return best


def _matching(devices: Sequence[_Device], counts: Sequence[int]) -> _Held | None:
    """Give each request its devices, the first of the list that can all be used (a matroid's greedy choice)."""
    held: _Held = [[] for _ in counts]
    missing = sum(counts)
    in_vain: set[frozenset[int]] = set()
    for device in devices:
        if not missing:
            break
        if device.wanted_by in in_vain:
            continue
        if _settle(device, held, counts, set()):
            missing -= 1
        else:
            # What is like it will find no place either, now or later.
            in_vain.add(device.wanted_by)
    return None if missing else held


def _settle(device: _Device, held: _Held, counts: Sequence[int], seen: set[int]) -> bool:
    """Give a device to a request, moving others' devices if need be (an augmenting path)."""
    for request in sorted(device.wanted_by):
        if request in seen:
            continue
        seen.add(request)
        if len(held[request]) < counts[request]:
            held[request].append(device)
            return True
        for at, other in enumerate(held[request]):
            if _settle(other, held, counts, seen):
                held[request][at] = device
                return True
    return False


def _cards(devices: Sequence[_Device]) -> dict[str, _Card]:
    """Find the PFs that are wanted, and functions of theirs too."""
    functions: dict[str, list[_Device]] = {}
    for device in devices:
        if not device.whole:
            functions.setdefault(device.card, []).append(device)
    cards: dict[str, _Card] = {}
    for device in devices:
        own = functions.get(device.address) if device.whole else None
        if own:
            kinds = Counter(function.kind for function in own)
            # Where functions differ, cards are alike only if they have the same number of each.
            alike = (tuple(kinds),) if len(kinds) == 1 else tuple(sorted(kinds.items()))
            cards[device.address] = _Card(device, tuple(own), (device.kind, alike))
    return cards


def _clash(held: _Held, cards: Mapping[str, _Card]) -> _Card | None:
    """Find a PF that is taken while functions of it are."""
    taken = [device for row in held for device in row]
    wholes = {device.address for device in taken if device.whole}
    return next((cards[device.card] for device in taken if not device.whole and device.card in wholes), None)


def _without(clash: _Card, cards: Mapping[str, _Card], out: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """
    Decide for cards that are like the one at fault: none is taken as a whole; or, first, the one with fewest functions.

    If any of them is taken as a whole it may be that one: another's functions are as good, and no fewer.
    """
    alike = [
        card
        for card in cards.values()
        if card.kind == clash.kind and card.whole.address not in out and card.functions[0].address not in out
    ]
    fewest = min(alike, key=lambda card: len(card.functions))
    wholes = frozenset(card.whole.address for card in alike)
    return out | wholes, out | {function.address for function in fewest.functions}


def _cost(held: _Held) -> tuple[list[Distance], int, int, int]:
    """Weigh a choice: distances, then how much of it is the network service's, whole PFs, and PFs broken up."""
    taken = [device for row in held for device in row]
    return (
        sorted(device.distance for device in taken),
        sum(device.network for device in taken),
        sum(device.whole for device in taken),
        sum(device.breaks for device in taken),
    )


def _reason(
    request: PciRequest, had: Sequence[PciRequest], table: Table, cells: Collection[int] | None, sockets: Sockets
) -> NoRoom:
    """Say why a request gets nothing: too few are free, its policy leaves too few, or others take them."""
    every = [record for record in table.values() if record.status != "removed" and matches(record, request)]
    free = _free(every)
    near = sum(_distance(record, cells, sockets) in REACH[request.numa_policy] for record in free)
    text = f"{request.count} of {request.alias} wanted, {len(free)} free of {len(every)}"
    if near < request.count <= len(free):
        text += f"; its policy {request.numa_policy} allows {near} for a guest on host cells"
        text += f" {format_cpu_set(cells or ())}: {_placed(free)}"
    elif request.count <= len(free):
        cards = {provider_address(record) for record in free}
        others = [record for record in _free(table.values()) if provider_address(record) in cards]
        rivals = [rival.alias for rival in had if any(matches(record, rival) for record in others)]
        text += f"; {', '.join(rivals)} wants them too" if rivals else "; some are parts of others"
        if any(record.dev_type == "type-PF" for record in others):
            text += ", and a PF is not allocated beside its own functions"
    return NoRoom(what=f"pci.{request.alias}", asked=request.count, free=len(free), total=len(every), text=text)


def _placed(records: Iterable[PciRecord]) -> str:
    """Say where devices are: `1 on host cell 0, 2 on host cell 1`."""
    counts = Counter(record.numa_node for record in records)
    known = [f"{counts[node]} on host cell {node}" for node in sorted(node for node in counts if node is not None)]
    unknown = [f"{counts[None]} on an unknown cell"] if counts[None] else []
    return ", ".join((*known, *unknown))
