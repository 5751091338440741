"""
What a pass works with and what it gives. Invariant: everything that touches the world comes in here, and nowhere else.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from stocktake.audit import TimeLimit
from stocktake.clock import Clock, Ids
from stocktake.drivers.base import Driver
from stocktake.drivers.monitors import Monitor
from stocktake.errors import StocktakeError
from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.problem import Problem
from stocktake.model.rules import Rules
from stocktake.placement import Overrides, Scheduler
from stocktake.report.notifications import Bus
from stocktake.settings import Settings
from stocktake.settings.state_files import ComputeIdFile
from stocktake.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Context:
    """What a pass works with; the agent and the commands put it together. Without a `bus` nothing is published."""

    settings: Settings
    rules: Rules
    overrides: Overrides
    driver: Driver
    monitors: Sequence[Monitor]
    ledger: Ledger
    scheduler: Scheduler
    clock: Clock
    ids: Ids
    limit: TimeLimit
    telemetry: Telemetry = field(default_factory=Telemetry)
    bus: Bus | None = None

    @property
    def compute_id_file(self) -> ComputeIdFile:
        """Where this host's id is kept."""
        return ComputeIdFile(self.settings.state_path)

    def close(self) -> None:
        """Close what it holds open, whatever goes wrong with one of them."""
        with ExitStack() as opened:
            opened.callback(self.ledger.close)
            opened.callback(self.driver.close)
            opened.callback(self.scheduler.close)
            if self.bus is not None:
                opened.callback(self.bus.close)


@dataclass(frozen=True, slots=True)
class Override:
    """
    What an operator overrides by name, for one pass.

    Attributes:
        provider: a node's resource provider, by its uuid, that is written though it is not ours.
        identity: this machine takes the host's name in the ledger, whoever had it.
    """

    provider: str | None = None
    identity: bool = False


NOTHING = Override()


@dataclass(slots=True)
class Pass:
    """
    What one pass did.

    Attributes:
        known: this host's records as they were at the start.
        compute_id: this host's id as it was at the start; None if it had none.
        nodes: the records as they are now, by name.
        entries: what makes their figures, by name.
        guests: how many guests run on them, by name; without those whose driver can't list guests.
        failed: why a node could not be refreshed; its record stays, marked.
        unsynced: why the scheduler does not have a saved record.
        deleted, kept: nodes that are gone, and those that should be and why they are not.
        left: deleted nodes whose providers were left where they are, and why: they are not ours.
        moved: nodes taken over, and the host that had them.
        handed_over: nodes given to other services, by uuid, and the host that has them now.
        adopted: uuids of guests that became instances.
        expired: uuids of the instances whose claims expired and were released.
        writes: how many writes Placement took.
        saves, conflicts: how many records were saved, and how many others had changed meanwhile.
        seconds: how long each step took.
    """

    known: tuple[ComputeNode, ...] = ()
    compute_id: str | None = None
    nodes: dict[str, ComputeNode] = field(default_factory=dict)
    entries: dict[str, tuple[Entry, ...]] = field(default_factory=dict)
    guests: dict[str, int] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    failed: dict[str, StocktakeError] = field(default_factory=dict)
    unsynced: dict[str, StocktakeError] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    handed_over: dict[str, str] = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)
    expired: list[str] = field(default_factory=list)
    writes: int = 0
    saves: int = 0
    conflicts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Say whether everything was refreshed and reported."""
        return not (self.failed or self.unsynced)


def failure_of(error: StocktakeError) -> Problem:
    """Make what a node carries while it can't be refreshed."""
    return Problem(code=error.code, about=error.where, text=error.what, remedy=error.remedy, severity="error")
