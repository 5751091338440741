"""
PCI devices for a guest by trying everything: every choice of devices for each request. Slow, and too plain to be wrong.

It shares no code with what it judges: the rules are written down again, as questions to a finished choice.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations

from stocktake.model.pci import Chosen, PciAlias, PciRecord, PciRequest

Cells = Collection[int] | None
Sockets = Mapping[int, int | None]


def fits(requests: Sequence[PciRequest], records: Sequence[PciRecord], cells: Cells, sockets: Sockets) -> bool:
    """Whether any choice of devices gives each request its own."""
    return any(True for _ in choices(requests, records, cells, sockets))


def choices(
    requests: Sequence[PciRequest], records: Sequence[PciRecord], cells: Cells, sockets: Sockets
) -> Iterator[tuple[PciRecord, ...]]:
    """Give the devices of each way to give every request its own."""
    if not requests:
        yield ()
        return
    first, rest = requests[0], requests[1:]
    mine = [record for record in records if right(record, first) and near_enough(record, first, cells, sockets)]
    for own in combinations(mine, first.count):
        left = [record for record in records if record not in own]
        for others in choices(rest, left, cells, sockets):
            if apart((*own, *others)):
                yield (*own, *others)


def right(record: PciRecord, request: PciRequest) -> bool:
    return record.status == "available" and any(is_of(record, spec) for spec in request.specs)


def is_of(record: PciRecord, spec: PciAlias) -> bool:
    if spec.device_type is None and record.dev_type == "type-PF":
        return False
    if spec.device_type is not None and record.dev_type != spec.device_type:
        return False
    if spec.vendor_id is not None and record.vendor_id != spec.vendor_id:
        return False
    if spec.product_id is not None and record.product_id != spec.product_id:
        return False
    own_class = record.resource_class
    if own_class is None:
        own_class = f"CUSTOM_PCI_{record.vendor_id.upper()}_{record.product_id.upper()}"
    if spec.resource_class is not None and spec.resource_class != own_class:
        return False
    return all(trait in record.traits for trait in spec.traits)


def near_enough(record: PciRecord, request: PciRequest, cells: Cells, sockets: Sockets) -> bool:
    policy, node = request.numa_policy, record.numa_node
    if cells is None or policy == "preferred" or node in cells:
        return True
    if policy == "legacy":
        return node is None
    return policy == "socket" and node is not None and socket_shared(node, cells, sockets)


def socket_shared(node: int, cells: Collection[int], sockets: Sockets) -> bool:
    if any(socket is None for socket in sockets.values()) or node not in sockets:
        return False
    return any(cell in sockets and sockets[cell] == sockets[node] for cell in cells)


def apart(records: Sequence[PciRecord]) -> bool:
    """Whether no PF is taken beside a function of its own."""
    wholes = {record.address for record in records if record.dev_type == "type-PF"}
    return not any(record.parent_addr in wholes for record in records if record.dev_type == "type-VF")


def weight(records: Sequence[PciRecord], cells: Cells, sockets: Sockets) -> tuple[list[int], int, int]:
    """Weigh a choice: how far each device is, how many are the network service's, how many are PFs. Less is better."""
    return (
        sorted(distance(record, cells, sockets) for record in records),
        len([record for record in records if record.physical_network]),
        len([record for record in records if record.dev_type == "type-PF"]),
    )


def distance(record: PciRecord, cells: Cells, sockets: Sockets) -> int:
    if cells is None or record.numa_node in cells:
        return 0
    if record.numa_node is None:
        return 2
    return 1 if socket_shared(record.numa_node, cells, sockets) else 3


def wrong_with(
    chosen: Sequence[Chosen],
    requests: Sequence[PciRequest],
    records: Sequence[PciRecord],
    cells: Cells,
    sockets: Sockets,
) -> list[str]:
    """Say what of an answer breaks a rule."""
    table = {record.address: record for record in records}
    taken = [address for one in chosen for address in one.addresses]
    if [one.alias for one in chosen] != [request.alias for request in requests]:
        return ["not what was asked for"]
    if len(set(taken)) != len(taken) or not set(taken) <= table.keys():
        return [f"devices {taken}"]
    wrong = [] if apart([table[address] for address in taken]) else ["a PF beside its functions"]
    for one, request in zip(chosen, requests, strict=True):
        own = [table[address] for address in one.addresses]
        if len(own) != request.count or list(one.addresses) != sorted(one.addresses):
            wrong.append(f"{one.alias}: {len(own)} devices")
        wrong += [f"{record.address} is not {one.alias}" for record in own if not right(record, request)]
        wrong += [
            f"{record.address} is too far for {one.alias}"
            for record in own
            if not near_enough(record, request, cells, sockets)
        ]
    return wrong
