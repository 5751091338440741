"""
Step 7a, the calls of the ledger that only read. Invariant: each sees one state of the ledger, whoever writes meanwhile.
"""

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta

from stocktake.clock import Clock
from stocktake.errors import InvalidInput
from stocktake.ledger import history, read
from stocktake.ledger import snapshot as standing_
from stocktake.ledger.change_stamps import ChangeStamp, change_stamps
from stocktake.ledger.engine import Database
from stocktake.ledger.mapping import collector_off
from stocktake.ledger.nouns import Snapshot, strangers_to
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.history import Moment
from stocktake.model.pci import PciRecord
from stocktake.model.value import UUID
from stocktake.model.workload import Instance, Migration, NodeWork, Service

# A century: nothing is older.
_LONGEST_S = 100 * 366 * 86_400.0


class ReadingLedger:
    """What the ledger says; the calls raise as `DatabaseLedger`'s do."""

    def __init__(self, database: Database, replica: Database | None, clock: Clock) -> None:
        self._database = database
        self._replica = replica
        self._clock = clock

    @property
    def name(self) -> str:
        """The URL without its password."""
        return self._database.name

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

    def change_stamps(self, *, alive_since: datetime) -> tuple[ChangeStamp, ...]:
        """Read of all nodes what tells whether they changed: cheap enough to be asked every second."""
        with self._database.reading() as connection, collector_off():
            return change_stamps(connection, alive_since)

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
        return name_or_uuid if UUID.fullmatch(name_or_uuid) else self.node(name_or_uuid).uuid

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

    def unmanaged(self, node_uuids: Collection[str], *, reserves: bool = False) -> dict[str, tuple[Entry, ...]]:
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

    def snapshot(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> Snapshot:
        """Read all that a pass over a host needs, but for its other nodes; see `work`."""
        with self._database.reading() as connection, collector_off():
            return standing_.standing(connection, host, nodes, guests, others=False)

    def standing_digested(
        self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]
    ) -> tuple[Snapshot, str]:
        """Read the same, the other nodes too, and the digest of it."""
        with self._database.reading() as connection, collector_off():
            found = standing_.standing(connection, host, nodes, guests, others=True)
            return found, standing_.standing_digest(connection, host, strangers_to(found, guests))

    def standing_digest(self, host: str, strangers: Collection[str]) -> str:
        """
        Give the digest of what is there now; far cheaper than reading it.

        Args:
            strangers: guests that were not on the host when it was read; whoever is there now is looked at anyway.
        """
        with self._database.asking() as connection:
            return standing_.standing_digest(connection, host, strangers)

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

    def instances_page(
        self, *, after: int, limit: int, host: str | None = None, node: str | None = None, deleted: bool = False
    ) -> tuple[tuple[Instance, ...], int | None]:
        """
        Read at most so many instances made after a row, by its id, and the last one's id if there are more.

        Raises:
            InvalidInput: a limit below 1.
        """
        if limit < 1:
            raise InvalidInput(f"must be at least 1, not {limit}", where="limit")
        with self._database.reading() as connection, collector_off():
            return read.instances(connection, host=host, node=node, deleted=deleted, after=after, limit=limit)

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

    def known_consumers(self, uuids: Collection[str]) -> frozenset[str]:
        """Say which of these uuids, of consumers in the scheduler, are instances or migrations, deleted ones too."""
        if not uuids:
            return frozenset()
        with self._database.reading() as connection:
            return read.known_consumers(connection, uuids)

    def history(self, node_uuid: str, *, since_s: float) -> tuple[Moment, ...]:
        """Read what a node had and promised in the last `since_s` seconds, and the row that held when they began."""
        back = timedelta(seconds=min(max(since_s, 0.0), _LONGEST_S))
        with self._database.reading() as connection:
            return history.read(connection, node_uuid, self._clock.now() - back)
