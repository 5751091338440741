"""
Step 7a, the tracked PCI devices of nodes. Invariant: an instance's devices are those of its own node.

An address means nothing elsewhere: a device is found by instance, host and node.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, literal_column, select, update

from stocktake.ledger.calls import Calls, Rows, ledger_call
from stocktake.ledger.mapping import DEVICE
from stocktake.ledger.tables import ALIVE, COMPUTE_NODES, PCI_DEVICES, is_in
from stocktake.model.access import ANY_TOKEN
from stocktake.model.pci import PciRecord
from stocktake.model.value import replace
from stocktake.model.workload import Instance

# The addresses of the devices that instances hold, by instance, host and node.
DevicesHeld = Mapping[tuple[str, str | None, str | None], tuple[str, ...]]


class DeviceCalls(Calls):
    """The calls about devices."""

    @ledger_call(roles=ANY_TOKEN, rows=lambda it: Rows(nodes=it.node_uuids))
    def devices(self, node_uuids: Collection[str]) -> dict[str, tuple[PciRecord, ...]]:
        """Read the tracked devices of many nodes, by uuid and address; nothing for a node without any."""
        nodes = COMPUTE_NODES.c
        rows = self.connection.execute(select(nodes.id, nodes.uuid).where(ALIVE, is_in(nodes.uuid, node_uuids)))
        found = devices_by_node(self.connection, {row.id: row.uuid for row in rows})
        return {uuid: tuple(found.get(uuid, ())) for uuid in node_uuids}


def devices_by_node(connection: Connection, ids: Mapping[int, str]) -> dict[str, list[PciRecord]]:
    """Read devices, by address, of nodes that are given by their rows' ids and named."""
    columns = PCI_DEVICES.c
    query = select(*DEVICE.select, columns.compute_node_id).where(is_in(columns.compute_node_id, ids))
    found: dict[str, list[PciRecord]] = defaultdict(list)
    read = DEVICE.reader()
    for row in connection.execute(query).all():
        found[ids[row[-1]]].append(read(row))
    # Sorted here: asked for an order, SQLite walks the whole index that has it.
    return {name: sorted(records, key=lambda record: record.address) for name, records in found.items()}


def read_held(connection: Connection, uuids: Collection[str]) -> DevicesHeld:
    """Read which devices these instances hold, on whatever node."""
    if not uuids:
        return {}
    devices, nodes = PCI_DEVICES.c, COMPUTE_NODES.c
    query = (
        select(devices.instance_uuid, nodes.host, nodes.hypervisor_hostname, devices.address)
        .join_from(PCI_DEVICES, COMPUTE_NODES, devices.compute_node_id == nodes.id)
        .where(nodes.deleted == literal_column("0"), is_in(devices.instance_uuid, uuids))
    )
    return _gathered((uuid, host, name, address) for uuid, host, name, address in connection.execute(query))


def held_of(devices: Mapping[str, Collection[PciRecord]], host: str) -> DevicesHeld:
    """Gather which devices instances hold, of a host's devices by node."""
    return _gathered(
        (record.instance_uuid, host, name, record.address)
        for name, records in devices.items()
        for record in records
        if record.instance_uuid is not None
    )


def _gathered(rows: Iterable[tuple[str, str | None, str | None, str]]) -> DevicesHeld:
    found: dict[tuple[str, str | None, str | None], list[str]] = defaultdict(list)
    for uuid, host, name, address in rows:
        found[uuid, host, name].append(address)
    return {key: tuple(sorted(addresses)) for key, addresses in found.items()}


def with_devices(found: Iterable[Instance], held: DevicesHeld) -> tuple[Instance, ...]:
    """Complete instances with the addresses of the devices that they hold."""
    if not held:
        return tuple(found)
    return tuple(
        replace(one, pci_devices=held[one.uuid, one.host, one.node]) if (one.uuid, one.host, one.node) in held else one
        for one in found
    )


def write_devices(connection: Connection, wanted: Mapping[int, Sequence[PciRecord]], now: datetime) -> None:
    """Make the nodes' devices these, touching only rows that differ; by the nodes' row ids."""
    columns = PCI_DEVICES.c
    query = select(*DEVICE.select, columns.compute_node_id).where(is_in(columns.compute_node_id, wanted))
    read = DEVICE.reader()
    there: dict[tuple[int, str], tuple[int, PciRecord]] = {}
    for row in connection.execute(query):
        record = read(row)
        there[row[-1], record.address] = (row[DEVICE.id_at], record)
    new, changed = [], []
    for node_id, records in wanted.items():
        for record in records:
            row_id, before = there.pop((node_id, record.address), (None, None))
            if row_id is None:
                new.append(DEVICE.values(record) | {"compute_node_id": node_id, "created_at": now})
            elif before != record:
                changed.append(DEVICE.values(record) | {"row_id": row_id, "updated_at": now})
    if new:
        connection.execute(insert(PCI_DEVICES), new)
    if changed:
        connection.execute(update(PCI_DEVICES).where(columns.id == bindparam("row_id")), changed)
    if there:
        connection.execute(delete(PCI_DEVICES).where(is_in(columns.id, [row_id for row_id, _ in there.values()])))


def free_devices(
    connection: Connection, uuid: str, host: str, node: str, addresses: Collection[str], *, now: datetime
) -> None:
    """Free devices of a node that an instance holds, and drop those that are gone; its next tally counts them."""
    nodes, columns = COMPUTE_NODES.c, PCI_DEVICES.c
    mine = select(nodes.id).where(ALIVE, nodes.host == host, nodes.hypervisor_hostname == node).scalar_subquery()
    held = (columns.compute_node_id == mine, columns.instance_uuid == uuid, is_in(columns.address, addresses))
    connection.execute(delete(PCI_DEVICES).where(*held, columns.status == "removed"))
    free = {"status": "available", "instance_uuid": None, "request_id": None, "updated_at": now}
    connection.execute(update(PCI_DEVICES).where(*held).values(free))
