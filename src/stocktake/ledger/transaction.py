"""
Step 7a, several calls as one: all of them or none. Invariant: who changes a node's books holds its row until the end.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from stocktake.ledger import history, locked, read, write
from stocktake.ledger.nouns import NodeSave, SaveOutcome
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.history import Ages
from stocktake.model.pci import PciRecord
from stocktake.model.workload import Instance, Migration, NodeWork


class Transaction:
    """
    Several calls as one. What they mean is said at `DatabaseLedger`'s.

    Attributes:
        connection: the database's, for this room.
        now: the time that all of it happens at.
    """

    def __init__(self, connection: Connection, now: datetime, ages: Ages) -> None:
        self.connection = connection
        self._ages = ages
        self.now = now

    def work(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> dict[str, NodeWork]:
        """Read what is promised on nodes."""
        return read.work(self.connection, host, nodes, guests)

    def save(self, saves: Sequence[NodeSave]) -> SaveOutcome:
        """Save nodes whose rows are as they were read."""
        return write.save(self.connection, saves, self.now, self._ages)

    def put_instances(self, instances: Sequence[Instance]) -> None:
        """Insert instances."""
        write.put_instances(self.connection, instances, self.now)

    def change_instances(self, instances: Sequence[Instance]) -> None:
        """Write instances that are there."""
        write.change_instances(self.connection, instances, self.now)

    def delete_instances(self, uuids: Collection[str], *, released: bool = False) -> None:
        """Delete instances softly; `released` if the scheduler holds nothing for them."""
        write.delete_instances(self.connection, uuids, self.now, released=released)

    def put_migrations(self, migrations: Sequence[Migration]) -> None:
        """Insert migrations."""
        write.put_migrations(self.connection, migrations, self.now)

    def change_migrations(self, migrations: Sequence[Migration]) -> None:
        """Write migrations that are there; `updated_at` becomes now."""
        locked.change_migrations(self.connection, migrations, self.now)

    def free_devices(self, uuid: str, host: str, node: str, addresses: Collection[str]) -> None:
        """Free devices of a node that an instance holds, and drop those that are gone; its next tally counts them."""
        locked.free_devices(self.connection, uuid, host, node, addresses, now=self.now)

    def next_migration_id(self) -> int:
        """Give the id of the next migration; nobody else gets it before this transaction ends."""
        return locked.next_migration_id(self.connection)

    def hold(self, node_uuids: Collection[str]) -> dict[str, ComputeNode]:
        """
        Lock nodes' rows and read them.

        Raises:
            NotFound: no such node.
        """
        return locked.hold(self.connection, node_uuids)

    def lock(self, node_uuids: Collection[str]) -> None:
        """Lock nodes' rows; those that are not there are passed over."""
        write.lock_nodes(self.connection, node_uuids)

    def instance(self, uuid: str) -> Instance | None:
        """Read an instance that is not deleted, with its devices, and lock its row; None if there is none."""
        return locked.instance(self.connection, uuid)

    def whereabouts(self, instance_uuid: str) -> frozenset[str]:
        """Name the nodes, by uuid, that an instance is on or that its migrations in play touch; none is locked."""
        return locked.whereabouts(self.connection, instance_uuid)

    def migrations_of(self, instance_uuid: str) -> tuple[Migration, ...]:
        """Read an instance's migrations in play, by id."""
        return locked.migrations_of(self.connection, instance_uuid)

    def leaving_here(self, host: str, node: str) -> tuple[Instance, ...]:
        """Read the instances that are being resized, or moved, from this node to itself."""
        return locked.leaving_here(self.connection, host, node)

    def entries(self, node_uuid: str) -> tuple[Entry, ...]:
        """Read all that makes a node's figures."""
        return read.entries(self.connection, [node_uuid])[node_uuid]

    def entries_of(self, node_uuids: Collection[str], holder: str) -> dict[str, tuple[Entry, ...]]:
        """Read what one holder has of nodes, by the nodes' uuids."""
        return locked.entries_of(self.connection, node_uuids, holder)

    def devices(self, node_uuid: str) -> tuple[PciRecord, ...]:
        """Read a node's tracked devices, by address."""
        return locked.devices(self.connection, node_uuid)

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
        Write a held node's record and what changed of its entries; its generation grows.

        Args:
            devices: all its devices as they are now; None leaves them.

        Returns:
            The record as it is now.
        """
        saved = locked.write_books(self.connection, before, after, gone=gone, come=come, devices=devices, now=self.now)
        history.note(self.connection, [(history.figures(before), saved)], self.now, self._ages)
        return saved
