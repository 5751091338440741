"""
What was asked of every command, and what is opened to answer. Invariant: nothing is opened before it is needed.

A command that only reads the ledger opens nothing else, and imports nothing else: the imports of what is opened stand
in the functions that open it, because a database's or a scheduler's libraries take longer than most commands.
"""

import gc
from contextlib import ExitStack
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
    One run of the program.

    Attributes:
        flags: settings given by --set, above the file and the environment.
        verbose: how many times --verbose was given.
        command: the command's full name, for its JSON.
        json_lines: it writes JSON lines, which an error must not be mixed into.
        collector: how often Python looks for garbage unless told otherwise.
        service: it runs for long and logs as the settings say; a command at a terminal is quieter unless told.
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
        self._settings: Settings | None = None
        self._ledger: Ledger | None = None
        self._database: DatabaseLedger | None = None
        self._context: Context | None = None
        self._fleet: Fleet | None = None
        self._scheduler: Scheduler | None = None
        self._claims: AnyClaims | None = None

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

    @property
    def settings(self) -> "Settings":
        """The settings, read once; the log follows them."""
        if self._settings is None:
            self._settings = self.read_settings()
            told = self.service or "log.level" in self._settings.origins
            self.log_as_asked(self._settings.log.level if told else "warning", as_json=self._settings.log.json)
        return self._settings

    def log_as_asked(self, level: str = "warning", *, as_json: bool = False) -> None:
        """Set up the log, which a person at a terminal wants quieter than a service does."""
        log_to_stderr(wanted_level(level, self.verbose, quiet=self.quiet), as_json=as_json or self.log_json)

    @property
    def ledger(self) -> "Ledger":
        """The ledger, in a database or behind a server, opened once; closed with the session."""
        if self._context is not None:
            return self._context.ledger
        if self._ledger is None:
            self._ledger = open_books(self.settings, self.clock, self.ids)
            self._opened.callback(self._ledger.close)
        return self._ledger

    @property
    def database(self) -> "DatabaseLedger":
        """
        The ledger's database, opened once; closed with the session.

        Raises:
            SettingsError: the ledger is behind a server.
        """
        if self._database is None:
            from stocktake.settings import front_of

            front = front_of(self.settings)
            if front is not None:
                remedy = "Run it where the database is, with neither ledger nor server.url set."
                raise SettingsError(f"the ledger is behind {front}; this takes its database", remedy=remedy)
            self._database = open_database(self.settings, self.clock, self.ids)
            self._opened.callback(self._database.close)
        return self._database

    @property
    def context(self) -> "Context":
        """The context of a pass, opened once; closed with the session."""
        if self._context is None:
            context = open_context(self.settings, self.clock, self.ids)
            self._opened.callback(close_context, context)
            self._context = context
        return self._context

    @property
    def scheduler(self) -> "Scheduler":
        """The scheduler, opened once; closed with the session."""
        if self._scheduler is None:
            self._scheduler = open_placement(self.settings, self.clock)
            self._opened.callback(self._scheduler.close)
        return self._scheduler

    @property
    def claims(self) -> "AnyClaims":
        """What promises on the ledger's nodes, opened once; closed with the session."""
        if self._claims is None:
            from stocktake.settings import front_of

            self._claims = self.own_claims if front_of(self.settings) is None else self.fleet.claims
        return self._claims

    @property
    def own_claims(self) -> "Claims":
        """What promises in the ledger's database."""
        from stocktake.claims.opening import claims_with

        return claims_with(self.settings, self.database, self.scheduler, self.clock, self.ids)

    @property
    def fleet(self) -> "Fleet":
        """The server that stands before the ledger, where the settings name one; opened once."""
        if self._fleet is None:
            self._fleet = open_fleet(self.settings, self.clock, self.ids)
            self._opened.callback(self._fleet.close)
        return self._fleet

    def close(self) -> None:
        """Close what was opened, the last first."""
        self._opened.close()
        self._settings = self._ledger = self._database = self._context = None
        self._scheduler = self._claims = self._fleet = None


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


def open_context(settings: "Settings", clock: Clock, ids: Ids, telemetry: Telemetry | None = None) -> "Context":
    """
    Open all that a pass works with; what was opened is closed again if a later part fails.

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
        ledger = open_books(settings, clock, ids)
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


def close_context(context: "Context") -> None:
    """Close what the context holds open, the last opened first."""
    with ExitStack() as opened:
        opened.callback(context.ledger.close)
        opened.callback(context.driver.close)
        opened.callback(context.scheduler.close)
        if context.bus is not None:
            opened.callback(context.bus.close)
