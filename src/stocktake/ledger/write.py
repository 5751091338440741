"""
Step 7a: save what changed. Invariant: rows are locked in one order; what somebody changed since it was read is left
alone.

Every function takes the connection of a writing transaction and the time.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Table, bindparam, delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from stocktake.errors import AlreadyThere, NotFound
from stocktake.ledger import history
from stocktake.ledger.mapping import DEVICE, INSTANCE, MIGRATION, NODE, SERVICE, entry_values
from stocktake.ledger.notify import tell
from stocktake.ledger.nouns import Locked, NodeSave, SaveOutcome
from stocktake.ledger.read import BINARY
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
from stocktake.model.books import ComputeNode, Tally
from stocktake.model.history import Ages
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem
from stocktake.model.value import encode, replace
from stocktake.model.workload import Instance, Migration, Service

_NAMED_MAX = 5
# A row inserted as deleted is marked with this until its own id is known.
DELETED = -1


def lock_nodes(connection: Connection, uuids: Iterable[str]) -> dict[str, Locked]:
    """
    Lock nodes' rows, and say what they are now; those that are not there are left out.

    SQLite has locked everything already. Everybody locks in the order of uuids, so that none waits in a circle.
    """
    columns = COMPUTE_NODES.c
    figures = (columns[name] for name in history.FIGURES)
    query = (
        select(columns.uuid, columns.id, columns.generation, columns.created_at, *figures)
        .where(ALIVE, among(columns.uuid, sorted(uuids)))
        .order_by(columns.uuid)
        .with_for_update()
    )
    return {
        uuid: Locked(id=id_, generation=generation, created_at=created_at, figures=tuple(were))
        for uuid, id_, generation, created_at, *were in connection.execute(query)
    }


def save(connection: Connection, saves: Sequence[NodeSave], now: datetime, ages: Ages) -> SaveOutcome:
    """Save nodes whose rows are as they were read; see `DatabaseLedger.save`."""
    by_uuid = {one.tally.node.uuid: one for one in saves}
    assert len(by_uuid) == len(saves), "a node is saved once"
    there = lock_nodes(connection, by_uuid)
    new = [one for uuid, one in by_uuid.items() if one.expected_generation is None and uuid not in there]
    old = [
        one
        for uuid, one in by_uuid.items()
        if one.expected_generation is not None and uuid in there and there[uuid].generation == one.expected_generation
    ]
    saved: dict[str, ComputeNode] = {}
    for one in new:
        saved[one.tally.node.uuid] = replace(one.tally.node, generation=1, created_at=now, updated_at=now)
    for one in old:
        row = there[one.tally.node.uuid]
        saved[one.tally.node.uuid] = replace(
            one.tally.node, generation=row.generation + 1, created_at=row.created_at, updated_at=now
        )
    ids = _insert_nodes(connection, [saved[one.tally.node.uuid] for one in new])
    # A node made by somebody else between our look and our insert.
    saved = {uuid: node for uuid, node in saved.items() if uuid in there or uuid in ids}
    _write_nodes(connection, {there[one.tally.node.uuid].id: saved[one.tally.node.uuid] for one in old})
    ids |= {one.tally.node.uuid: there[one.tally.node.uuid].id for one in old}
    done = [by_uuid[uuid] for uuid in saved]
    whole = [one.tally for one in done if not one.record_only]
    _write_entries(connection, whole)
    write_devices(connection, {ids[tally.node.uuid]: tally.pci_devices for tally in whole}, now)
    _fail_migrations(connection, {id_ for one in done for id_ in one.tally.stale_migrations}, now)
    note_released(connection, frozenset().union(*(one.released for one in done)))
    were = {uuid: row.figures for uuid, row in there.items()}
    history.note(connection, [(were.get(uuid), node) for uuid, node in saved.items()], now, ages)
    return SaveOutcome(saved=saved, conflicts=frozenset(by_uuid.keys() - saved.keys()))


def _insert_nodes(connection: Connection, nodes: Sequence[ComputeNode]) -> dict[str, int]:
    """Insert nodes, and give the ids of those that nobody else had inserted."""
    if not nodes:
        return {}
    rows = connection.execute(
        _insert(connection, COMPUTE_NODES).on_conflict_do_nothing().returning(COMPUTE_NODES.c.uuid, COMPUTE_NODES.c.id),
        [NODE.values(node) for node in nodes],
    )
    return dict(map(tuple, rows))


def _write_nodes(connection: Connection, nodes: Mapping[int, ComputeNode]) -> None:
    rows = [NODE.values(node) | {"row_id": id_} for id_, node in nodes.items()]
    if rows:
        connection.execute(update(COMPUTE_NODES).where(COMPUTE_NODES.c.id == bindparam("row_id")), rows)


def _write_entries(connection: Connection, tallies: Sequence[Tally]) -> None:
    """Make the nodes' entries these, touching only rows that differ."""
    columns = COMPUTE_NODE_ENTRIES.c
    rows = [entry_values(one.node.uuid, entry) for one in tallies for entry in one.entries]
    query = select(columns.node_uuid, columns.kind, columns.id, columns.entry)
    mine = among(columns.node_uuid, [one.node.uuid for one in tallies])
    there = {tuple(row[:3]): row[3] for row in connection.execute(query.where(mine)).all()} if tallies else {}
    put_entries(
        connection, [row for row in rows if there.pop((row["node_uuid"], row["kind"], row["id"]), None) != row["entry"]]
    )
    drop_entries(connection, there)


def put_entries(connection: Connection, rows: Sequence[Mapping[str, str]]) -> None:
    """Write entries, in place of those of the same holders."""
    if rows:
        statement = _insert(connection, COMPUTE_NODE_ENTRIES)
        new = {"entry": statement.excluded.entry}
        key = ["node_uuid", "kind", "id"]
        connection.execute(statement.on_conflict_do_update(index_elements=key, set_=new), rows)


def drop_entries(connection: Connection, keys: Collection[tuple[str, str, str]]) -> None:
    """Delete entries by node, kind and id."""
    if keys:
        columns = COMPUTE_NODE_ENTRIES.c
        doomed = delete(COMPUTE_NODE_ENTRIES).where(
            columns.node_uuid == bindparam("of_node"),
            columns.kind == bindparam("of_kind"),
            columns.id == bindparam("of_id"),
        )
        rows = [{"of_node": uuid, "of_kind": kind, "of_id": id_} for uuid, kind, id_ in keys]
        connection.execute(doomed, rows)


def write_devices(connection: Connection, wanted: Mapping[int, Sequence[PciRecord]], now: datetime) -> None:
    """Make the nodes' devices these, touching only rows that differ; by the nodes' row ids."""
    columns = PCI_DEVICES.c
    query = select(*DEVICE.select, columns.compute_node_id).where(among(columns.compute_node_id, wanted))
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
        connection.execute(delete(PCI_DEVICES).where(among(columns.id, [row_id for row_id, _ in there.values()])))


def _fail_migrations(connection: Connection, ids: Collection[int], now: datetime) -> None:
    """Set stale migrations to `error`; one that was settled meanwhile stays settled."""
    if ids:
        stale = update(MIGRATIONS).where(IN_PLAY, among(MIGRATIONS.c.id, ids))
        connection.execute(stale.values(status="error", updated_at=now))


def note_released(connection: Connection, uuids: Collection[str]) -> None:
    """Remember that the scheduler holds nothing any more for these deleted instances."""
    if uuids:
        gone = update(INSTANCES).where(GONE, among(INSTANCES.c.uuid, uuids))
        connection.execute(gone.values(allocations_released=True))


def note_failures(connection: Connection, failures: Mapping[str, Problem | None]) -> None:
    """Write why nodes could not be refreshed, where that changed; their generation and times stay."""
    columns = COMPUTE_NODES.c
    query = select(columns.uuid, columns.id, columns.failure).where(ALIVE, among(columns.uuid, sorted(failures)))
    texts = {uuid: None if failure is None else encode(failure) for uuid, failure in failures.items()}
    changed = [
        {"row_id": id_, "failure": texts[uuid]}
        for uuid, id_, text in connection.execute(query.order_by(columns.uuid).with_for_update())
        if text != texts[uuid]
    ]
    if changed:
        connection.execute(update(COMPUTE_NODES).where(columns.id == bindparam("row_id")), changed)


def delete_node(connection: Connection, uuid: str, now: datetime) -> None:
    """Delete a node softly; its devices and entries go."""
    columns = COMPUTE_NODES.c
    row = _locked(connection, uuid)
    connection.execute(delete(PCI_DEVICES).where(PCI_DEVICES.c.compute_node_id == row.id))
    connection.execute(delete(COMPUTE_NODE_ENTRIES).where(COMPUTE_NODE_ENTRIES.c.node_uuid == uuid))
    gone = update(COMPUTE_NODES).where(columns.id == row.id)
    connection.execute(gone.values(deleted=columns.id, deleted_at=now, generation=columns.generation + 1))


def note_provider_deleted(connection: Connection, uuids: Collection[str]) -> None:
    """Remember that deleted nodes' resource providers are gone too."""
    gone = update(COMPUTE_NODES).where(GONE, among(COMPUTE_NODES.c.uuid, uuids))
    connection.execute(gone.values(provider_deleted=True))


def bump(connection: Connection, uuids: Collection[str]) -> None:
    """
    Lock nodes' rows and let their generation grow, so that a save from what was read before is refused.

    Raises:
        NotFound: no such node.
    """
    missing = sorted(set(uuids) - lock_nodes(connection, uuids).keys())
    if missing:
        raise NotFound(f"no node {_shown(missing)}", where="ledger")
    columns = COMPUTE_NODES.c
    rows = update(COMPUTE_NODES).where(ALIVE, among(columns.uuid, sorted(uuids)))
    tell(connection, connection.scalars(rows.values(generation=columns.generation + 1).returning(columns.host)))


def _locked(connection: Connection, uuid: str) -> Locked:
    rows = lock_nodes(connection, [uuid])
    if uuid not in rows:
        raise NotFound(f"no node {uuid}", where="ledger")
    return rows[uuid]


def register(connection: Connection, new: Service) -> None:
    """Insert an agent's row if there is none."""
    statement = _insert(connection, SERVICES).values(SERVICE.values(new))
    connection.execute(statement.on_conflict_do_nothing(index_elements=["host", "binary"]))


def heartbeat(connection: Connection, new: Service, now: datetime) -> Service:
    """Say that an agent lives; its row becomes `new` if there is none."""
    columns = SERVICES.c
    statement = _insert(connection, SERVICES).values(SERVICE.values(new) | {"report_count": 1})
    beat = {"report_count": columns.report_count + 1, "last_seen_up": now, "version": new.version, "updated_at": now}
    statement = statement.on_conflict_do_update(index_elements=["host", "binary"], set_=beat)
    return SERVICE.reader()(connection.execute(statement.returning(*SERVICE.select)).one())


def set_service(connection: Connection, host: str, now: datetime, values: Mapping[str, object]) -> Service:
    """Write an agent's row."""
    columns = SERVICES.c
    ours = update(SERVICES).where(columns.host == host, columns.binary == BINARY)
    row = connection.execute(ours.values(updated_at=now, **values).returning(*SERVICE.select)).one_or_none()
    if row is None:
        raise NotFound(f"no service on {host!r}", where="ledger", remedy="`stocktake services` lists those there are.")
    return SERVICE.reader()(row)


def instance_values(instance: Instance) -> dict[str, Any]:
    """Turn an instance into column values, with its flavor's figures for people who look with SQL."""
    flavor = instance.flavor
    return INSTANCE.values(instance) | {
        "vcpus": flavor.vcpus,
        "memory_mb": flavor.memory_mb,
        "root_gb": flavor.root_gb,
        "ephemeral_gb": flavor.ephemeral_gb,
    }


def put_instances(connection: Connection, instances: Sequence[Instance], now: datetime) -> None:
    """Insert instances; refused if one is there already."""
    rows = [
        instance_values(one)
        | {
            "created_at": one.created_at or now,
            "deleted_at": (one.deleted_at or now) if one.deleted else None,
            "deleted": DELETED if one.deleted else 0,
        }
        for one in instances
    ]
    if not rows:
        return
    tell(connection, (one.host for one in instances))
    statement = _insert(connection, INSTANCES).on_conflict_do_nothing().returning(INSTANCES.c.uuid)
    _refuse_missing("instance", [row["uuid"] for row in rows], connection.scalars(statement, rows).all())
    if any(one.deleted for one in instances):
        own_id = update(INSTANCES).where(INSTANCES.c.deleted == DELETED)
        connection.execute(own_id.values(deleted=INSTANCES.c.id))


def change_instances(connection: Connection, instances: Sequence[Instance], now: datetime) -> None:
    """Write all of these instances but when they were made; an instance is deleted by `delete_instances` only."""
    columns = INSTANCES.c
    ids = _ids(connection, [one.uuid for one in instances], {one.host for one in instances})
    rows = [
        instance_values(one) | {"row_id": ids[one.uuid], "updated_at": now, "deleted_at": None} for one in instances
    ]
    for row in rows:
        del row["created_at"]
    if rows:
        connection.execute(update(INSTANCES).where(columns.id == bindparam("row_id")), rows)


def delete_instances(connection: Connection, uuids: Collection[str], now: datetime, *, released: bool = False) -> None:
    """Delete instances softly; unless `released`, what the scheduler holds goes with their node's next refresh."""
    ids = _ids(connection, uuids)
    columns = INSTANCES.c
    gone = update(INSTANCES).where(among(columns.id, ids.values()))
    connection.execute(gone.values(deleted=columns.id, deleted_at=now, allocations_released=released))


def put_migrations(connection: Connection, migrations: Sequence[Migration], now: datetime) -> None:
    """Insert migrations under their ids; refused if one is there already."""
    rows = [
        MIGRATION.values(one) | {"deleted": one.id if one.deleted else 0, "created_at": one.created_at or now}
        for one in migrations
    ]
    if rows:
        tell(connection, (host for one in migrations for host in (one.source_compute, one.dest_compute)))
        statement = _insert(connection, MIGRATIONS).on_conflict_do_nothing().returning(MIGRATIONS.c.id)
        _refuse_missing("migration", [one.id for one in migrations], connection.scalars(statement, rows).all())


def _ids(connection: Connection, uuids: Collection[str], hosts: Collection[str | None] = ()) -> dict[str, int]:
    query = select(INSTANCES.c.uuid, INSTANCES.c.id, INSTANCES.c.host).where(ALIVE, among(INSTANCES.c.uuid, uuids))
    rows = connection.execute(query.order_by(INSTANCES.c.uuid).with_for_update()).all()
    tell(connection, (*hosts, *(row[2] for row in rows)))
    found = {row[0]: row[1] for row in rows}
    missing = sorted(set(uuids) - found.keys())
    if missing:
        raise NotFound(f"no instance {_shown(missing)}", where="ledger")
    return found


def _refuse_missing(kind: str, wanted: Sequence[object], inserted: Sequence[object]) -> None:
    """Refuse an insert that left something out, because it was there already or stood twice in the list."""
    rest = list(inserted)
    refused = []
    known = set(rest)
    seen: set[object] = set()
    for one in wanted:
        if one not in known or one in seen:
            refused.append(one)
        seen.add(one)
    if len(rest) != len(wanted):
        raise AlreadyThere(f"{kind} {_shown(refused)} is in the ledger already", where="ledger")


def _shown(names: Sequence[object]) -> str:
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(str(name) for name in names[:_NAMED_MAX]) + more


def _insert(connection: Connection, table: Table) -> Any:
    """Begin an insert that can say `ON CONFLICT`, which both databases write the same."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)
