"""
What was asked of every command, and what is opened to answer. Invariant: nothing is opened before it is needed.

A command that only reads the ledger opens nothing else, and imports nothing else: the imports of what is opened stand
in the functions that open it, because a database's or a scheduler's libraries take longer than most commands.
"""

import gc
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stocktake.cli.logs import log_to_stderr, wanted_level
from stocktake.clock import Clock, Ids, RandomIds, SystemClock
from stocktake.errors import SettingsError
from stocktake.telemetry import Telemetry

if TYPE_CHECKING:
    from stocktake.claims import AnyClaims, Claims
    from stocktake.client import Fleet
    from stocktake.ledger import DatabaseLedger, Ledger
    from stocktake.placement import Scheduler
    from stocktake.refresh.context import Context
    from stocktake.settings import Settings


class Session:
    """
    One run of the program. What a command asks for is opened once, and closed with the session.

    Attributes:
        flags: settings given by --set, above the file and the environment.
        verbose: how many times --verbose was given.
        command: the command's full name, for its JSON.
        json_lines: the command writes JSON lines, which an error must not be mixed into.
        collector: Python's own thresholds of its garbage collector.
        service: the command runs for long and logs as the settings say; others are quieter unless told.
    """

    def __init__(self, clock: Clock | None = None, ids: Ids | None = None) -> None:
        self.clock = clock or SystemClock()
        self.ids = ids or RandomIds()
        self.config: Path | None = None
        self.state_path: Path | None = None
        self.flags: dict[str, str] = {}
        self.json = False
        self.verbose = 0
        self.quiet = False
        self.log_json = False
        self.no_color = False
        self.command = ""
        self.json_lines = False
        self.service = False
        self.collector = gc.get_threshold()
        self._opened = ExitStack()

    def read_settings(self) -> "Settings":
        """
        Read the settings anew.

        Raises:
            SettingsError: everything that is wrong.
        """
        from stocktake.settings import read_settings

        flags: dict[str, object] = dict(self.flags)
        if self.state_path is not None:
            flags["state_path"] = self.state_path
        return read_settings(self.config, overrides=flags)

    @cached_property
    def settings(self) -> "Settings":
        """The settings, read once; the log follows them."""
        settings = self.read_settings()
        told = self.service or "log.level" in settings.origins
        self.log_as_asked(settings.log.level if told else "warning", as_json=settings.log.json)
        return settings

    def log_as_asked(self, level: str = "warning", *, as_json: bool = False) -> None:
        """Set up the log, which a person at a terminal wants quieter than a service does."""
        log_to_stderr(wanted_level(level, self.verbose, quiet=self.quiet), as_json=as_json or self.log_json)

    @cached_property
    def ledger(self) -> "Ledger":
        """The ledger, in a database or behind a server."""
        if "context" in vars(self):
            return self.context.ledger
        ledger = open_books(self.settings, self.clock, self.ids)
        self._opened.callback(ledger.close)
        return ledger

    @cached_property
    def database(self) -> "DatabaseLedger":
        """
        The ledger's database.

        Raises:
            SettingsError: the ledger is behind a server.
        """
        if self.server is not None:
            remedy = "Run it on a host with access to the database, with neither ledger nor server.url set."
            raise SettingsError(f"the ledger is behind {self.server}; this command needs its database", remedy=remedy)
        database = open_database(self.settings, self.clock, self.ids)
        self._opened.callback(database.close)
        return database

    @cached_property
    def context(self) -> "Context":
        """The context of a pass."""
        context = open_context(self.settings, self.clock, self.ids)
        self._opened.callback(context.close)
        return context

    @cached_property
    def scheduler(self) -> "Scheduler":
        """The scheduler."""
        scheduler = open_placement(self.settings, self.clock)
        self._opened.callback(scheduler.close)
        return scheduler

    @property
    def claims(self) -> "AnyClaims":
        """What claims room on the ledger's nodes, in the database or through the server."""
        return self.own_claims if self.server is None else self.fleet.claims

    @property
    def own_claims(self) -> "Claims":
        """What claims room in the ledger's database."""
        from stocktake.claims.opening import claims_with

        return claims_with(self.settings, self.database, self.scheduler, self.clock, self.ids)

    @property
    def server(self) -> str | None:
        """The URL of the server in front of the ledger, where the settings name one."""
        from stocktake.settings import front_of

        return front_of(self.settings)

    @cached_property
    def fleet(self) -> "Fleet":
        """The server in front of the ledger, where the settings name one."""
        fleet = open_fleet(self.settings, self.clock, self.ids)
        self._opened.callback(fleet.close)
        return fleet

    def close(self) -> None:
        """Close what was opened, the last first; what is asked for again is opened again."""
        self._opened.close()
        for name in ("settings", "ledger", "database", "context", "scheduler", "fleet"):
            vars(self).pop(name, None)


def open_books(settings: "Settings", clock: Clock, ids: Ids, *, make: bool = True) -> "Ledger":
    """
    Open the ledger: behind the server that the settings name, or the database.

    Args:
        make: as `open_database`.

    Raises:
        SettingsError: the certificate file does not exist.
        LedgerUnreachable: the database does not answer.
        LedgerError: it is not a ledger, or of a schema version that this program does not know.
    """
    from stocktake.settings import front_of

    if front_of(settings) is None:
        return open_database(settings, clock, ids, make=make)
    return open_fleet(settings, clock, ids).ledger


def open_fleet(settings: "Settings", clock: Clock, ids: Ids) -> "Fleet":
    """
    Open the client of the server in front of the ledger; nothing is sent before it is used.

    Raises:
        SettingsError: the certificate file does not exist.
    """
    from stocktake.client import Fleet, Transport
    from stocktake.settings import front_of

    url = front_of(settings)
    assert url is not None, "the settings name a server"
    transport = Transport(url, token=settings.server.token, cafile=settings.server.cafile, clock=clock)
    return Fleet(transport, clock, ids, expiry_s=settings.claim_expiry_s)


def open_database(settings: "Settings", clock: Clock, ids: Ids, *, make: bool = True) -> "DatabaseLedger":
    """
    Open the ledger's database.

    Args:
        make: make a SQLite file if there is none.

    Raises:
        LedgerUnreachable: the database does not answer.
        LedgerError: it is not a ledger, or of a schema version that this program does not know.
    """
    from stocktake.ledger import open_ledger
    from stocktake.settings import ages

    return open_ledger(
        settings.database.connection,
        replica_url=settings.database.replica_url,
        clock=clock,
        ids=ids,
        ages=ages(settings),
        make=make,
    )


def open_placement(settings: "Settings", clock: Clock, telemetry: Telemetry | None = None) -> "Scheduler":
    """
    Open the scheduler that `placement.mode` names; nothing is sent before it is used.

    Raises:
        SettingsError: an unknown plugin or option.
    """
    from stocktake.placement.opening import open_scheduler
    from stocktake.settings import placement_of

    return open_scheduler(placement_of(settings), clock, state_path=settings.state_path, telemetry=telemetry)


def open_context(
    settings: "Settings", clock: Clock, ids: Ids, telemetry: Telemetry | None = None, *, make: bool = True
) -> "Context":
    """
    Open all that a pass works with; what was opened is closed again if a later part fails.

    Args:
        make: as `open_database`.

    Raises:
        StocktakeError: what could not be opened, and what to do.
    """
    from stocktake.audit import TimeLimit
    from stocktake.drivers.base import load_driver
    from stocktake.drivers.monitors import load_monitors
    from stocktake.placement.overrides import read_overrides
    from stocktake.refresh.context import Context
    from stocktake.report.notifications import open_bus
    from stocktake.settings import rules

    counts = telemetry or Telemetry()
    with ExitStack() as opened:
        overrides = read_overrides(settings.provider_config_location)
        ledger = open_books(settings, clock, ids, make=make)
        opened.callback(ledger.close)
        driver = load_driver(settings, clock)
        opened.callback(driver.close)
        monitors = load_monitors(settings, clock)
        scheduler = open_placement(settings, clock, counts)
        opened.callback(scheduler.close)
        bus = open_bus(settings.notifications, settings.host, clock, ids)
        context = Context(
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
    return context
