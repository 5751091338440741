"""
The parts put together: driver, monitors, ledger, scheduler, as the settings name them. Invariant: all of them, or none.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from stocktake.clock import Clock, Ids
from stocktake.telemetry import Telemetry

if TYPE_CHECKING:
    from stocktake.client import Fleet
    from stocktake.ledger import DatabaseLedger, Ledger
    from stocktake.placement import Scheduler
    from stocktake.refresh.context import Parts
    from stocktake.settings import Settings


def open_books(settings: "Settings", clock: Clock, ids: Ids) -> "Ledger":
    """
    Open the ledger: behind the server that the settings name, or the database.

    Raises:
        SettingsError: a certificate that there isn't.
        LedgerUnreachable: the database does not answer.
        LedgerError: it is not this program's, or of a version that this program does not know.
    """
    from stocktake.settings import front_of

    if front_of(settings) is None:
        return open_database(settings, clock, ids)
    return open_fleet(settings, clock, ids).ledger


def open_fleet(settings: "Settings", clock: Clock, ids: Ids) -> "Fleet":
    """
    Open a conversation with the server that stands before the ledger; nothing is sent before it is used.

    Raises:
        SettingsError: a certificate that there isn't.
    """
    from stocktake.client import Fleet, Transport
    from stocktake.settings import front_of

    url = front_of(settings)
    assert url is not None, "the settings name a server"
    transport = Transport(url, token=settings.server.token, cafile=settings.server.cafile, clock=clock)
    return Fleet(transport, clock, ids, expiry_s=settings.claim_expiry_s)


def open_database(settings: "Settings", clock: Clock, ids: Ids) -> "DatabaseLedger":
    """
    Open the ledger's database.

    Raises:
        LedgerUnreachable: the database does not answer.
        LedgerError: it is not this program's, or of a version that this program does not know.
    """
    from stocktake.ledger import open_ledger
    from stocktake.settings import ages

    return open_ledger(
        settings.database.connection,
        replica_url=settings.database.replica_url,
        clock=clock,
        ids=ids,
        ages=ages(settings),
    )


def open_placement(settings: "Settings", clock: Clock, telemetry: Telemetry | None = None) -> "Scheduler":
    """
    Open the scheduler that `placement.mode` names; nothing is sent before it is used.

    Raises:
        SettingsError: a plugin or an option that there isn't.
    """
    from stocktake.placement import open_scheduler
    from stocktake.settings import placement_of

    return open_scheduler(placement_of(settings), clock, state_path=settings.state_path, telemetry=telemetry)


def open_parts(settings: "Settings", clock: Clock, ids: Ids, telemetry: Telemetry | None = None) -> "Parts":
    """
    Open all that a pass works with; what was opened is closed again if a later part fails.

    Raises:
        StocktakeError: what could not be opened, and what to do.
    """
    from stocktake.audit import TimeLimit
    from stocktake.drivers.base import load_driver
    from stocktake.drivers.monitors import load_monitors
    from stocktake.placement.overrides import read_overrides
    from stocktake.refresh.context import Parts
    from stocktake.report.notifications import open_bus
    from stocktake.settings import rules

    counts = telemetry or Telemetry()
    with ExitStack() as opened:
        overrides = read_overrides(settings.provider_config_location)
        ledger = open_books(settings, clock, ids)
        opened.callback(ledger.close)
        driver = load_driver(settings, clock)
        opened.callback(driver.close)
        monitors = load_monitors(settings, clock)
        scheduler = open_placement(settings, clock, counts)
        opened.callback(scheduler.close)
        bus = open_bus(settings.notifications, settings.host, clock, ids)
        parts = Parts(
            settings=settings,
            rules=rules(settings),
            overrides=overrides,
            driver=driver,
            monitors=monitors,
            ledger=ledger,
            scheduler=scheduler,
            clock=clock,
            ids=ids,
            limit=TimeLimit(settings.driver_timeout_s, driver.name),
            telemetry=counts,
            bus=bus,
        )
        opened.pop_all()
    return parts


def close_parts(parts: "Parts") -> None:
    """Close what the parts hold open, the last opened first."""
    with ExitStack() as opened:
        opened.callback(parts.ledger.close)
        opened.callback(parts.driver.close)
        opened.callback(parts.scheduler.close)
        if parts.bus is not None:
            opened.callback(parts.bus.close)
