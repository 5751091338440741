"""What tells whether nodes changed. Law: small enough to be read of thousands every second."""

from typing import NamedTuple

from sqlalchemy import Connection, select

from stocktake.ledger.tables import ALIVE, COMPUTE_NODES


class Mark(NamedTuple):
    """
    What tells whether a node changed.

    Attributes:
        failure: JSON; it may change without a new generation.
    """

    uuid: str
    host: str
    generation: int
    failure: str | None


def marks(connection: Connection) -> tuple[Mark, ...]:
    """Read the marks of all nodes that are not deleted."""
    nodes_ = COMPUTE_NODES.c
    query = select(nodes_.uuid, nodes_.host, nodes_.generation, nodes_.failure).where(ALIVE)
    return tuple(Mark(*row) for row in connection.execute(query))
