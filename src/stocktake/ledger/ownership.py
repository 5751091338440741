"""
Step 7a: which service has a node, and giving it to another. Invariant: a node changes hands in one transaction, with
all promises on it, and only if it still has the owner that was seen.
"""

from collections.abc import Collection, Mapping
from typing import Any

from sqlalchemy import Connection, Table, bindparam, exists, literal_column, select, update

from stocktake.ledger.calls import Calls, ledger_call, no_rows
from stocktake.ledger.tables import ALIVE, COMPUTE_NODES, GONE, IN_PLAY, INSTANCES, MIGRATIONS, is_in
from stocktake.model.access import ANY_TOKEN, OPERATORS

_ZERO: Any = literal_column("0")


class OwnershipCalls(Calls):
    """The calls about whose nodes are."""

    @ledger_call(roles=ANY_TOKEN, rows=no_rows)
    def owners(self, uuids: Collection[str] | None = None) -> dict[str, str]:
        """
        Read the hosts that have nodes, by the nodes' uuids; of all unless told. Deleted nodes have none.

        Open to every agent, about all hosts: it must learn that what it takes for its identity is another's.
        """
        query = select(COMPUTE_NODES.c.uuid, COMPUTE_NODES.c.host).where(ALIVE)
        if uuids is not None:
            query = query.where(is_in(COMPUTE_NODES.c.uuid, uuids))
        return dict(map(tuple, self.connection.execute(query)))

    @ledger_call(roles=OPERATORS, writes=True)
    def take_nodes(self, expected: Mapping[str, str], host: str) -> frozenset[str]:
        """
        Take nodes from others, with the instances and migrations on them.

        Args:
            expected: the nodes' uuids, and the hosts that were seen to have them.

        Returns:
            Those that were taken; the others have changed hands meanwhile, or are gone.

        Raises:
            LedgerError: the host has another node of the same name.
        """
        rows = _locked(self.connection, expected)
        return self._moved(
            {uuid: row | {"to_host": host} for uuid, row in rows.items() if row["from_host"] == expected[uuid]}
        )

    @ledger_call(roles=OPERATORS, writes=True)
    def give_nodes(self, wanted: Mapping[str, str], host: str) -> frozenset[str]:
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
        rows = _locked(self.connection, wanted)
        query = select(nodes.uuid).where(ALIVE, nodes.host == host, ~held, is_in(nodes.uuid, sorted(rows)))
        free = set(self.connection.scalars(query))
        return self._moved({uuid: rows[uuid] | {"to_host": wanted[uuid]} for uuid in free})

    def _moved(self, rows: Mapping[str, Mapping[str, Any]]) -> frozenset[str]:
        if rows:
            _move(self.connection, [{**row, "now": self.now} for _, row in sorted(rows.items())])
        return frozenset(rows)


def _locked(connection: Connection, uuids: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Lock the nodes' rows, in the order in which everybody does; say what they are called and whose they are."""
    nodes = COMPUTE_NODES.c
    query = select(nodes.uuid, nodes.id, nodes.host, nodes.hypervisor_hostname)
    rows = connection.execute(
        query.where(ALIVE, is_in(nodes.uuid, sorted(uuids))).order_by(nodes.uuid).with_for_update()
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
