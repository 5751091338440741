"""
Step 7a, the ledger's front: a small, bulk interface over one database. Invariant: each call is one transaction.

Every call raises LedgerUnreachable if the database is locked, gone or can't be connected to (trying again is safe), and
LedgerError if it refused a statement or holds a row that can't be read.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import text

from stocktake.clock import Clock, Ids
from stocktake.ledger import history, notify, read, schema, transfer, write
from stocktake.ledger.engine import Database
from stocktake.ledger.listen import Watch
from stocktake.ledger.nouns import NodeSave, SaveOutcome
from stocktake.ledger.ownership import Owners
from stocktake.ledger.protocol import Job
from stocktake.ledger.reading import ReadingLedger
from stocktake.ledger.tokens import Tokens
from stocktake.ledger.transaction import Transaction
from stocktake.model.history import Ages
from stocktake.model.problem import Problem
from stocktake.model.workload import Instance, Migration, Service

T = TypeVar("T")


class DatabaseLedger(ReadingLedger):
    """
    The promises and the books, in a SQLite file or a PostgreSQL database. Threads may share one.

    Attributes:
        tokens: who may use the fleet through `stocktake serve`.
    """

    def __init__(
        self, database: Database, replica: Database | None, clock: Clock, ids: Ids, ages: Ages | None = None
    ) -> None:
        super().__init__(database, replica, clock)
        self._ids = ids
        self._ages = ages or Ages()
        self._watch: Watch | None = None
        self.tokens = Tokens(database, clock, ids)

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
        ours = {host, notify.EVERYONE}
        self.hear(lambda hosts: None if ours.isdisjoint(hosts) else wake())

    def hear(self, hear: Callable[[frozenset[str]], None]) -> None:
        """Call `hear` with the hosts whose promises somebody changed, or EVERYONE; see `watch`."""
        self._watch = Watch(self._database, hear)

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
            notify.tell(connection, [host])
            return write.set_service(connection, host, self._clock.now(), values)

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

    def put_migrations(self, migrations: Sequence[Migration]) -> None:
        """
        Insert migrations under their ids.

        Raises:
            AlreadyThere: one is there already; names it, and none is inserted.
        """
        with self._database.writing() as connection:
            write.put_migrations(connection, migrations, self._clock.now())

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

    def held(self, job: Job[T]) -> T:
        """Do a job with rows held, in one transaction."""
        with self.transaction() as books:
            return job.run(books)

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
            notify.tell(connection, [notify.EVERYONE])
            return transfer.insert_rows(connection, rows)
