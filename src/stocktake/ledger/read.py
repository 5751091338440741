"""
Step 3, the promises: read what the ledger holds. Invariant: a fixed number of queries, whether for 1 node or for
10,000.

Every function takes the connection of one transaction, so that what it gives together was true together.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from sqlalchemy import Connection, CursorResult, exists, literal_column, or_, select, union

from stocktake.errors import NotFound
from stocktake.ledger.mapping import BRIEF_NODE, DEVICE, INSTANCE, MIGRATION, NODE, SERVICE, decode_entry, in_order
from stocktake.ledger.sql_in import among
from stocktake.ledger.tables import (
    ALIVE,
    COMPUTE_NODE_ENTRIES,
    COMPUTE_NODES,
    GONE,
    IN_PLAY,
    INSTANCES,
    MIGRATIONS,
    PCI_DEVICES,
    SERVICES,
)
from stocktake.model.books import STRANGERS, ComputeNode, Entry
from stocktake.model.pci import PciRecord
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration, NodeWork, Place, Service

BINARY = "stocktake-agent"
_ZERO: Any = literal_column("0")
# Most nodes have nothing that moves: they share this one.
_NONE: Mapping[str, Any] = {}

ROWS_AT_ONCE = 1000

# Which devices instances hold: by instance, host and node, because an address means nothing elsewhere.
Held = Mapping[tuple[str, str | None, str | None], tuple[str, ...]]


def nodes(
    connection: Connection, host: str | None = None, *, brief: bool = False, uuids: Collection[str] | None = None
) -> tuple[ComputeNode, ...]:
    """Read the nodes that are not deleted, by name; in brief without what is large."""
    shape = BRIEF_NODE if brief else NODE
    query = select(*shape.select).where(ALIVE).order_by(COMPUTE_NODES.c.hypervisor_hostname, COMPUTE_NODES.c.id)
    if host is not None:
        query = query.where(COMPUTE_NODES.c.host == host)
    if uuids is not None:
        query = query.where(among(COMPUTE_NODES.c.uuid, uuids))
    return shape.read_all(_some_at_once(connection.execute(query)))


def _some_at_once(result: CursorResult[Any]) -> Iterator[Sequence[Any]]:
    """Give rows that are fetched many at a time: one by one is slow, and all at once is the text of thousands."""
    for rows in result.partitions(ROWS_AT_ONCE):
        yield from rows


def node(connection: Connection, name_or_uuid: str) -> ComputeNode:
    """
    Read one node.

    Raises:
        NotFound: no such node; names the nearest. Or several services have a node of that name.
    """
    nodes_ = COMPUTE_NODES.c
    asked = or_(nodes_.uuid == name_or_uuid, nodes_.hypervisor_hostname == name_or_uuid)
    found = NODE.read_all(connection.execute(select(*NODE.select).where(ALIVE, asked)))
    exact = [one for one in found if one.uuid == name_or_uuid] or found
    if len(exact) == 1:
        return exact[0]
    if exact:
        hosts = ", ".join(f"{one.uuid} on {one.host}" for one in exact)
        raise NotFound(f"several nodes are named {name_or_uuid!r}", where="ledger", remedy=f"Give the uuid: {hosts}.")
    names = connection.scalars(select(nodes_.hypervisor_hostname).where(ALIVE)).all()
    near = get_close_matches(name_or_uuid, names, n=3, cutoff=0.5)
    remedy = f"Did you mean {' or '.join(near)}?" if near else "`stocktake nodes` lists those there are."
    raise NotFound(f"no node {name_or_uuid!r}", where="ledger", remedy=remedy)


def deleted_nodes(connection: Connection, host: str) -> tuple[ComputeNode, ...]:
    """Read deleted nodes whose resource providers may still be there; never one whose uuid is in use again."""
    again = COMPUTE_NODES.alias("again")
    reborn = exists().where(again.c.uuid == COMPUTE_NODES.c.uuid, again.c.deleted == _ZERO)
    query = select(*NODE.select).where(
        GONE, COMPUTE_NODES.c.host == host, COMPUTE_NODES.c.provider_deleted.is_(False), ~reborn
    )
    return NODE.read_all(connection.execute(query.order_by(COMPUTE_NODES.c.id)))


def entries(connection: Connection, node_uuids: Collection[str]) -> dict[str, tuple[Entry, ...]]:
    """Read what makes nodes' figures, in the order of a tally; nothing for a node never tallied."""
    column = COMPUTE_NODE_ENTRIES.c
    found: dict[str, list[Entry]] = {uuid: [] for uuid in node_uuids}
    query = select(column.node_uuid, column.entry).where(among(column.node_uuid, node_uuids))
    for uuid, text in connection.execute(query).all():
        found[uuid].append(decode_entry(uuid, text))
    return {uuid: in_order(several) for uuid, several in found.items()}


def strangers(
    connection: Connection, node_uuids: Collection[str], *, reserves: bool = False
) -> dict[str, tuple[Entry, ...]]:
    """Read the entries of orphans and misplaced guests, of reserves too if asked; a node without any is left out."""
    column = COMPUTE_NODE_ENTRIES.c
    kinds = (*STRANGERS, *(("reserved",) if reserves else ()))
    query = select(column.node_uuid, column.entry).where(column.kind.in_(kinds), among(column.node_uuid, node_uuids))
    found: dict[str, list[Entry]] = defaultdict(list)
    for uuid, text in connection.execute(query).all():
        found[uuid].append(decode_entry(uuid, text))
    return {uuid: in_order(several) for uuid, several in found.items()}


def devices(connection: Connection, node_uuids: Collection[str]) -> dict[str, tuple[PciRecord, ...]]:
    """Read the tracked devices of many nodes, by uuid; nothing for a node without any."""
    nodes_ = COMPUTE_NODES.c
    rows = connection.execute(select(nodes_.id, nodes_.uuid).where(ALIVE, among(nodes_.uuid, node_uuids)))
    found = _devices_by_node(connection, {row.id: row.uuid for row in rows})
    return {uuid: tuple(found.get(uuid, ())) for uuid in node_uuids}


def services(connection: Connection, host: str | None = None) -> tuple[Service, ...]:
    """Read the agents' rows, by host."""
    query = select(*SERVICE.select).where(SERVICES.c.binary == BINARY).order_by(SERVICES.c.host)
    if host is not None:
        query = query.where(SERVICES.c.host == host)
    return SERVICE.read_all(connection.execute(query).all())


def instances(
    connection: Connection,
    *,
    host: str | None = None,
    node: str | None = None,
    named: str | None = None,
    deleted: bool = False,
    after: int = 0,
    limit: int | None = None,
) -> tuple[tuple[Instance, ...], int | None]:
    """
    Read instances, the first made first; the deleted ones too if asked.

    Args:
        named: the uuid or the name.
        after, limit: at most so many of those made after the row of this id.

    Returns:
        The instances, and the id of the last one's row if there are more.
    """
    columns = INSTANCES.c
    query = select(*INSTANCE.select).order_by(columns.id)
    if not deleted:
        query = query.where(ALIVE)
    if host is not None:
        query = query.where(columns.host == host)
    if node is not None:
        query = query.where(columns.node == node)
    if named is not None:
        query = query.where(or_(columns.uuid == named, columns.name == named))
    if limit is not None:
        query = query.where(columns.id > after).limit(limit + 1)
    rows = connection.execute(query).all()
    shown = rows if limit is None else rows[:limit]
    last = shown[-1][INSTANCE.id_at] if len(rows) > len(shown) else None
    return with_devices(connection, INSTANCE.read_all(shown)), last


def with_devices(connection: Connection, found: Sequence[Instance]) -> tuple[Instance, ...]:
    """Complete instances with the addresses of the devices that they hold."""
    return _with_devices(found, _held(connection, {instance.uuid for instance in found}))


def migrations(
    connection: Connection, *, host: str | None = None, node: str | None = None, every: bool = False
) -> tuple[Migration, ...]:
    """Read migrations by id: those in play that touch the host or node, or every one, over or deleted."""
    columns = MIGRATIONS.c
    query = select(*MIGRATION.select).order_by(columns.id)
    shown = [] if every else [IN_PLAY]
    if host is None and node is None:
        return MIGRATION.read_all(connection.execute(query.where(*shown)).all())
    # Two lists of ids, because no database serves an OR from two partial indexes.
    sides = ((columns.source_compute, columns.source_node), (columns.dest_compute, columns.dest_node))
    asked = [
        select(columns.id).where(
            *shown,
            *([] if host is None else [compute == host]),
            *([] if node is None else [name == node]),
        )
        for compute, name in sides
    ]
    return MIGRATION.read_all(connection.execute(query.where(columns.id.in_(union(*asked)))).all())


def work(
    connection: Connection, host: str, names: Collection[str], guests: Mapping[str, frozenset[str]]
) -> dict[str, NodeWork]:
    """
    Read all that the ledger promises on these nodes of a host.

    Args:
        guests: by node, the uuids of the hypervisor's guests.

    Returns:
        One for every name asked for, empty for a node that the ledger does not know.
    """
    wanted = frozenset(names)
    records, ids = _records(connection, host, wanted)
    here_bare = _instances_by_node(connection, host, wanted)
    devices = _devices_by_node(connection, ids)
    moves = _migrations_by_node(connection, host, wanted)
    gone = _deleted_by_node(connection, host, wanted)
    held = _held_of(devices, host)
    here = {name: _with_devices(found, held) for name, found in here_bare.items()}
    known = {instance.uuid: instance for found in here.values() for instance in found}
    named = {migration.instance_uuid for found in moves.values() for migration in found}
    moving = _moving(connection, named - known.keys()) | {uuid: known[uuid] for uuid in named & known.keys()}
    places = _places(connection, wanted, here, guests, known)
    return {
        name: NodeWork(
            record=records.get(name),
            instances=here.get(name, ()),
            migrations=tuple(moves.get(name, ())),
            moving=_named(moves.get(name, ()), moving),
            pci_devices=tuple(devices.get(name, ())),
            places=places.get(name, _NONE),
            deleted_uuids=frozenset(gone.get(name, ())),
        )
        for name in wanted
    }


def known_consumers(connection: Connection, uuids: Collection[str]) -> frozenset[str]:
    """Give those of these uuids that are an instance's or a migration's, deleted ones included."""
    asked = (select(column).where(among(column, uuids)) for column in (INSTANCES.c.uuid, MIGRATIONS.c.uuid))
    return frozenset(connection.scalars(union(*asked)))


def _records(
    connection: Connection, host: str, wanted: frozenset[str]
) -> tuple[dict[str, ComputeNode], dict[int, str]]:
    """Read the nodes' records, and their rows' ids."""
    nodes_ = COMPUTE_NODES.c
    query = select(*NODE.select).where(ALIVE, nodes_.host == host, among(nodes_.hypervisor_hostname, wanted))
    read = NODE.reader()
    records: dict[str, ComputeNode] = {}
    ids: dict[int, str] = {}
    for row in _some_at_once(connection.execute(query)):
        record = read(row)
        records[record.hypervisor_hostname] = record
        ids[row[NODE.id_at]] = record.hypervisor_hostname
    return records, ids


def _instances_by_node(connection: Connection, host: str, wanted: frozenset[str]) -> dict[str, list[Instance]]:
    columns = INSTANCES.c
    query = select(*INSTANCE.select).where(ALIVE, columns.host == host, among(columns.node, wanted))
    found: dict[str, list[Instance]] = defaultdict(list)
    for instance in map(INSTANCE.reader(), _some_at_once(connection.execute(query.order_by(columns.id)))):
        assert instance.node is not None
        found[instance.node].append(instance)
    return found


def _devices_by_node(connection: Connection, ids: Mapping[int, str]) -> dict[str, list[PciRecord]]:
    columns = PCI_DEVICES.c
    query = select(*DEVICE.select, columns.compute_node_id).where(among(columns.compute_node_id, ids))
    found: dict[str, list[PciRecord]] = defaultdict(list)
    read = DEVICE.reader()
    for row in connection.execute(query).all():
        found[ids[row[-1]]].append(read(row))
    # Sorted here: asked for an order, SQLite walks the whole index that has it.
    return {name: sorted(records, key=lambda record: record.address) for name, records in found.items()}


def _migrations_by_node(connection: Connection, host: str, wanted: frozenset[str]) -> dict[str, list[Migration]]:
    found: dict[str, list[Migration]] = defaultdict(list)
    for migration in migrations(connection, host=host):
        sides = {
            node
            for compute, node in (
                (migration.source_compute, migration.source_node),
                (migration.dest_compute, migration.dest_node),
            )
            if compute == host and node in wanted
        }
        for node in sides:
            assert node is not None
            found[node].append(migration)
    return found


def _deleted_by_node(connection: Connection, host: str, wanted: frozenset[str]) -> dict[str, list[str]]:
    """Read deleted instances that the scheduler may still hold something for; none whose uuid is in use again."""
    columns = INSTANCES.c
    again = INSTANCES.alias("again")
    reborn = exists().where(again.c.uuid == columns.uuid, again.c.deleted == _ZERO)
    query = select(columns.node, columns.uuid).where(
        GONE, columns.host == host, columns.allocations_released.is_(False), among(columns.node, wanted), ~reborn
    )
    found: dict[str, list[str]] = defaultdict(list)
    for node_name, uuid in connection.execute(query):
        found[node_name].append(uuid)
    return found


def _moving(connection: Connection, uuids: Collection[str]) -> dict[str, Instance]:
    """Read instances by uuid, wherever they are; one that is not deleted before those that are, the last of those."""
    if not uuids:
        return {}
    columns = INSTANCES.c
    query = select(*INSTANCE.select).where(among(columns.uuid, uuids))
    latest = query.order_by((columns.deleted == _ZERO).asc(), columns.id)
    found = {instance.uuid: instance for instance in map(INSTANCE.reader(), connection.execute(latest))}
    return {instance.uuid: instance for instance in _with_devices(found.values(), _held(connection, uuids))}


def _places(
    connection: Connection,
    wanted: frozenset[str],
    here: Mapping[str, Collection[Instance]],
    guests: Mapping[str, frozenset[str]],
    known: Mapping[str, Instance],
) -> dict[str, dict[str, Place]]:
    """Say where the ledger has the guests that are not on the node that runs them."""
    away = {name: guests[name] - {instance.uuid for instance in here.get(name, ())} for name in wanted & guests.keys()}
    away = {name: uuids for name, uuids in away.items() if uuids}
    asked = frozenset().union(*away.values())
    places = {uuid: Place(host=known[uuid].host, node=known[uuid].node, deleted=False) for uuid in asked & known.keys()}
    unknown = asked - known.keys()
    if unknown:
        columns = INSTANCES.c
        query = select(columns.uuid, columns.host, columns.node, columns.deleted).where(among(columns.uuid, unknown))
        alive_last = query.order_by((columns.deleted == _ZERO).asc(), columns.id)
        for uuid, host, name, deleted in connection.execute(alive_last):
            places[uuid] = Place(host=host, node=name, deleted=deleted != 0)
    return {name: {uuid: places[uuid] for uuid in uuids if uuid in places} for name, uuids in away.items()}


def _named(moves: Collection[Migration], moving: Mapping[str, Instance]) -> Mapping[str, Instance]:
    if not moves:
        return _NONE
    uuids = {migration.instance_uuid for migration in moves}
    return {uuid: moving[uuid] for uuid in uuids if uuid in moving}


def _held(connection: Connection, uuids: Collection[str]) -> Held:
    """Read which devices these instances hold, on whatever node."""
    if not uuids:
        return {}
    devices, nodes_ = PCI_DEVICES.c, COMPUTE_NODES.c
    query = (
        select(devices.instance_uuid, nodes_.host, nodes_.hypervisor_hostname, devices.address)
        .join_from(PCI_DEVICES, COMPUTE_NODES, devices.compute_node_id == nodes_.id)
        .where(nodes_.deleted == _ZERO, among(devices.instance_uuid, uuids))
    )
    found: dict[tuple[str, str | None, str | None], list[str]] = defaultdict(list)
    for uuid, host, name, address in connection.execute(query):
        found[uuid, host, name].append(address)
    return {key: tuple(sorted(addresses)) for key, addresses in found.items()}


def _held_of(devices: Mapping[str, Collection[PciRecord]], host: str) -> Held:
    """Gather which devices instances hold, of a host's devices by node."""
    found: dict[tuple[str, str | None, str | None], list[str]] = defaultdict(list)
    for name, records in devices.items():
        for record in records:
            if record.instance_uuid is not None:
                found[record.instance_uuid, host, name].append(record.address)
    return {key: tuple(sorted(addresses)) for key, addresses in found.items()}


def _with_devices(found: Iterable[Instance], held: Held) -> tuple[Instance, ...]:
    if not held:
        return tuple(found)
    return tuple(
        replace(one, pci_devices=held[one.uuid, one.host, one.node]) if (one.uuid, one.host, one.node) in held else one
        for one in found
    )
