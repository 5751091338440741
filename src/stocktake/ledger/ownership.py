"""
Step 7a: which service has a node, and giving it to another. Invariant: a node changes hands in one transaction, with
all that is promised on it, and only if it still has the owner that was seen.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Table, bindparam, exists, literal_column, select, update

from stocktake.clock import Clock
from stocktake.errors import NotFound
from stocktake.ledger.engine import Database
from stocktake.ledger.read import BINARY
from stocktake.ledger.sql_in import among
from stocktake.ledger.tables import ALIVE, COMPUTE_NODES, GONE, IN_PLAY, INSTANCES, MIGRATIONS, SERVICES
from stocktake.model.value import encode

_ZERO: Any = literal_column("0")


class Owners:
    """The ledger, as far as it says whose a node is; every call is one transaction and raises as the ledger's do."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def read(self, uuids: Collection[str] | None = None) -> dict[str, str]:
        """Read the hosts that have nodes, by the nodes' uuids; of all unless told. Deleted nodes have none."""
        query = select(COMPUTE_NODES.c.uuid, COMPUTE_NODES.c.host).where(ALIVE)
        if uuids is not None:
            query = query.where(among(COMPUTE_NODES.c.uuid, uuids))
        with self._database.reading() as connection:
            return dict(map(tuple, connection.execute(query)))

    def join(self, host: str, pool: Mapping[str, str] | None) -> None:
        """
        Say which nodes a service divides with others of the same pool; None: none.

        Raises:
            NotFound: no such service.
        """
        ours = update(SERVICES).where(SERVICES.c.host == host, SERVICES.c.binary == BINARY)
        values = {"pool": None if pool is None else encode(pool), "updated_at": self._clock.now()}
        with self._database.writing() as connection:
            if connection.execute(ours.values(**values)).rowcount == 0:
                raise NotFound(f"no service on {host!r}", where="ledger")

    def take(self, expected: Mapping[str, str], host: str) -> frozenset[str]:
        """
        Take nodes from others, with the instances and migrations on them.

        Args:
            expected: the nodes' uuids, and the hosts that were seen to have them.

        Returns:
            Those that were taken; the others have changed hands meanwhile, or are gone.

        Raises:
            LedgerError: the host has another node of the same name.
        """
        with self._database.writing() as connection:
            rows = {
                uuid: row for uuid, row in _locked(connection, expected).items() if row["from_host"] == expected[uuid]
            }
            return self._moved(connection, {uuid: row | {"to_host": host} for uuid, row in rows.items()})

    def give(self, wanted: Mapping[str, str], host: str) -> frozenset[str]:
        """
        Give nodes of a host to others; one that has instances stays, because who asks for them asks that host.

        Args:
            wanted: the nodes' uuids, and the hosts that are to have them.

        Returns:
            Those that were given.
        """
        instances, nodes = INSTANCES.c, COMPUTE_NODES.c
        held = exists().where(
            instances.host == nodes.host, instances.node == nodes.hypervisor_hostname, instances.deleted == _ZERO
        )
        with self._database.writing() as connection:
            rows = _locked(connection, wanted)
            query = select(nodes.uuid).where(ALIVE, nodes.host == host, ~held, among(nodes.uuid, sorted(rows)))
            free = set(connection.scalars(query))
            return self._moved(connection, {uuid: rows[uuid] | {"to_host": wanted[uuid]} for uuid in free})

    def _moved(self, connection: Connection, rows: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
        if rows:
            moves = [{**row, "now": self._clock.now()} for _, row in sorted(rows.items())]
            _move(connection, moves)
        return frozenset(rows)


def _locked(connection: Connection, uuids: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Lock the nodes' rows, in the order in which everybody does; say what they are called and whose they are."""
    nodes = COMPUTE_NODES.c
    query = select(nodes.uuid, nodes.id, nodes.host, nodes.hypervisor_hostname)
    rows = connection.execute(
        query.where(ALIVE, among(nodes.uuid, sorted(uuids))).order_by(nodes.uuid).with_for_update()
    )
    return {uuid: {"row_id": id_, "from_host": host, "node_name": name} for uuid, id_, host, name in rows}


def _move(connection: Connection, moves: list[dict[str, Any]]) -> None:
    """Write the new host wherever the old one stands together with the node."""
    nodes = COMPUTE_NODES.c
    row = update(COMPUTE_NODES).where(nodes.id == bindparam("row_id"))
    values = {"host": bindparam("to_host"), "generation": nodes.generation + 1, "updated_at": bindparam("now")}
    connection.execute(row.values(values), moves)
    # Deleted instances whose allocations are to be released move too: only who has the node can do it.
    unreleased = INSTANCES.c.allocations_released.is_(False)
    for table, host, node, whose in (
        (INSTANCES, "host", "node", (ALIVE,)),
        (INSTANCES, "host", "node", (GONE, unreleased)),
        (MIGRATIONS, "source_compute", "source_node", (IN_PLAY,)),
        (MIGRATIONS, "dest_compute", "dest_node", (IN_PLAY,)),
    ):
        connection.execute(_renamed(table, host, node).where(*whose), moves)


def _renamed(table: Table, host: str, node: str) -> Any:
    there = update(table).where(table.c[host] == bindparam("from_host"), table.c[node] == bindparam("node_name"))
    return there.values({host: bindparam("to_host"), "updated_at": bindparam("now")})
