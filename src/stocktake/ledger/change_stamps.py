"""
What tells whether nodes changed. Invariant: one query, small enough to be sent every second for thousands of nodes.
"""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, and_, select

from stocktake.ledger.read import BINARY
from stocktake.ledger.tables import ALIVE, COMPUTE_NODES, SERVICES


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


def change_stamps(connection: Connection, alive_since: datetime) -> tuple[ChangeStamp, ...]:
    """
    Read the change stamps of all nodes that are not deleted.

    Args:
        alive_since: who gave no sign of life from then on is not alive.
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
