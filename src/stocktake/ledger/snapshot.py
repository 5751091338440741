"""
Step 7a, all that a pass reads, and whether anything of it has changed. Invariant: a fixed number of queries, whether
for 1 node or for 10,000, and no change escapes the digest, which is of the rows.

The digest is one short statement, of which no row leaves PostgreSQL: a pass in which nothing happened costs little
more.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    bindparam,
    exists,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
    union,
)
from sqlalchemy.dialects import postgresql

from stocktake.ledger.calls import Calls, ledger_call
from stocktake.ledger.devices import devices_by_node, held_of, read_held, with_devices
from stocktake.ledger.mapping import INSTANCE, NODE
from stocktake.ledger.migrations import read_migrations
from stocktake.ledger.nodes import in_parts, read_deleted_nodes, read_nodes
from stocktake.ledger.services import BINARY, read_services
from stocktake.ledger.tables import (
    ALIVE,
    COMPUTE_NODES,
    GONE,
    IN_PLAY,
    INSTANCES,
    MIGRATIONS,
    PCI_DEVICES,
    SERVICES,
    InList,
    is_in,
)
from stocktake.model.access import AGENTS, ANY_TOKEN
from stocktake.model.books import ComputeNode
from stocktake.model.value import Value
from stocktake.model.workload import Instance, Migration, NodeWork, Place, Service

_HOST = bindparam("of_host", type_=Text())
_ZERO: Any = literal_column("0")
_UNMANAGED = bindparam("of_unmanaged", type_=Text())
# Most nodes have nothing that moves: they share this one.
_NONE: Mapping[str, Any] = {}


class Snapshot(Value, frozen=True, kw_only=True):
    """
    All that a pass over a host reads, true together.

    Attributes:
        service: the agent's row; None for a host that never had one. How often and when it last reported may be old.
        works: by node, for every one that was asked for.
        others: the host's nodes that were not asked for.
        gone: its deleted nodes whose resource providers may still be there.
    """

    service: Service | None
    works: Mapping[str, NodeWork]
    others: tuple[ComputeNode, ...] = ()
    gone: tuple[ComputeNode, ...] = ()


class SnapshotAnswer(Value, frozen=True, kw_only=True):
    """What a pass reads, and its digest; None if that is what the pass has."""

    digest: str
    snapshot: Snapshot | None = None


def _unchanged(tx: Calls, it: Any) -> SnapshotAnswer | None:
    if it.known is None or _digest(tx.connection, it.host, it.unmanaged) != it.known:
        return None
    return SnapshotAnswer(digest=it.known)


class SnapshotCalls(Calls):
    """The calls of a pass, which read much at once."""

    @ledger_call(roles=ANY_TOKEN)
    def work(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> dict[str, NodeWork]:
        """
        Read all promises on these nodes of a host, in a fixed number of queries.

        Args:
            guests: by node, the uuids of the hypervisor's guests.

        Returns:
            One for every node asked for, empty for one that the ledger does not know.
        """
        return _read_work(self.connection, host, nodes, guests)

    @ledger_call(roles=AGENTS)
    def snapshot(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> Snapshot:
        """Read all that a pass over a host needs, but for its other nodes; see `work`."""
        return Snapshot(
            service=next(iter(read_services(self.connection, host)), None),
            works=_read_work(self.connection, host, nodes, guests),
            gone=read_deleted_nodes(self.connection, host),
        )

    @ledger_call(roles=AGENTS, first=_unchanged)
    def changed_snapshot(
        self,
        host: str,
        nodes: Collection[str],
        guests: Mapping[str, frozenset[str]],
        *,
        known: str | None = None,  # noqa: ARG002  # it is looked at first
        unmanaged: frozenset[str] = frozenset(),  # noqa: ARG002  # the same
    ) -> SnapshotAnswer:
        """
        Read the same and the host's other nodes, with the digest of it; nothing if the digest is the known one.

        Args:
            known: the digest of what the caller has; None if it has nothing.
            unmanaged: guests that were not on the host when it read that; whoever is there now is looked at anyway.
        """
        wanted = frozenset(nodes)
        found = Snapshot(
            service=next(iter(read_services(self.connection, host)), None),
            works=_read_work(self.connection, host, wanted, guests),
            others=_others(self.connection, host, wanted),
            gone=read_deleted_nodes(self.connection, host),
        )
        return SnapshotAnswer(digest=_digest(self.connection, host, unmanaged_of(found, guests)), snapshot=found)


def unmanaged_of(snapshot: Snapshot, guests: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Name the guests that are no instances of the host's nodes; only of these does it matter what others have."""
    here = {instance.uuid for work in snapshot.works.values() for instance in work.instances}
    return frozenset().union(*guests.values()) - here


def _read_work(
    connection: Connection, host: str, names: Collection[str], guests: Mapping[str, frozenset[str]]
) -> dict[str, NodeWork]:
    wanted = frozenset(names)
    records, ids = _records(connection, host, wanted)
    here_bare = _instances_by_node(connection, host, wanted)
    devices = devices_by_node(connection, ids)
    moves = _migrations_by_node(connection, host, wanted)
    gone = _deleted_by_node(connection, host, wanted)
    held = held_of(devices, host)
    here = {name: with_devices(found, held) for name, found in here_bare.items()}
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


def _records(
    connection: Connection, host: str, wanted: frozenset[str]
) -> tuple[dict[str, ComputeNode], dict[int, str]]:
    """Read the nodes' records, and their rows' ids."""
    nodes_ = COMPUTE_NODES.c
    query = select(*NODE.select).where(ALIVE, nodes_.host == host, is_in(nodes_.hypervisor_hostname, wanted))
    read = NODE.reader()
    records: dict[str, ComputeNode] = {}
    ids: dict[int, str] = {}
    for row in in_parts(connection.execute(query)):
        record = read(row)
        records[record.hypervisor_hostname] = record
        ids[row[NODE.id_at]] = record.hypervisor_hostname
    return records, ids


def _instances_by_node(connection: Connection, host: str, wanted: frozenset[str]) -> dict[str, list[Instance]]:
    columns = INSTANCES.c
    query = select(*INSTANCE.select).where(ALIVE, columns.host == host, is_in(columns.node, wanted))
    found: dict[str, list[Instance]] = defaultdict(list)
    for instance in map(INSTANCE.reader(), in_parts(connection.execute(query.order_by(columns.id)))):
        assert instance.node is not None
        found[instance.node].append(instance)
    return found


def _migrations_by_node(connection: Connection, host: str, wanted: frozenset[str]) -> dict[str, list[Migration]]:
    found: dict[str, list[Migration]] = defaultdict(list)
    for migration in read_migrations(connection, host=host):
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
        GONE, columns.host == host, columns.allocations_released.is_(False), is_in(columns.node, wanted), ~reborn
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
    query = select(*INSTANCE.select).where(is_in(columns.uuid, uuids))
    latest = query.order_by((columns.deleted == _ZERO).asc(), columns.id)
    found = {instance.uuid: instance for instance in map(INSTANCE.reader(), connection.execute(latest))}
    return {instance.uuid: instance for instance in with_devices(found.values(), read_held(connection, uuids))}


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
        query = select(columns.uuid, columns.host, columns.node, columns.deleted).where(is_in(columns.uuid, unknown))
        alive_last = query.order_by((columns.deleted == _ZERO).asc(), columns.id)
        for uuid, host, name, deleted in connection.execute(alive_last):
            places[uuid] = Place(host=host, node=name, deleted=deleted != 0)
    return {name: {uuid: places[uuid] for uuid in uuids if uuid in places} for name, uuids in away.items()}


def _named(moves: Collection[Migration], moving: Mapping[str, Instance]) -> Mapping[str, Instance]:
    if not moves:
        return _NONE
    uuids = {migration.instance_uuid for migration in moves}
    return {uuid: moving[uuid] for uuid in uuids if uuid in moving}


def _others(connection: Connection, host: str, names: frozenset[str]) -> tuple[ComputeNode, ...]:
    nodes = COMPUTE_NODES.c
    query = select(nodes.uuid, nodes.hypervisor_hostname).where(ALIVE, nodes.host == host)
    uuids = {uuid for uuid, name in connection.execute(query) if name not in names}
    return read_nodes(connection, host, uuids=uuids) if uuids else ()


def _digest(connection: Connection, host: str, unmanaged: Collection[str]) -> str:
    """
    Give a digest of all rows that `Snapshot` is made of, but for when and how often the agent reported.

    Args:
        unmanaged: the uuids of guests that were not instances of the host when it was read.
    """
    asked = {"of_host": host, "of_unmanaged": msgspec.json.encode(sorted(unmanaged)).decode()}
    if connection.dialect.name == "postgresql":
        (text,) = connection.exec_driver_sql(_postgresql_digest(), asked).one()
        return str(text)
    rows = [connection.execute(part, asked).all() for part in _parts()]
    return hashlib.blake2b(repr(rows).encode(errors="surrogatepass"), digest_size=16).hexdigest()


@cache
def _parts() -> tuple[Select[Any], ...]:
    """List the rows that count, table by table."""
    nodes, instances, migrations, services = COMPUTE_NODES.c, INSTANCES.c, MIGRATIONS.c, SERVICES.c
    gone_nodes, gone_instances = COMPUTE_NODES.alias("gone_nodes"), INSTANCES.alias("gone_instances")
    # Deleted ones count while something of them may be left in the scheduler; those with an index find them.
    left = [
        select(table).where(GONE, table.c.host == _HOST, flag.is_(False))
        for table, flag in ((COMPUTE_NODES, nodes.provider_deleted), (INSTANCES, instances.allocations_released))
    ]
    # One whose uuid is in use again, wherever, is left no more.
    reborn = [
        select(table.c.uuid).where(
            ALIVE,
            table.c.uuid.in_(select(old.c.uuid).where(old.c.host == _HOST, old.c.deleted != _ZERO, flag.is_(False))),
        )
        for table, old, flag in (
            (COMPUTE_NODES, gone_nodes, gone_nodes.c.provider_deleted),
            (INSTANCES, gone_instances, gone_instances.c.allocations_released),
        )
    ]
    mine = select(nodes.id).where(ALIVE, nodes.host == _HOST)
    sides = [
        select(migrations.id).where(IN_PLAY, column == _HOST)
        for column in (migrations.source_compute, migrations.dest_compute)
    ]
    moving = select(migrations.instance_uuid).where(migrations.id.in_(union(*sides)))
    away = or_(GONE, instances.host.is_distinct_from(_HOST))
    # What moves elsewhere counts with its devices; they are on other hosts' nodes.
    holding = select(PCI_DEVICES).where(PCI_DEVICES.c.instance_uuid.in_(moving))
    served = (services.uuid, services.disabled, services.disabled_reason, services.forced_down, services.pool)
    return (
        select(*served).where(services.host == _HOST, services.binary == literal_column(f"'{BINARY}'")),
        select(COMPUTE_NODES).where(ALIVE, nodes.host == _HOST),
        select(INSTANCES).where(ALIVE, instances.host == _HOST),
        *left,
        *reborn,
        select(PCI_DEVICES).where(PCI_DEVICES.c.compute_node_id.in_(mine)),
        holding,
        select(MIGRATIONS).where(migrations.id.in_(union(*sides))),
        # Apart from each other, because no database serves an OR from two indexes.
        select(INSTANCES).where(InList(instances.uuid, _UNMANAGED), away),
        select(INSTANCES).where(instances.uuid.in_(moving), away),
    )


@cache
def _postgresql_digest() -> str:
    """Write the statement that digests all parts where they are."""
    digests = []
    for part in _parts():
        first = next(iter(part.selected_columns))
        rows = part.order_by(first).subquery("one")
        text: ColumnElement[str] = literal_column("CAST(one AS text)")
        whole = select(func.md5(func.string_agg(text, literal_column("','")))).select_from(rows)
        digests.append(func.coalesce(type_coerce(whole.scalar_subquery(), Text), literal_column("'-'")))
    statement = select(func.md5(func.concat_ws(literal_column("' '"), *digests)))
    return str(statement.compile(dialect=postgresql.psycopg.dialect()))  # type: ignore[no-untyped-call]
