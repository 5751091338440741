"""What the front works with. Invariant: no driver; whatever a request needs is in the ledger or comes with it."""

from dataclasses import dataclass

from stocktake.claims import Claims
from stocktake.clock import Clock, Ids
from stocktake.ledger import DatabaseLedger
from stocktake.placement import Scheduler
from stocktake.placement.embedded import Embedded
from stocktake.settings import Settings


@dataclass(frozen=True, slots=True)
class Web:
    """
    What the front works with; `stocktake serve` puts it together.

    Attributes:
        placement: the embedded Placement; None where there is none.
        loopback: only this machine can reach it; decides whether reading needs a token while there is none.
    """

    settings: Settings
    ledger: DatabaseLedger
    scheduler: Scheduler
    claims: Claims
    clock: Clock
    ids: Ids
    placement: Embedded | None = None
    loopback: bool = True
