"""
Step 7a, the ledger's front: a small, bulk interface over one database. Law: each call is one transaction.

Every call raises LedgerUnreachable if the database is locked, gone or can't be connected to (trying again is safe), and
LedgerError if it refused a statement or holds a row that can't be read.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import text

from stocktake.clock import Clock, Ids
from stocktake.ledger import history, notice, read, schema, transfer, write
from stocktake.ledger.engine import Database
from stocktake.ledger.marks import Mark, marks
from stocktake.ledger.nouns import NodeSave, SaveOutcome
from stocktake.ledger.owners import Owners
from stocktake.ledger.rows import collector_off
from stocktake.ledger.tokens import Tokens
from stocktake.ledger.transaction import Transaction
from stocktake.ledger.watch import Watch
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.history import Ages, Moment
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem
from stocktake.model.workload import Instance, Migration, NodeWork, Service


class Ledger:
    """
    The promises and the books, in a SQLite file or a PostgreSQL database. Threads may share one.

    Attributes:
        tokens: who may use the fleet through `stocktake serve`.
    """

    def __init__(
        self, database: Database, replica: Database | None, clock: Clock, ids: Ids, ages: Ages | None = None
    ) -> None:
        self._database = database
        self._replica = replica
        self._clock = clock
        self._ids = ids
        self._ages = ages or Ages()
        self._watch: Watch | None = None
        self.tokens = Tokens(database, clock, ids)

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self._database.name

    @property
    def owners(self) -> Owners:
        """Whose the nodes are, and giving them to others."""
        return Owners(self._database, self._clock)

    def schema_version(self) -> str | None:
        """Read the schema's version; None for an empty database."""
        return schema.version(self._database)

    def upgrade(self) -> None:
        """
        Bring the schema up to date; does nothing if it is.

        Raises:
            LedgerError: it is newer than this program.
        """
        schema.upgrade(self._database)

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
        """
        Call `wake` soon after somebody changed promises on a host, or its service, until this is closed; once.

        It is called from a thread of its own and must not wait. With SQLite it is called for every host's promises.
        """
        self._watch = Watch(self._database, host, wake)

    def nodes(self, *, host: str | None = None, replica: bool = False) -> tuple[ComputeNode, ...]:
        """Read the nodes that are not deleted, by name; from the replica (it may lag) if asked and if there is one."""
        database = self._replica if replica and self._replica is not None else self._database
        with database.reading() as connection, collector_off():
            return read.nodes(connection, host)

    def nodes_in_brief(
        self, *, host: str | None = None, uuids: Collection[str] | None = None, replica: bool = False
    ) -> tuple[ComputeNode, ...]:
        """Read nodes for a list of many: CPU, cells, devices and metrics are as if there were none."""
        database = self._replica if replica and self._replica is not None else self._database
        with database.reading() as connection, collector_off():
            return read.nodes(connection, host, brief=True, uuids=uuids)

    def marks(self, *, alive_since: datetime) -> tuple[Mark, ...]:
        """Read of all nodes what tells whether they changed: cheap enough to be asked every second."""
        with self._database.reading() as connection, collector_off():
            return marks(connection, alive_since)

    def node(self, name_or_uuid: str) -> ComputeNode:
        """
        Read one node.

        Raises:
            NotFound: no such node, and the nearest names; or several of that name.
        """
        with self._database.reading() as connection:
            return read.node(connection, name_or_uuid)

    def node_uuid(self, name_or_uuid: str) -> str:
        """
        Give a node's uuid by its name; a uuid is given back as it is, whether there is such a node or not.

        Raises:
            NotFound: no node of that name, and the nearest names; or several.
        """
        return name_or_uuid if read.UUID.fullmatch(name_or_uuid) else self.node(name_or_uuid).uuid

    def deleted_nodes(self, host: str) -> tuple[ComputeNode, ...]:
        """Read deleted nodes of a host whose resource providers may still be there."""
        with self._database.reading() as connection:
            return read.deleted_nodes(connection, host)

    def entries(self, node_uuid: str) -> tuple[Entry, ...]:
        """Read what makes a node's figures; nothing for a node never tallied."""
        with self._database.reading() as connection:
            return read.entries(connection, [node_uuid])[node_uuid]

    def all_entries(self, node_uuids: Collection[str]) -> dict[str, tuple[Entry, ...]]:
        """Read what makes the figures of many nodes, by uuid; nothing for a node never tallied."""
        with self._database.reading() as connection, collector_off():
            return read.entries(connection, node_uuids)

    def devices(self, node_uuids: Collection[str]) -> dict[str, tuple[PciRecord, ...]]:
        """Read the tracked devices of many nodes, by uuid; nothing for a node without any."""
        with self._database.reading() as connection, collector_off():
            return read.devices(connection, node_uuids)

    def strangers(self, node_uuids: Collection[str], *, reserves: bool = False) -> dict[str, tuple[Entry, ...]]:
        """Read the entries of guests that nobody promised there, by the nodes' uuids; reserves too if asked."""
        with self._database.reading() as connection, collector_off():
            return read.strangers(connection, node_uuids, reserves=reserves)

    def service(self, host: str) -> Service | None:
        """Read an agent's row."""
        with self._database.reading() as connection:
            return next(iter(read.services(connection, host)), None)

    def services(self) -> tuple[Service, ...]:
        """Read all agents' rows, by host."""
        with self._database.reading() as connection:
            return read.services(connection)

    def register(self, host: str, *, version: str) -> Service:
        """Give the service of a host, made if it is new; that is no sign of life of an agent."""
        with self._database.writing() as connection:
            now = self._clock.now()
            write.register(connection, Service(uuid=self._ids.uuid(), host=host, version=version, created_at=now))
            (service,) = read.services(connection, host)
            return service

    def heartbeat(self, host: str, *, version: str) -> Service:
        """Say that the agent of a host lives now; its row is made if it is new."""
        with self._database.writing() as connection:
            now = self._clock.now()
            new = Service(uuid=self._ids.uuid(), host=host, version=version, last_seen_up=now, created_at=now)
            return write.heartbeat(connection, new, now)

    def set_service(
        self,
        host: str,
        *,
        disabled: bool | None = None,
        reason: str | None = None,
        forced_down: bool | None = None,
    ) -> Service:
        """
        Enable or disable an agent for the scheduler, or say that its host is down whatever the agent says.

        Args:
            disabled: None leaves it, and its reason, as it is.
            reason: why it is disabled; an enabled one has none.
            forced_down: None leaves it as it is.

        Raises:
            NotFound: no agent of that host ever reported.
        """
        values: dict[str, object] = {}
        if disabled is not None:
            values |= {"disabled": disabled, "disabled_reason": reason}
        if forced_down is not None:
            values |= {"forced_down": forced_down}
        with self._database.writing() as connection:
            notice.tell(connection, [host])
            return write.set_service(connection, host, self._clock.now(), values)

    def work(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> dict[str, NodeWork]:
        """
        Read all that is promised on these nodes of a host, in a fixed number of queries.

        Args:
            guests: by node, the uuids of the hypervisor's guests.

        Returns:
            One for every node asked for, empty for one that the ledger does not know.
        """
        with self._database.reading() as connection, collector_off():
            return read.work(connection, host, nodes, guests)

    def save(self, saves: Sequence[NodeSave]) -> SaveOutcome:
        """
        Save nodes, in one transaction: records, entries, devices that differ, stale migrations, released instances.

        A node whose generation is not the expected one any more is a conflict: nothing of it is written, the others
        are. A database that fails midway saved nothing.
        """
        if not saves:
            return SaveOutcome(saved={}, conflicts=frozenset())
        with self._database.writing() as connection:
            return write.save(connection, saves, self._clock.now(), self._ages)

    def note_failures(self, failures: Mapping[str, Problem | None]) -> None:
        """
        Write why nodes, by uuid, could not be refreshed (None: they could), where that changed.

        `generation` and `updated_at` stay, because the figures did; a node that is not there is passed over.
        """
        if failures:
            with self._database.writing() as connection:
                write.note_failures(connection, failures)

    def note_released(self, uuids: Collection[str]) -> None:
        """Remember that the scheduler holds nothing any more for these deleted instances."""
        with self._database.writing() as connection:
            write.note_released(connection, uuids)

    def delete_node(self, uuid: str) -> None:
        """
        Delete a node softly; its devices and entries go.

        Raises:
            NotFound: no such node.
        """
        with self._database.writing() as connection:
            write.delete_node(connection, uuid, self._clock.now())

    def note_provider_deleted(self, uuids: Collection[str]) -> None:
        """Remember that these deleted nodes' resource providers are gone too."""
        with self._database.writing() as connection:
            write.note_provider_deleted(connection, uuids)

    def instances(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        named: str | None = None,
        deleted: bool = False,
    ) -> tuple[Instance, ...]:
        """Read instances, the first made first: by host, node, uuid or name; the deleted ones too if asked."""
        with self._database.reading() as connection, collector_off():
            return read.instances(connection, host=host, node=node, named=named, deleted=deleted)[0]

    def some_instances(
        self, *, after: int, limit: int, host: str | None = None, node: str | None = None, deleted: bool = False
    ) -> tuple[tuple[Instance, ...], int | None]:
        """Read at most so many instances made after a row, by its id, and the last one's id if there are more."""
        with self._database.reading() as connection, collector_off():
            return read.instances(connection, host=host, node=node, deleted=deleted, after=after, limit=limit)

    def put_instances(self, instances: Sequence[Instance]) -> None:
        """
        Insert instances. Which devices they hold is not written: `save` writes devices with their holders.

        Raises:
            AlreadyThere: one is there already; names it, and none is inserted.
        """
        with self._database.writing() as connection:
            write.put_instances(connection, instances, self._clock.now())

    def change_instances(self, instances: Sequence[Instance]) -> None:
        """
        Write instances that are there; `updated_at` becomes now.

        Raises:
            NotFound: one is not there; none is written.
        """
        with self._database.writing() as connection:
            write.change_instances(connection, instances, self._clock.now())

    def delete_instances(self, uuids: Collection[str], *, released: bool = False) -> None:
        """
        Delete instances softly.

        Args:
            released: the scheduler holds nothing for them.

        Raises:
            NotFound: one is not there; none is deleted.
        """
        with self._database.writing() as connection:
            write.delete_instances(connection, uuids, self._clock.now(), released=released)

    def migrations(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        all: bool = False,  # noqa: A002  # as operators ask for it
    ) -> tuple[Migration, ...]:
        """Read migrations by id: those in play from or to the host and node; or all, settled and deleted ones too."""
        with self._database.reading() as connection:
            return read.migrations(connection, host=host, node=node, every=all)

    def put_migrations(self, migrations: Sequence[Migration]) -> None:
        """
        Insert migrations under their ids.

        Raises:
            AlreadyThere: one is there already; names it, and none is inserted.
        """
        with self._database.writing() as connection:
            write.put_migrations(connection, migrations, self._clock.now())

    def known_consumers(self, uuids: Collection[str]) -> frozenset[str]:
        """Say which of these uuids, of consumers in the scheduler, are instances or migrations, deleted ones too."""
        if not uuids:
            return frozenset()
        with self._database.reading() as connection:
            return read.known_consumers(connection, uuids)

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
                write.bump(connection, node_uuids)
            yield Transaction(connection, self._clock.now(), self._ages)

    def history(self, node_uuid: str, *, since_s: float) -> tuple[Moment, ...]:
        """Read what a node had and promised in the last `since_s` seconds, and the row that held when they began."""
        with self._database.reading() as connection:
            return history.read(connection, node_uuid, self._clock.now() - timedelta(seconds=since_s))

    def thin_history(self, node_uuids: Collection[str]) -> int:
        """Drop rows of these nodes' history that are too old to be kept, in a bounded step; give how many went."""
        with self._database.reading() as connection:
            doomed = history.doomed(connection, node_uuids, self._clock.now(), self._ages)
        if doomed:
            with self._database.writing() as connection:
                history.drop(connection, doomed)
        return len(doomed)

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
            notice.tell(connection, [notice.EVERYONE])
            return transfer.insert_rows(connection, rows)
