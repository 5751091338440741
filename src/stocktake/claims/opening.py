"""
Claims for programs: the settings file read, ledger and scheduler opened. Invariant: closed again at the end of the
block.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stocktake.claims.claims import Claims
from stocktake.claims.nouns import ClaimRules
from stocktake.clock import Clock, Ids, RandomIds, SystemClock
from stocktake.errors import SettingsError
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.placement import Scheduler
from stocktake.placement.opening import open_scheduler
from stocktake.settings import Settings, ages, front_of, read_settings


@contextmanager
def claims_of(settings_file: Path | str | None = None) -> Iterator[Claims]:
    """
    Open the claims on the nodes of a ledger.

    Args:
        settings_file: None reads the usual one; `STOCKTAKE_*` variables count in any case.

    Raises:
        SettingsError: everything that is wrong with the settings; or the ledger is behind a server.
        LedgerUnreachable, LedgerError: the ledger can't be opened.
    """
    clock, ids = SystemClock(), RandomIds()
    settings = read_settings(Path(settings_file) if settings_file is not None else None)
    front = front_of(settings)
    if front is not None:
        remedy = "Use stocktake.client.connected, or unset ledger and server.url."
        raise SettingsError(f"the ledger is behind {front}", remedy=remedy)
    with ExitStack() as opened:
        database = settings.database
        ledger = open_ledger(
            database.connection, replica_url=database.replica_url, clock=clock, ids=ids, ages=ages(settings)
        )
        opened.callback(ledger.close)
        scheduler = open_scheduler(settings.placement, clock, state_path=settings.state_path)
        opened.callback(scheduler.close)
        yield claims_with(settings, ledger, scheduler, clock, ids)


def claims_with(settings: Settings, ledger: DatabaseLedger, scheduler: Scheduler, clock: Clock, ids: Ids) -> Claims:
    """Make the claims of open parts; without allocations of our own the scheduler is not used."""
    rules = ClaimRules(
        own=settings.allocations == "own",
        expiry_s=settings.claim_expiry_s,
        down_s=settings.service_down_time,
        aliases=settings.pci.alias,
        report_pci=settings.pci.report_in_placement,
        pack=settings.packing_host_numa_cells_allocation_strategy,
    )
    return Claims(ledger, scheduler, rules, clock, ids)
