"""
Step 7a, the nodes' records and the entries behind their figures. Invariant: rows are locked in one order, and what
somebody changed since it was read is left alone.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from difflib import get_close_matches
from typing import Any, NamedTuple

from sqlalchemy import (
    Connection,
    CursorResult,
    and_,
    bindparam,
    delete,
    exists,
    literal_column,
    or_,
    select,
    update,
)

from stocktake.errors import NotFound
from stocktake.ledger import history
from stocktake.ledger.calls import Calls, Rows, ledger_call
from stocktake.ledger.devices import write_devices
from stocktake.ledger.engine import tell
from stocktake.ledger.instances import release
from stocktake.ledger.mapping import BRIEF_NODE, NODE, decode_entry, entry_values, in_order, insert_into, some_of
from stocktake.ledger.migrations import fail_migrations
from stocktake.ledger.services import BINARY
from stocktake.ledger.tables import (
    ALIVE,
    COMPUTE_NODE_ENTRIES,
    COMPUTE_NODES,
    GONE,
    PCI_DEVICES,
    SERVICES,
    is_in,
)
from stocktake.model.access import AGENTS, ANY_TOKEN
from stocktake.model.books import UNMANAGED, ComputeNode, Entry, Tally
from stocktake.model.problem import Problem
from stocktake.model.value import Value, encode, replace

_ZERO: Any = literal_column("0")
_ROWS_AT_ONCE = 1000


class NodeSave(Value, frozen=True, kw_only=True):
    """
    One node to be saved.

    Attributes:
        expected_generation: the generation that was read; None for a node that was not there.
        released: deleted instances for which the scheduler holds nothing any more.
        record_only: entries and devices are left as they are.
    """

    tally: Tally
    expected_generation: int | None
    released: frozenset[str] = frozenset()
    record_only: bool = False


class SaveOutcome(Value, frozen=True, kw_only=True):
    """
    What a save did, by node uuid.

    Attributes:
        saved: the records as they are now, with their new generation and times.
        conflicts: nodes that somebody else changed, made or deleted since they were read; nothing of them was written.
    """

    saved: Mapping[str, ComputeNode]
    conflicts: frozenset[str]


class LockedNode(Value, frozen=True, kw_only=True):
    """A node's row, locked until the transaction ends; `figures` are those that history remembers."""

    id: int
    generation: int
    created_at: datetime | None
    figures: tuple[int, ...]


class ChangeStamp(NamedTuple):
    """
    What tells whether a node changed; another one is another state of the node.

    Attributes:
        failure: JSON; it may change without a new generation.
        disabled, forced_down: its service's; None without one.
        alive: its agent gave a sign of life lately; None if none ever ran.
    """

    uuid: str
    generation: int
    failure: str | None
    disabled: bool | None
    forced_down: bool | None
    alive: bool | None


def _saved_rows(saves: Sequence[NodeSave]) -> Rows:
    """
    Name all rows that a save writes, or names.

    A device may be held by a guest that runs here though its instance is elsewhere: it is an entry of the node then.
    """
    return Rows(
        hosts=[one.tally.node.host for one in saves],
        nodes=[one.tally.node.uuid for one in saves],
        deleted_instances=frozenset().union(*(one.released for one in saves)),
        moving={
            device.instance_uuid
            for one in saves
            for device in one.tally.pci_devices
            if device.instance_uuid is not None
            and not any(entry.id == device.instance_uuid and entry.kind == "misplaced" for entry in one.tally.entries)
        },
        migrations={id_ for one in saves for id_ in one.tally.stale_migrations},
    )


class NodeCalls(Calls):
    """The calls about nodes and their entries."""

    @ledger_call(roles=ANY_TOKEN)
    def nodes(self, *, host: str | None = None, replica: bool = False) -> tuple[ComputeNode, ...]:  # noqa: ARG002
        """Read the nodes that are not deleted, by name; from the replica (it may lag) if asked and if there is one."""
        return read_nodes(self.connection, host)

    @ledger_call(roles=ANY_TOKEN)
    def nodes_in_brief(
        self,
        *,
        host: str | None = None,
        uuids: Collection[str] | None = None,
        replica: bool = False,  # noqa: ARG002  # who opens the transaction looks at it
    ) -> tuple[ComputeNode, ...]:
        """Read nodes for a list of many: CPU, cells, devices and metrics are as if there were none."""
        return read_nodes(self.connection, host, brief=True, uuids=uuids)

    @ledger_call(roles=ANY_TOKEN)
    def node(self, name_or_uuid: str, *, host: str | None = None) -> ComputeNode:
        """
        Read one node; if a host is given, another's is as if it were not there.

        Raises:
            NotFound: no such node, and the nearest names; or several services have a node of that name.
        """
        nodes = COMPUTE_NODES.c
        mine = [ALIVE] if host is None else [ALIVE, nodes.host == host]
        asked = or_(nodes.uuid == name_or_uuid, nodes.hypervisor_hostname == name_or_uuid)
        found = NODE.read_all(self.connection.execute(select(*NODE.select).where(*mine, asked)))
        exact = [one for one in found if one.uuid == name_or_uuid] or found
        if len(exact) == 1:
            return exact[0]
        if exact:
            hosts = ", ".join(f"{one.uuid} on {one.host}" for one in exact)
            raise NotFound(
                f"several nodes are named {name_or_uuid!r}", where="ledger", remedy=f"Give the uuid: {hosts}."
            )
        names = self.connection.scalars(select(nodes.hypervisor_hostname).where(*mine)).all()
        near = get_close_matches(name_or_uuid, names, n=3, cutoff=0.5)
        remedy = f"Did you mean {' or '.join(near)}?" if near else "`stocktake nodes` lists those there are."
        raise NotFound(f"no node {name_or_uuid!r}", where="ledger", remedy=remedy)

    @ledger_call(roles=ANY_TOKEN)
    def deleted_nodes(self, host: str) -> tuple[ComputeNode, ...]:
        """Read deleted nodes whose resource providers may still be there; never one whose uuid is in use again."""
        return read_deleted_nodes(self.connection, host)

    @ledger_call(roles=ANY_TOKEN, rows=lambda it: Rows(nodes=[it.node_uuid]))
    def entries(self, node_uuid: str) -> tuple[Entry, ...]:
        """Read what makes a node's figures; nothing for a node never tallied."""
        return read_entries(self.connection, [node_uuid])[node_uuid]

    @ledger_call(roles=ANY_TOKEN, rows=lambda it: Rows(nodes=it.node_uuids))
    def all_entries(self, node_uuids: Collection[str]) -> dict[str, tuple[Entry, ...]]:
        """Read what makes the figures of many nodes, by uuid; nothing for a node never tallied."""
        return read_entries(self.connection, node_uuids)

    @ledger_call(roles=ANY_TOKEN, rows=lambda it: Rows(nodes=it.node_uuids))
    def unmanaged(self, node_uuids: Collection[str], *, reserves: bool = False) -> dict[str, tuple[Entry, ...]]:
        """Read the entries of unmanaged guests, of reserves too if asked; a node without any is left out."""
        column = COMPUTE_NODE_ENTRIES.c
        kinds = (*UNMANAGED, *(("reserved",) if reserves else ()))
        query = select(column.node_uuid, column.entry).where(
            column.kind.in_(kinds), is_in(column.node_uuid, node_uuids)
        )
        found: dict[str, list[Entry]] = defaultdict(list)
        for uuid, text in self.connection.execute(query).all():
            found[uuid].append(decode_entry(uuid, text))
        return {uuid: in_order(several) for uuid, several in found.items()}

    @ledger_call(
        roles=AGENTS,
        rows=lambda it: _saved_rows(it.saves),
        writes=True,
        routine=True,
        empty=SaveOutcome(saved={}, conflicts=frozenset()),
    )
    def save(self, saves: Sequence[NodeSave]) -> SaveOutcome:
        """
        Save nodes, in one transaction: records, entries, devices that differ, stale migrations, released instances.

        A node whose generation is not the expected one any more is a conflict: nothing of it is written, the others
        are. A database that fails midway saved nothing. Sent twice, it is a conflict, and the node is read anew.
        """
        by_uuid = {one.tally.node.uuid: one for one in saves}
        assert len(by_uuid) == len(saves), "a node is saved once"
        there = lock_nodes(self.connection, by_uuid)
        new = [one for uuid, one in by_uuid.items() if one.expected_generation is None and uuid not in there]
        old = [
            one
            for uuid, one in by_uuid.items()
            if one.expected_generation is not None
            and uuid in there
            and there[uuid].generation == one.expected_generation
        ]
        saved: dict[str, ComputeNode] = {}
        for one in new:
            saved[one.tally.node.uuid] = replace(one.tally.node, generation=1, created_at=self.now, updated_at=self.now)
        for one in old:
            row = there[one.tally.node.uuid]
            saved[one.tally.node.uuid] = replace(
                one.tally.node, generation=row.generation + 1, created_at=row.created_at, updated_at=self.now
            )
        ids = _insert_nodes(self.connection, [saved[one.tally.node.uuid] for one in new])
        # A node made by somebody else between our look and our insert.
        saved = {uuid: node for uuid, node in saved.items() if uuid in there or uuid in ids}
        _write_nodes(self.connection, {there[one.tally.node.uuid].id: saved[one.tally.node.uuid] for one in old})
        ids |= {one.tally.node.uuid: there[one.tally.node.uuid].id for one in old}
        done = [by_uuid[uuid] for uuid in saved]
        whole = [one.tally for one in done if not one.record_only]
        _write_entries(self.connection, whole)
        write_devices(self.connection, {ids[tally.node.uuid]: tally.pci_devices for tally in whole}, self.now)
        fail_migrations(self.connection, {id_ for one in done for id_ in one.tally.stale_migrations}, self.now)
        release(self.connection, frozenset().union(*(one.released for one in done)))
        were = {uuid: row.figures for uuid, row in there.items()}
        history.note(self.connection, [(were.get(uuid), node) for uuid, node in saved.items()], self.now, self.ages)
        return SaveOutcome(saved=saved, conflicts=frozenset(by_uuid.keys() - saved.keys()))

    @ledger_call(roles=AGENTS, rows=lambda it: Rows(nodes=it.failures), writes=True, routine=True, empty=None)
    def note_failures(self, failures: Mapping[str, Problem | None]) -> None:
        """
        Write why nodes, by uuid, could not be refreshed (None: they could), where that changed.

        `generation` and `updated_at` stay, because the figures did; a node that is not there is passed over.
        """
        columns = COMPUTE_NODES.c
        query = select(columns.uuid, columns.id, columns.failure).where(ALIVE, is_in(columns.uuid, sorted(failures)))
        texts = {uuid: None if failure is None else encode(failure) for uuid, failure in failures.items()}
        changed = [
            {"row_id": id_, "failure": texts[uuid]}
            for uuid, id_, text in self.connection.execute(query.order_by(columns.uuid).with_for_update())
            if text != texts[uuid]
        ]
        if changed:
            self.connection.execute(update(COMPUTE_NODES).where(columns.id == bindparam("row_id")), changed)

    @ledger_call(roles=AGENTS, rows=lambda it: Rows(nodes=[it.uuid]), writes=True, retryable=False)
    def delete_node(self, uuid: str) -> None:
        """
        Delete a node softly; its devices and entries go.

        Raises:
            NotFound: no such node.
        """
        columns = COMPUTE_NODES.c
        row = lock_nodes(self.connection, [uuid]).get(uuid)
        if row is None:
            raise NotFound(f"no node {uuid}", where="ledger")
        self.connection.execute(delete(PCI_DEVICES).where(PCI_DEVICES.c.compute_node_id == row.id))
        self.connection.execute(delete(COMPUTE_NODE_ENTRIES).where(COMPUTE_NODE_ENTRIES.c.node_uuid == uuid))
        gone = update(COMPUTE_NODES).where(columns.id == row.id)
        self.connection.execute(gone.values(deleted=columns.id, deleted_at=self.now, generation=columns.generation + 1))

    @ledger_call(roles=AGENTS, rows=lambda it: Rows(deleted_nodes=it.uuids), writes=True)
    def note_provider_deleted(self, uuids: Collection[str]) -> None:
        """Remember that these deleted nodes' resource providers are gone too."""
        gone = update(COMPUTE_NODES).where(GONE, is_in(COMPUTE_NODES.c.uuid, uuids))
        self.connection.execute(gone.values(provider_deleted=True))


def read_nodes(
    connection: Connection, host: str | None = None, *, brief: bool = False, uuids: Collection[str] | None = None
) -> tuple[ComputeNode, ...]:
    """Read the nodes that are not deleted, by name; in brief without what is large."""
    shape = BRIEF_NODE if brief else NODE
    query = select(*shape.select).where(ALIVE).order_by(COMPUTE_NODES.c.hypervisor_hostname, COMPUTE_NODES.c.id)
    if host is not None:
        query = query.where(COMPUTE_NODES.c.host == host)
    if uuids is not None:
        query = query.where(is_in(COMPUTE_NODES.c.uuid, uuids))
    return shape.read_all(in_parts(connection.execute(query)))


def in_parts(result: CursorResult[Any]) -> Iterator[Sequence[Any]]:
    """Give rows that are fetched many at a time: one by one is slow, and all at once is the text of thousands."""
    for rows in result.partitions(_ROWS_AT_ONCE):
        yield from rows


def read_deleted_nodes(connection: Connection, host: str) -> tuple[ComputeNode, ...]:
    """Read deleted nodes whose resource providers may still be there; never one whose uuid is in use again."""
    again = COMPUTE_NODES.alias("again")
    reborn = exists().where(again.c.uuid == COMPUTE_NODES.c.uuid, again.c.deleted == _ZERO)
    query = select(*NODE.select).where(
        GONE, COMPUTE_NODES.c.host == host, COMPUTE_NODES.c.provider_deleted.is_(False), ~reborn
    )
    return NODE.read_all(connection.execute(query.order_by(COMPUTE_NODES.c.id)))


def read_entries(connection: Connection, node_uuids: Collection[str]) -> dict[str, tuple[Entry, ...]]:
    """Read what makes nodes' figures, in the order of a tally; nothing for a node never tallied."""
    column = COMPUTE_NODE_ENTRIES.c
    found: dict[str, list[Entry]] = {uuid: [] for uuid in node_uuids}
    query = select(column.node_uuid, column.entry).where(is_in(column.node_uuid, node_uuids))
    for uuid, text in connection.execute(query).all():
        found[uuid].append(decode_entry(uuid, text))
    return {uuid: in_order(several) for uuid, several in found.items()}


def read_change_stamps(connection: Connection, alive_since: datetime) -> tuple[ChangeStamp, ...]:
    """
    Read the change stamps of all nodes that are not deleted.

    Args:
        alive_since: who has not reported from then on is not alive.
    """
    nodes_, services_ = COMPUTE_NODES.c, SERVICES.c
    its = and_(services_.host == nodes_.host, services_.binary == BINARY)
    query = (
        select(
            nodes_.uuid,
            nodes_.generation,
            nodes_.failure,
            services_.disabled,
            services_.forced_down,
            services_.last_seen_up >= alive_since,
        )
        .join_from(COMPUTE_NODES, SERVICES, its, isouter=True)
        .where(ALIVE)
    )
    return tuple(ChangeStamp(*row) for row in connection.execute(query))


def lock_nodes(connection: Connection, uuids: Iterable[str]) -> dict[str, LockedNode]:
    """
    Lock nodes' rows, and say what they are now; those that are not there are left out.

    SQLite has locked everything already. Everybody locks in the order of uuids, so that none waits in a circle.
    """
    columns = COMPUTE_NODES.c
    figures = (columns[name] for name in history.FIGURES)
    query = (
        select(columns.uuid, columns.id, columns.generation, columns.created_at, *figures)
        .where(ALIVE, is_in(columns.uuid, sorted(uuids)))
        .order_by(columns.uuid)
        .with_for_update()
    )
    return {
        uuid: LockedNode(id=id_, generation=generation, created_at=created_at, figures=tuple(were))
        for uuid, id_, generation, created_at, *were in connection.execute(query)
    }


def bump(connection: Connection, uuids: Collection[str]) -> None:
    """
    Lock nodes' rows and let their generation grow, so that a save from what was read before is refused.

    Raises:
        NotFound: no such node.
    """
    missing = sorted(set(uuids) - lock_nodes(connection, uuids).keys())
    if missing:
        raise NotFound(f"no node {some_of(missing)}", where="ledger")
    columns = COMPUTE_NODES.c
    rows = update(COMPUTE_NODES).where(ALIVE, is_in(columns.uuid, sorted(uuids)))
    tell(connection, connection.scalars(rows.values(generation=columns.generation + 1).returning(columns.host)))


def _insert_nodes(connection: Connection, nodes: Sequence[ComputeNode]) -> dict[str, int]:
    """Insert nodes, and give the ids of those that nobody else had inserted."""
    if not nodes:
        return {}
    rows = connection.execute(
        insert_into(connection, COMPUTE_NODES)
        .on_conflict_do_nothing()
        .returning(COMPUTE_NODES.c.uuid, COMPUTE_NODES.c.id),
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
    mine = is_in(columns.node_uuid, [one.node.uuid for one in tallies])
    there = {tuple(row[:3]): row[3] for row in connection.execute(query.where(mine)).all()} if tallies else {}
    put_entries(
        connection, [row for row in rows if there.pop((row["node_uuid"], row["kind"], row["id"]), None) != row["entry"]]
    )
    drop_entries(connection, there)


def put_entries(connection: Connection, rows: Sequence[Mapping[str, str]]) -> None:
    """Write entries, in place of those of the same holders."""
    if rows:
        statement = insert_into(connection, COMPUTE_NODE_ENTRIES)
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
