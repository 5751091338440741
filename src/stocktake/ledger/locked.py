"""
Step 7a, what claims read and write. Invariant: a node's row is locked before its books are looked at.

Every function takes the connection of a writing transaction. Rows are locked nodes first, by uuid, then the instance.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, func, select, text, update

from stocktake.errors import NotFound
from stocktake.ledger import notify, read, write
from stocktake.ledger.mapping import DEVICE, INSTANCE, MIGRATION, NODE, decode_entry, entry_values
from stocktake.ledger.sql_in import among
from stocktake.ledger.tables import (
    ALIVE,
    COMPUTE_NODE_ENTRIES,
    COMPUTE_NODES,
    IN_PLAY,
    INSTANCES,
    MIGRATIONS,
    PCI_DEVICES,
)
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciRecord
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration

# Any number would do that nobody else uses.
_NUMBERING = 7_317_230_918


def hold(connection: Connection, uuids: Collection[str]) -> dict[str, ComputeNode]:
    """
    Lock nodes' rows, in the order of their uuids, and read them.

    Raises:
        NotFound: no such node.
    """
    columns = COMPUTE_NODES.c
    wanted = sorted(set(uuids))
    mine = columns.uuid == wanted[0] if len(wanted) == 1 else among(columns.uuid, wanted)
    query = select(*NODE.select).where(ALIVE, mine).order_by(columns.uuid).with_for_update()
    found = {node.uuid: node for node in NODE.read_all(connection.execute(query).all())}
    missing = [uuid for uuid in wanted if uuid not in found]
    if missing:
        remedy = "`stocktake nodes` lists those there are."
        raise NotFound(f"no node {', '.join(missing)}", where="ledger", remedy=remedy)
    return found


def instance(connection: Connection, uuid: str) -> Instance | None:
    """Read an instance that is not deleted, with its devices, and lock its row."""
    query = select(*INSTANCE.select).where(ALIVE, INSTANCES.c.uuid == uuid).with_for_update()
    found = INSTANCE.read_all(connection.execute(query).all())
    return read.with_devices(connection, found)[0] if found else None


def whereabouts(connection: Connection, uuid: str) -> frozenset[str]:
    """Name the nodes, by uuid, that an instance is on or that its migrations in play touch; none is locked."""
    columns, nodes = INSTANCES.c, COMPUTE_NODES.c
    places = set(map(tuple, connection.execute(select(columns.host, columns.node).where(ALIVE, columns.uuid == uuid))))
    for one in migrations_of(connection, uuid):
        places |= {(one.source_compute, one.source_node), (one.dest_compute, one.dest_node)}
    hosts = sorted({host for host, _ in places if host is not None})
    names = sorted({name for _, name in places if name is not None})
    query = select(nodes.host, nodes.hypervisor_hostname, nodes.uuid)
    query = query.where(ALIVE, among(nodes.host, hosts), among(nodes.hypervisor_hostname, names))
    return frozenset(row[2] for row in connection.execute(query) if (row[0], row[1]) in places)


def migrations_of(connection: Connection, instance_uuid: str) -> tuple[Migration, ...]:
    """Read an instance's migrations in play, by id."""
    columns = MIGRATIONS.c
    query = select(*MIGRATION.select).where(IN_PLAY, columns.instance_uuid == instance_uuid).order_by(columns.id)
    return MIGRATION.read_all(connection.execute(query).all())


def leaving_here(connection: Connection, host: str, node: str) -> tuple[Instance, ...]:
    """Read the instances that are being resized, or moved, from this node to itself."""
    moves = read.migrations(connection, host=host, node=node)
    uuids = {
        one.instance_uuid
        for one in moves
        if (one.source_compute, one.source_node) == (host, node) and (one.dest_compute, one.dest_node) == (host, node)
    }
    if not uuids:
        return ()
    query = select(*INSTANCE.select).where(ALIVE, among(INSTANCES.c.uuid, uuids))
    return INSTANCE.read_all(connection.execute(query).all())


def entries_of(connection: Connection, node_uuids: Collection[str], holder: str) -> dict[str, tuple[Entry, ...]]:
    """Read what one holder has of nodes, by the nodes' uuids."""
    columns = COMPUTE_NODE_ENTRIES.c
    # By the key's first columns: an instance is, comes, or nobody knew it.
    kinds = ("instance", "migration", "orphan", "misplaced")
    query = select(columns.node_uuid, columns.entry).where(
        among(columns.node_uuid, node_uuids), columns.kind.in_(kinds), columns.id == holder
    )
    found: dict[str, tuple[Entry, ...]] = dict.fromkeys(node_uuids, ())
    for uuid, text_ in connection.execute(query).all():
        found[uuid] = (*found[uuid], decode_entry(uuid, text_))
    return found


def devices(connection: Connection, node_uuid: str) -> tuple[PciRecord, ...]:
    """Read a node's tracked devices, by address."""
    row_id = select(COMPUTE_NODES.c.id).where(ALIVE, COMPUTE_NODES.c.uuid == node_uuid).scalar_subquery()
    query = select(*DEVICE.select).where(PCI_DEVICES.c.compute_node_id == row_id).order_by(PCI_DEVICES.c.address)
    return DEVICE.read_all(connection.execute(query).all())


def write_books(
    connection: Connection,
    before: ComputeNode,
    after: ComputeNode,
    *,
    gone: Sequence[Entry],
    come: Sequence[Entry],
    devices: Sequence[PciRecord] | None,
    now: datetime,
) -> ComputeNode:
    """Write a held node's record and what changed of its entries; its generation grows."""
    columns = COMPUTE_NODES.c
    saved = replace(after, generation=before.generation + 1, updated_at=now)
    rows = update(COMPUTE_NODES).where(ALIVE, columns.uuid == bindparam("of_uuid"))
    connection.execute(rows, NODE.changes(before, saved) | {"of_uuid": before.uuid})
    keys = {(entry.kind, entry.id) for entry in come}
    drop = [(before.uuid, entry.kind, entry.id) for entry in gone if (entry.kind, entry.id) not in keys]
    write.drop_entries(connection, drop)
    kept = set(gone)
    write.put_entries(connection, [entry_values(before.uuid, entry) for entry in come if entry not in kept])
    if devices is not None:
        row_id = connection.scalar(select(columns.id).where(ALIVE, columns.uuid == before.uuid))
        assert row_id is not None, "the row is held"
        write.write_devices(connection, {row_id: devices}, now)
    return saved


def free_devices(
    connection: Connection, uuid: str, host: str, node: str, addresses: Collection[str], *, now: datetime
) -> None:
    """Free devices of a node that an instance holds, and drop those that are gone; its next tally counts them."""
    nodes, columns = COMPUTE_NODES.c, PCI_DEVICES.c
    mine = select(nodes.id).where(ALIVE, nodes.host == host, nodes.hypervisor_hostname == node).scalar_subquery()
    held = (columns.compute_node_id == mine, columns.instance_uuid == uuid, among(columns.address, addresses))
    connection.execute(delete(PCI_DEVICES).where(*held, columns.status == "removed"))
    free = {"status": "available", "instance_uuid": None, "request_id": None, "updated_at": now}
    connection.execute(update(PCI_DEVICES).where(*held).values(free))


def next_migration_id(connection: Connection) -> int:
    """Give the id of the next migration; who asks for one waits until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _NUMBERING})
    last = connection.scalar(select(func.max(MIGRATIONS.c.id)))
    return (last or 0) + 1


def change_migrations(connection: Connection, migrations: Sequence[Migration], now: datetime) -> None:
    """Write migrations that are there, by id."""
    rows = [MIGRATION.values(one) | {"row_id": one.id, "updated_at": now} for one in migrations]
    for row in rows:
        del row["id"], row["created_at"]
    if rows:
        notify.tell(connection, (host for one in migrations for host in (one.source_compute, one.dest_compute)))
        connection.execute(update(MIGRATIONS).where(MIGRATIONS.c.id == bindparam("row_id")), rows)
