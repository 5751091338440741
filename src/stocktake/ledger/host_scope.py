"""
The ledger as one host's agent may use it. Invariant: its own host's rows and no others; looked at where they are
written.

A row is another's if it is on another host. What is refused changes nothing, not even of what is the agent's own.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import Connection, select

from stocktake.errors import AccessDenied, NotFound
from stocktake.ledger import write
from stocktake.ledger.base import DatabaseLedger
from stocktake.ledger.nouns import NodeSave, SaveOutcome, Snapshot
from stocktake.ledger.protocol import Job, T
from stocktake.ledger.sql_in import among
from stocktake.ledger.tables import ALIVE, COMPUTE_NODES, GONE, INSTANCES, MIGRATIONS
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.history import Moment
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem
from stocktake.model.workload import Instance, Migration, NodeWork, Service


class HostLedger:
    """
    A ledger through which one host's rows can be touched; what the calls mean is said at `DatabaseLedger`.

    Every call raises AccessDenied for what is another host's.
    """

    def __init__(self, ledger: DatabaseLedger, host: str) -> None:
        self._ledger = ledger
        self._host = host

    @property
    def owners(self) -> "HostOwners":
        """Whose the nodes are."""
        return HostOwners(self._ledger, self._host)

    def nodes(self, *, host: str | None = None, replica: bool = False) -> tuple[ComputeNode, ...]:
        """Read the host's nodes."""
        return self._ledger.nodes(host=self._mine(host), replica=replica)

    def nodes_in_brief(
        self, *, host: str | None = None, uuids: Collection[str] | None = None, replica: bool = False
    ) -> tuple[ComputeNode, ...]:
        """Read the host's nodes, without what is large."""
        return self._ledger.nodes_in_brief(host=self._mine(host), uuids=uuids, replica=replica)

    def node(self, name_or_uuid: str) -> ComputeNode:
        """Read one of the host's nodes; another's is as if it were not there."""
        for one in self._ledger.nodes(host=self._host):
            if name_or_uuid in (one.uuid, one.hypervisor_hostname):
                return one
        raise NotFound(f"no node {name_or_uuid!r} on {self._host!r}", where="ledger")

    def deleted_nodes(self, host: str) -> tuple[ComputeNode, ...]:
        """Read its deleted nodes."""
        self._check(host)
        return self._ledger.deleted_nodes(host)

    def entries(self, node_uuid: str) -> tuple[Entry, ...]:
        """Read what makes a node's figures."""
        return self.all_entries([node_uuid])[node_uuid]

    def all_entries(self, node_uuids: Collection[str]) -> dict[str, tuple[Entry, ...]]:
        """Read what makes nodes' figures."""
        self._check_nodes(node_uuids)
        return self._ledger.all_entries(node_uuids)

    def devices(self, node_uuids: Collection[str]) -> dict[str, tuple[PciRecord, ...]]:
        """Read nodes' devices."""
        self._check_nodes(node_uuids)
        return self._ledger.devices(node_uuids)

    def service(self, host: str) -> Service | None:
        """Read its own row."""
        self._check(host)
        return self._ledger.service(host)

    def services(self) -> tuple[Service, ...]:
        """Read its own row, as all there is."""
        found = self._ledger.service(self._host)
        return (found,) if found is not None else ()

    def register(self, host: str, *, version: str) -> Service:
        """Give its own row."""
        self._check(host)
        return self._ledger.register(host, version=version)

    def heartbeat(self, host: str, *, version: str) -> Service:
        """Say that it lives."""
        self._check(host)
        return self._ledger.heartbeat(host, version=version)

    def work(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> dict[str, NodeWork]:
        """Read what is promised on its nodes."""
        self._check(host)
        return self._ledger.work(host, nodes, guests)

    def snapshot(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> Snapshot:
        """Read all that a pass needs."""
        self._check(host)
        return self._ledger.snapshot(host, nodes, guests)

    def standing_digested(
        self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]
    ) -> tuple[Snapshot, str]:
        """Read all that a pass needs, and its digest."""
        self._check(host)
        return self._ledger.standing_digested(host, nodes, guests)

    def standing_digest(self, host: str, strangers: Collection[str]) -> str:
        """Give the digest of what is there now."""
        self._check(host)
        return self._ledger.standing_digest(host, strangers)

    def unmanaged(self, node_uuids: Collection[str], *, reserves: bool = False) -> dict[str, tuple[Entry, ...]]:
        """Read who runs on its nodes and was not promised there."""
        self._check_nodes(node_uuids)
        return self._ledger.unmanaged(node_uuids, reserves=reserves)

    def instances(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        named: str | None = None,
        deleted: bool = False,
    ) -> tuple[Instance, ...]:
        """Read its instances."""
        return self._ledger.instances(host=self._mine(host), node=node, named=named, deleted=deleted)

    def migrations(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        all: bool = False,  # noqa: A002  # as `DatabaseLedger` has it
    ) -> tuple[Migration, ...]:
        """Read the migrations that touch it."""
        return self._ledger.migrations(host=self._mine(host), node=node, all=all)

    def known_consumers(self, uuids: Collection[str]) -> frozenset[str]:
        """Say which consumers are known: it must not take another's allocation for nobody's."""
        return self._ledger.known_consumers(uuids)

    def history(self, node_uuid: str, *, since_s: float) -> tuple[Moment, ...]:
        """Read a node's history."""
        self._check_nodes([node_uuid])
        return self._ledger.history(node_uuid, since_s=since_s)

    def thin_history(self, node_uuids: Collection[str]) -> int:
        """Thin its nodes' history."""
        self._check_nodes(node_uuids)
        return self._ledger.thin_history(node_uuids)

    def save(self, saves: Sequence[NodeSave]) -> SaveOutcome:
        """Save its nodes."""
        self._check_all(one.tally.node.host for one in saves)
        if not saves:
            return SaveOutcome(saved={}, conflicts=frozenset())
        with self._ledger.transaction() as books:
            self._own_nodes(books.connection, [one.tally.node.uuid for one in saves])
            self._own_gone(books.connection, frozenset().union(*(one.released for one in saves)))
            self._own_moves(books.connection, {id_ for one in saves for id_ in one.tally.stale_migrations})
            return books.save(saves)

    def note_failures(self, failures: Mapping[str, Problem | None]) -> None:
        """Write why its nodes could not be refreshed."""
        with self._ledger.transaction() as books:
            self._own_nodes(books.connection, failures)
            write.note_failures(books.connection, failures)

    def note_released(self, uuids: Collection[str]) -> None:
        """Remember what the scheduler let go of its deleted instances."""
        with self._ledger.transaction() as books:
            self._own_gone(books.connection, uuids)
            write.note_released(books.connection, uuids)

    def delete_node(self, uuid: str) -> None:
        """Delete one of its nodes."""
        with self._ledger.transaction() as books:
            self._own_nodes(books.connection, [uuid])
            write.delete_node(books.connection, uuid, books.now)

    def note_provider_deleted(self, uuids: Collection[str]) -> None:
        """Remember that its deleted nodes' providers are gone."""
        columns = COMPUTE_NODES.c
        with self._ledger.transaction() as books:
            query = select(columns.uuid, columns.host).where(GONE, among(columns.uuid, uuids))
            self._check_all(row.host for row in books.connection.execute(query))
            write.note_provider_deleted(books.connection, uuids)

    def put_instances(self, instances: Sequence[Instance]) -> None:
        """Insert instances on it."""
        self._check_all(one.host for one in instances)
        self._ledger.put_instances(instances)

    def change_instances(self, instances: Sequence[Instance]) -> None:
        """Write instances that are on it and stay there."""
        self._check_all(one.host for one in instances)
        with self._ledger.transaction() as books:
            self._own_instances(books.connection, [one.uuid for one in instances])
            books.change_instances(instances)

    def delete_instances(self, uuids: Collection[str], *, released: bool = False) -> None:
        """Delete its instances."""
        with self._ledger.transaction() as books:
            self._own_instances(books.connection, uuids)
            books.delete_instances(uuids, released=released)

    def put_migrations(self, migrations: Sequence[Migration]) -> None:
        """Insert migrations from or to it."""
        for one in migrations:
            if self._host not in (one.source_compute, one.dest_compute):
                raise self._denied(one.source_compute)
        self._ledger.put_migrations(migrations)

    def held(self, job: Job[T]) -> T:
        """Do a job that is the host's."""
        self._check(job.host)
        return self._ledger.held(job)

    def _own_nodes(self, connection: Connection, uuids: Collection[str]) -> None:
        columns = COMPUTE_NODES.c
        query = select(columns.host).where(ALIVE, among(columns.uuid, sorted(uuids)))
        # Held, in the order in which everybody locks, so that none is taken over before it is written.
        self._check_all(connection.scalars(query.order_by(columns.uuid).with_for_update()))

    def _own_instances(self, connection: Connection, uuids: Collection[str]) -> None:
        columns = INSTANCES.c
        query = select(columns.host).where(ALIVE, among(columns.uuid, sorted(uuids)))
        self._check_all(connection.scalars(query.order_by(columns.uuid).with_for_update()))

    def _own_gone(self, connection: Connection, uuids: Collection[str]) -> None:
        columns = INSTANCES.c
        if uuids:
            query = select(columns.uuid, columns.host).where(GONE, among(columns.uuid, sorted(uuids)))
            rows = [tuple(row) for row in connection.execute(query)]
            mine = {uuid for uuid, host in rows if host == self._host}
            # A uuid may have been deleted on several hosts; what the scheduler holds is by uuid.
            self._check_all(host for uuid, host in rows if uuid not in mine)

    def _own_moves(self, connection: Connection, ids: Collection[int]) -> None:
        columns = MIGRATIONS.c
        if ids:
            query = select(columns.source_compute, columns.dest_compute).where(among(columns.id, sorted(ids)))
            for source, dest in connection.execute(query):
                if self._host not in (source, dest):
                    raise self._denied(source)

    def _check_nodes(self, uuids: Collection[str]) -> None:
        self._check_all(self._ledger.owners.read(uuids).values())

    def _check_all(self, hosts: Iterable[str | None]) -> None:
        for host in hosts:
            self._check(host)

    def _mine(self, host: str | None) -> str:
        """Whoever asks for all hosts' has those of his own."""
        if host is not None:
            self._check(host)
        return self._host

    def _check(self, host: str | None) -> None:
        if host != self._host:
            raise self._denied(host)

    def _denied(self, host: str | None) -> AccessDenied:
        return denied(self._host, host)


class HostOwners:
    """Whose the nodes are, as one host's agent may know and say it."""

    def __init__(self, ledger: DatabaseLedger, host: str) -> None:
        self._ledger = ledger
        self._host = host

    def read(self, uuids: Collection[str] | None = None) -> dict[str, str]:
        """Name the hosts that have nodes: a host must learn that its identity is another's."""
        return self._ledger.owners.read(uuids)

    def join(self, host: str, pool: Mapping[str, str] | None) -> None:
        """Say with whom it divides nodes."""
        if host != self._host:
            raise denied(self._host, host)
        self._ledger.owners.join(host, pool)


def denied(mine: str, host: str | None) -> AccessDenied:
    """Make the error of an agent that touches another host's rows."""
    return AccessDenied(f"this token is for host {mine!r} only", where=host or "all hosts")
