"""
Step 7a, the ledger: promises and what was counted. Invariant: each call is one transaction, or part of one.

`Ledger` is what has the calls; a database, an open transaction and a server (`stocktake.client`) carry them. Every
call raises LedgerUnreachable if the database is locked, gone or can't be connected to (trying again is safe), and
LedgerError if it refused a statement or holds a row that can't be read.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import cached_property
from typing import Any

import msgspec
from sqlalchemy import Connection, bindparam, func, select, text, update

from stocktake.clock import Clock, Ids
from stocktake.errors import NotFound
from stocktake.ledger import history, instances, migrations, schema, transfer
from stocktake.ledger import nodes as nodes_
from stocktake.ledger.calls import LedgerCall
from stocktake.ledger.devices import DeviceCalls, free_devices, write_devices
from stocktake.ledger.engine import EVERYONE, WAIT_S, Database, tell
from stocktake.ledger.history import HistoryCalls
from stocktake.ledger.host_scope import check_rows, scoped
from stocktake.ledger.instances import InstanceCalls
from stocktake.ledger.listen import DatabaseWatch
from stocktake.ledger.mapping import INSTANCE, MIGRATION, NODE, collector_off, decode_entry, entry_values
from stocktake.ledger.migrations import MigrationCalls
from stocktake.ledger.nodes import ChangeStamp, NodeCalls
from stocktake.ledger.ownership import OwnershipCalls
from stocktake.ledger.services import ServiceCalls
from stocktake.ledger.snapshot import SnapshotCalls
from stocktake.ledger.tables import (
    ALIVE,
    COMPUTE_NODE_ENTRIES,
    COMPUTE_NODES,
    IN_PLAY,
    INSTANCES,
    MIGRATIONS,
    is_in,
)
from stocktake.ledger.tokens import Tokens
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.history import Ages
from stocktake.model.pci import PciRecord
from stocktake.model.value import UUID, replace
from stocktake.model.workload import Instance, Migration

# Any number would do that nobody else uses.
_NUMBERING = 7_317_230_918


class Ledger(
    NodeCalls,
    SnapshotCalls,
    InstanceCalls,
    MigrationCalls,
    DeviceCalls,
    ServiceCalls,
    OwnershipCalls,
    HistoryCalls,
):
    """
    The promises and the books. Threads may share one.

    Attributes:
        name: a URL without its password.
    """

    name: str

    def node_uuid(self, name_or_uuid: str) -> str:
        """
        Give a node's uuid by its name; a uuid is given back as it is, whether there is such a node or not.

        Raises:
            NotFound: no node of that name, and the nearest names; or several.
        """
        return name_or_uuid if UUID.fullmatch(name_or_uuid) else self.node(name_or_uuid).uuid

    def watch(self, host: str, wake: Callable[[], None]) -> None:
        """
        Call `wake` soon after somebody changed promises on a host, or its service, until this is closed; once.

        It is called from a thread of its own and must not wait. With SQLite it is called for every host's promises.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close all connections."""
        raise NotImplementedError


class Transaction(Ledger):
    """Several calls as one, all of them or none. Rows are locked nodes first, by uuid, then the instance."""

    def __init__(self, connection: Connection, clock: Clock, ids: Ids, ages: Ages) -> None:
        self.connection = connection
        self.ids = ids
        self.ages = ages
        self._clock = clock

    @cached_property
    def now(self) -> datetime:  # type: ignore[override]  # asked for once, by who needs it
        """The time that all of it happens at."""
        return self._clock.now()

    def carry(self, call: LedgerCall, arguments: msgspec.Struct) -> Any:
        """Run a call as a part of this."""
        return call.run(self, arguments)

    def change_migrations(self, moves: Sequence[Migration]) -> None:
        """Write migrations that are there; `updated_at` becomes now."""
        migrations.change_migrations(self.connection, moves, self.now)

    def free_devices(self, uuid: str, host: str, node: str, addresses: Collection[str]) -> None:
        """Free devices of a node that an instance holds, and drop those that are gone; its next tally counts them."""
        free_devices(self.connection, uuid, host, node, addresses, now=self.now)

    def lock(self, node_uuids: Collection[str]) -> None:
        """Lock nodes' rows; those that are not there are passed over."""
        nodes_.lock_nodes(self.connection, node_uuids)

    def hold(self, uuids: Collection[str]) -> dict[str, ComputeNode]:
        """
        Lock nodes' rows, in the order of their uuids, and read them.

        Raises:
            NotFound: no such node.
        """
        columns = COMPUTE_NODES.c
        wanted = sorted(set(uuids))
        mine = columns.uuid == wanted[0] if len(wanted) == 1 else is_in(columns.uuid, wanted)
        query = select(*NODE.select).where(ALIVE, mine).order_by(columns.uuid).with_for_update()
        found = {node.uuid: node for node in NODE.read_all(self.connection.execute(query).all())}
        missing = [uuid for uuid in wanted if uuid not in found]
        if missing:
            remedy = "`stocktake nodes` lists those there are."
            raise NotFound(f"no node {', '.join(missing)}", where="ledger", remedy=remedy)
        return found

    def instance(self, uuid: str) -> Instance | None:
        """Read an instance that is not deleted, with its devices, and lock its row; None if there is none."""
        return instances.locked_instance(self.connection, uuid)

    def whereabouts(self, uuid: str) -> frozenset[str]:
        """Name the nodes, by uuid, that an instance is on or that its migrations in play touch; none is locked."""
        columns, nodes = INSTANCES.c, COMPUTE_NODES.c
        places = set(
            map(tuple, self.connection.execute(select(columns.host, columns.node).where(ALIVE, columns.uuid == uuid)))
        )
        for one in self.migrations_of(uuid):
            places |= {(one.source_compute, one.source_node), (one.dest_compute, one.dest_node)}
        hosts = sorted({host for host, _ in places if host is not None})
        names = sorted({name for _, name in places if name is not None})
        query = select(nodes.host, nodes.hypervisor_hostname, nodes.uuid)
        query = query.where(ALIVE, is_in(nodes.host, hosts), is_in(nodes.hypervisor_hostname, names))
        return frozenset(row[2] for row in self.connection.execute(query) if (row[0], row[1]) in places)

    def migrations_of(self, instance_uuid: str) -> tuple[Migration, ...]:
        """Read an instance's migrations in play, by id."""
        columns = MIGRATIONS.c
        query = select(*MIGRATION.select).where(IN_PLAY, columns.instance_uuid == instance_uuid).order_by(columns.id)
        return MIGRATION.read_all(self.connection.execute(query).all())

    def leaving_here(self, host: str, node: str) -> tuple[Instance, ...]:
        """Read the instances that are being resized, or moved, from this node to itself."""
        moves = self.migrations(host=host, node=node)
        uuids = {
            one.instance_uuid
            for one in moves
            if (one.source_compute, one.source_node) == (host, node)
            and (one.dest_compute, one.dest_node) == (host, node)
        }
        if not uuids:
            return ()
        query = select(*INSTANCE.select).where(ALIVE, is_in(INSTANCES.c.uuid, uuids))
        return INSTANCE.read_all(self.connection.execute(query).all())

    def entries_of(self, node_uuids: Collection[str], holder: str) -> dict[str, tuple[Entry, ...]]:
        """Read what one holder has of nodes, by the nodes' uuids."""
        columns = COMPUTE_NODE_ENTRIES.c
        # By the key's first columns: an instance, one that comes, or an unmanaged guest.
        kinds = ("instance", "migration", "orphan", "misplaced")
        query = select(columns.node_uuid, columns.entry).where(
            is_in(columns.node_uuid, node_uuids), columns.kind.in_(kinds), columns.id == holder
        )
        found: dict[str, tuple[Entry, ...]] = dict.fromkeys(node_uuids, ())
        for uuid, text_ in self.connection.execute(query).all():
            found[uuid] = (*found[uuid], decode_entry(uuid, text_))
        return found

    def next_migration_id(self) -> int:
        """Give the id of the next migration; who asks for one waits until this transaction ends."""
        if self.connection.dialect.name == "postgresql":
            self.connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _NUMBERING})
        last = self.connection.scalar(select(func.max(MIGRATIONS.c.id)))
        return (last or 0) + 1

    def write_books(
        self,
        before: ComputeNode,
        after: ComputeNode,
        *,
        gone: Sequence[Entry],
        come: Sequence[Entry],
        devices: Sequence[PciRecord] | None = None,
    ) -> ComputeNode:
        """
        Write a locked node's record and what changed of its entries; its generation grows.

        Args:
            devices: all its devices as they are now; None leaves them.

        Returns:
            The record as it is now.
        """
        columns = COMPUTE_NODES.c
        saved = replace(after, generation=before.generation + 1, updated_at=self.now)
        rows = update(COMPUTE_NODES).where(ALIVE, columns.uuid == bindparam("of_uuid"))
        self.connection.execute(rows, NODE.changes(before, saved) | {"of_uuid": before.uuid})
        keys = {(entry.kind, entry.id) for entry in come}
        drop = [(before.uuid, entry.kind, entry.id) for entry in gone if (entry.kind, entry.id) not in keys]
        nodes_.drop_entries(self.connection, drop)
        kept = set(gone)
        nodes_.put_entries(self.connection, [entry_values(before.uuid, entry) for entry in come if entry not in kept])
        if devices is not None:
            row_id = self.connection.scalar(select(columns.id).where(ALIVE, columns.uuid == before.uuid))
            assert row_id is not None, "the row is locked"
            write_devices(self.connection, {row_id: devices}, self.now)
        history.note(self.connection, [(history.figures(before), saved)], self.now, self.ages)
        return saved


class DatabaseLedger(Ledger):
    """
    The ledger in a SQLite file or a PostgreSQL database.

    Attributes:
        tokens: who may use the fleet through `stocktake serve`.
    """

    def __init__(
        self, database: Database, replica: Database | None, clock: Clock, ids: Ids, ages: Ages | None = None
    ) -> None:
        self.name = database.name
        self._database = database
        self._replica = replica
        self._clock = clock
        self._ids = ids
        self._ages = ages or Ages()
        self._watch: DatabaseWatch | None = None
        self.tokens = Tokens(database, clock, ids)

    def carry(self, call: LedgerCall, arguments: msgspec.Struct, *, host: str | None = None) -> Any:
        """
        Run a call in a transaction of its own.

        Args:
            host: the one whose rows alone the caller may touch.

        Raises:
            AccessDenied: it names another host's rows, or agents may not make it; nothing was done.
        """
        if host is not None:
            arguments = scoped(call, arguments, host)
        if call.first is not None:
            with self._database.asking() as connection:
                if host is not None:
                    check_rows(connection, call.rows(arguments), host, lock=False)
                found = call.first(self._transaction(connection), arguments)
            if found is not None:
                return found
        with self._opened(call, arguments) as connection:
            if host is not None:
                check_rows(connection, call.rows(arguments), host, lock=call.writes)
            return call.run(self._transaction(connection), arguments)

    @contextmanager
    def _opened(self, call: LedgerCall, arguments: msgspec.Struct) -> Iterator[Connection]:
        if call.writes:
            with self._database.writing() as connection:
                yield connection
            return
        lagging = self._replica if getattr(arguments, "replica", False) else None
        with (lagging or self._database).reading() as connection, collector_off():
            yield connection

    def _transaction(self, connection: Connection) -> Transaction:
        return Transaction(connection, self._clock, self._ids, self._ages)

    @contextmanager
    def transaction(self, node_uuids: Collection[str] = ()) -> Iterator[Transaction]:
        """
        Make several calls one, with these nodes' rows locked and their generation grown.

        Whoever else would change them waits; a refresh that read them before will read them again. Leave it soon: no
        call to a hypervisor or the scheduler belongs in it.

        Raises:
            NotFound: no such node.
        """
        with self._database.writing() as connection:
            if node_uuids:
                nodes_.bump(connection, node_uuids)
            yield self._transaction(connection)

    def change_stamps(self, *, alive_since: datetime) -> tuple[ChangeStamp, ...]:
        """Read of all nodes what tells whether they changed: cheap enough to be asked every second."""
        with self._database.reading() as connection, collector_off():
            return nodes_.read_change_stamps(connection, alive_since)

    def schema_version(self) -> str | None:
        """Read the schema's version; None for an empty database."""
        return schema.version(self._database)

    def upgrade(self, *, make: bool = True) -> None:
        """
        Bring the schema up to date; does nothing if it is.

        Args:
            make: make the SQLite file if there is none.

        Raises:
            LedgerUnreachable: there is no file, and none is to be made.
            LedgerError: it is newer than this program.
        """
        schema.upgrade(self._database, make=make)

    def ping(self) -> None:
        """Ask the database for a sign of life."""
        with self._database.reading() as connection:
            connection.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        if self._watch is not None:
            self._watch.close()
        self._database.close()
        if self._replica is not None:
            self._replica.close()

    def watch(self, host: str, wake: Callable[[], None]) -> None:
        """Call `wake` soon after somebody changed promises on a host, or its service."""
        ours = {host, EVERYONE}
        self.hear(lambda hosts: None if ours.isdisjoint(hosts) else wake())

    def hear(self, hear: Callable[[frozenset[str]], None]) -> None:
        """Call `hear` with the hosts whose promises somebody changed, or EVERYONE; see `watch`."""
        self._watch = DatabaseWatch(self._database, hear)

    def export(self, write: Callable[[str], object]) -> None:
        """Write the whole ledger as JSON lines, as it is at one moment; each call of `write` gets one with its end."""
        with self._database.reading() as connection:
            transfer.export(connection, write)

    def import_(self, lines: Iterable[str]) -> int:
        """
        Add what was exported to the ledger, all or nothing.

        Returns:
            How many rows came in.

        Raises:
            InvalidData: the first things that are wrong, each with its line and path; nothing was changed.
        """
        rows = transfer.parse(lines)
        with self._database.writing() as connection:
            tell(connection, [EVERYONE])
            return transfer.insert_rows(connection, rows)


def open_ledger(
    url: str,
    *,
    replica_url: str | None = None,
    clock: Clock,
    ids: Ids,
    upgrade: bool = True,
    make: bool = True,
    wait_s: float = WAIT_S,
    ages: Ages | None = None,
) -> DatabaseLedger:
    """
    Open the ledger at a database URL, and bring its schema up to date.

    Args:
        url: `sqlite:////path/to/file`, whose directory is made, or `postgresql://user:password@host/name`.
        replica_url: another URL that may serve reads, with the same schema.
        upgrade: False connects to nothing and changes nothing; the first call connects.
        make: False makes no SQLite file: there has been one.
        wait_s: how long to wait for a lock or a connection.
        ages: how much history is kept.

    Raises:
        SettingsError: not a URL of SQLite or PostgreSQL.
        LedgerUnreachable: locked, gone, can't connect.
        LedgerError: the schema is newer than this program.
    """
    database = Database(url, wait_s=wait_s)
    replica = Database(replica_url, wait_s=wait_s) if replica_url else None
    ledger = DatabaseLedger(database, replica, clock, ids, ages)
    with ExitStack() as opened:
        opened.callback(ledger.close)
        if upgrade:
            ledger.upgrade(make=make)
        opened.pop_all()
    return ledger
