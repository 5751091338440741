"""
Step 1: when. Invariant: a pass that fails never takes the next one with it, and events only say "look again, now".

Every `update_resources_interval` seconds, and soon after the driver or the ledger says that something happened, the
agent runs a refresh, one at a time; between passes it says that it lives. What happens in between never moves the
periodic pass. SIGTERM ends it between two steps, SIGHUP reads the settings again.
"""

import logging
import signal
import threading
from collections.abc import Callable
from datetime import datetime
from functools import partial
from types import FrameType

from stocktake import __version__
from stocktake.agent.health import AgentHealth
from stocktake.agent.state_watch import StateWatch
from stocktake.agent.wakeups import WakeupCounts, Wakeups
from stocktake.clock import ENDING, Clock, cpu_s
from stocktake.drivers.base import Remembering, Watching
from stocktake.errors import DriverUnreachable, IdentityError, StocktakeError, Unreachable
from stocktake.refresh.cache import RefreshCache
from stocktake.refresh.context import NOTHING, Context, Override, Pass
from stocktake.refresh.run import refresh
from stocktake.report.readback import ReadBack

LOG = logging.getLogger(__name__)

# Within so many periodic passes every node is read back from the scheduler, whose generations don't show every change.
READ_BACK_PASSES = 30
# Within about so many periodic passes old history of every node is dropped.
THIN_PASSES = 60
BACK_OFF_FIRST_S = 1.0
BACK_OFF_LONGEST_S = 60.0


class Journal:
    """Says what is wrong once, when it begins, and once when it is over."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def note(self, about: str, error: StocktakeError | None) -> None:
        """Log a change of state of a node or a part."""
        now = error.code if error else ""
        before = self._last.get(about, "")
        if now == before:
            return
        self._last[about] = now
        if error is not None:
            LOG.error("%s: %s", about, error, extra={"about": about, "code": error.code})
        else:
            LOG.info("%s: fine again", about, extra={"about": about, "code": before})

    def note_pass(self, result: Pass) -> None:
        """Log what changed with the nodes of a pass."""
        for name in {*result.nodes, *result.failed, *result.unsynced}:
            self.note(name, result.failed.get(name) or result.unsynced.get(name))
        for name, why in result.kept.items():
            if self._last.get(f"{name} kept") != why:
                LOG.warning("%s is no longer reported and is kept: %s", name, why, extra={"about": name})
            self._last[f"{name} kept"] = why


class Agent:
    """
    The loop beside a hypervisor.

    Args:
        open_context: reads the settings and opens the context; called at the start and again on SIGHUP.
        jitter: gives numbers in [0, 1): a fleet must not beat in step.
        health: is told how it goes; None tells nobody.
        busy_s: gives the CPU seconds that this process has taken.
        adopt_identity: this machine takes the host's place in the ledger, in the first pass.
    """

    def __init__(
        self,
        open_context: Callable[[], Context],
        clock: Clock,
        jitter: Callable[[], float],
        health: AgentHealth | None = None,
        busy_s: Callable[[], float] = cpu_s,
        *,
        adopt_identity: bool = False,
    ) -> None:
        self._open = open_context
        self._clock = clock
        self._jitter = jitter
        self._wake = threading.Event()
        self._wakeups = Wakeups(clock, self._wake.set, busy_s)
        self._stopping = False
        self._reloading = False
        self._now = False
        self._failures = 0
        self._thinned = 0
        self._due_s: float | None = None
        self._beat_due_s = 0.0
        self._override = Override(identity=adopt_identity)
        self._run_id: str | None = None
        self._beaten_at: datetime | None = None
        self._journal = Journal()
        self._cache = RefreshCache()
        self._state = StateWatch()
        self._read_back = ReadBack(clock)
        self._checked = (0, 0)
        self._health = health or AgentHealth(clock)

    @property
    def counts(self) -> WakeupCounts:
        """What happened since the start."""
        return self._wakeups.counts

    def wake(self) -> None:
        """Look again soon: somebody saw something change. For any thread, any number of times; it never waits."""
        self._wakeups.wake()

    def stop(self) -> None:
        """End after the step at hand."""
        self._stopping = True
        self._health.stops()
        self._wake.set()

    def reload(self) -> None:
        """Read the settings again before the next pass, which is now."""
        self._reloading = True
        self._now = True
        self._health.reloads()
        self._wake.set()

    def catch_signals(self) -> None:
        """Let SIGTERM and SIGINT stop, and SIGHUP reload; for the main thread."""

        def on_signal(number: int, _frame: FrameType | None) -> None:
            if number == signal.SIGHUP:
                self.reload()
                return
            ENDING.set()
            self.stop()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, on_signal)

    def run(self) -> None:
        """
        Run until stopped.

        Raises:
            IdentityError: this host is not who the ledger says it is.
            SettingsError: the settings at the start can't be used.
        """
        try:
            self._run()
        finally:
            self._health.close()

    def _run(self) -> None:
        context = self._opened_at_last()
        first = True
        self._due_s = self._clock.monotonic_s()
        try:
            while context is not None and self._sleep(context):
                if self._reloading:
                    self._reloading = False
                    context = self._reopened(context)
                    self._cache, self._checked = RefreshCache(), (0, 0)
                    self._cache.run = self._run_id
                    self._health.settled(context.settings)
                    self._due_s = self._clock.monotonic_s()
                began_s = self._clock.monotonic_s()
                periodic = self._due_s is not None and self._due_s <= began_s
                interval_s = context.settings.refresh_interval_s
                events, coalesced = self._wakeups.begin(periodic=periodic)
                context.telemetry.events(events)
                context.telemetry.coalesced(coalesced)
                fine = self._one_pass(context, periodic=periodic)
                self._count_lies(context)
                self._wakeups.end(settling=isinstance(context.driver, Watching) and context.driver.settling())
                self._due_s = self._next_due(began_s, interval_s, fine=fine, periodic=periodic, first=first)
                first = False
        except IdentityError as error:
            self._health.refused(error)
            raise
        finally:
            if context is not None:
                context.close()

    def _one_pass(self, context: Context, *, periodic: bool) -> bool:
        """Run one refresh; say whether all went well."""
        result = Pass()
        stop = partial(self._between_steps, context, result)
        self._health.begins()
        try:
            self._state.check(context.settings.state_path)
            refresh(context, override=self._override, stop=stop, into=result, cache=self._cache)
            # The first pass has made what is to stay.
            self._state.check(context.settings.state_path)
        except IdentityError:
            raise
        except StocktakeError as error:
            self._health.passed(result, error)
            self._journal.note("pass", error)
            # A driver chosen by what answered is chosen again: its hypervisor may be the one that is back.
            auto = context.settings.compute_driver == "auto"
            self._reloading = self._reloading or (auto and isinstance(error, DriverUnreachable))
            return False
        self._override = NOTHING
        self._health.passed(result, None)
        self._journal.note("pass", None)
        self._journal.note_pass(result)
        self._read_back.know(node.uuid for node in result.nodes.values())
        if periodic:
            self._thin_history(context, result)
        steps = {step: round(took_s, 4) for step, took_s in result.seconds.items()}
        LOG.debug("passed", extra={"periodic": periodic, **steps})
        return result.fine

    def _count_lies(self, context: Context) -> None:
        """Count what a driver that keeps what it read found out about it."""
        if isinstance(context.driver, Remembering):
            checks, lies = context.driver.cache_checks, context.driver.cache_lies
            before, self._checked = self._checked, (checks, lies)
            context.telemetry.cache_checked(checks - before[0], lies=lies - before[1])

    def _between_steps(self, context: Context, result: Pass) -> bool:
        """Say that the pass goes on; say whether it is to stop."""
        self._health.alive()
        # A long pass is no silence; once it has counted it has seen that we are who we say.
        if "tally" in result.seconds:
            self._beat(context)
        return self._stopping

    def _next_due(
        self, began_s: float, interval_s: float | None, *, fine: bool, periodic: bool, first: bool
    ) -> float | None:
        """When to run next if nothing happens: None if the periodic pass is off and nothing has to be tried again."""
        self._failures = 0 if fine else self._failures + 1
        due_s = self._due_s
        if self._failures:
            back_off_s = min(interval_s or BACK_OFF_LONGEST_S, BACK_OFF_FIRST_S * 2.0 ** min(self._failures - 1, 10))
            again_s = self._clock.monotonic_s() + back_off_s * (0.5 + self._jitter() / 2)
            return again_s if periodic or due_s is None else min(due_s, again_s)
        if not periodic:
            return due_s
        if interval_s is None:
            return None
        # From when it was due, not from when it began, so that a pass in its way does not move all those to come.
        from_s = began_s if due_s is None or due_s + interval_s <= began_s else due_s
        return from_s + (interval_s * self._jitter() if first else interval_s)

    def _sleep(self, context: Context) -> bool:
        """Wait until a pass is due, or asked for, saying meanwhile that we live; False once stopped."""
        while not self._stopping:
            self._health.alive()
            self._beat(context)
            self._read_some_back(context)
            # In this order: whoever wakes us has said before what for.
            self._wake.clear()
            if self._stopping:
                return False
            if self._now:
                self._now = False
                return True
            now_s = self._clock.monotonic_s()
            answer_s = self._wakeups.due_s(context.settings.event_settle_s)
            due_s = min((due_s for due_s in (self._due_s, answer_s) if due_s is not None), default=None)
            if due_s is not None and due_s <= now_s:
                return True
            beat_s = min(context.settings.report_interval, self._health.sign_s)
            self._clock.wait(self._wake, beat_s if due_s is None else min(beat_s, due_s - now_s))
        return False

    def _thin_history(self, context: Context, result: Pass) -> None:
        """Drop old history of some of the nodes, the next ones each time: of all within an hour or so."""
        uuids = sorted(node.uuid for node in result.nodes.values())
        some = uuids[self._thinned % len(uuids) :][: -(-len(uuids) // THIN_PASSES)] if uuids else []
        self._thinned += len(some)
        try:
            context.ledger.thin_history(some)
        except StocktakeError as error:
            self._journal.note("history", error)
        else:
            self._journal.note("history", None)

    def _read_some_back(self, context: Context) -> None:
        """Read back the nodes whose turn it is, unless somebody wakes us; what is not as it was gets a pass."""
        interval_s = context.settings.refresh_interval_s
        if interval_s is None:
            return
        try:
            same = self._read_back.run(context.scheduler, interval_s * READ_BACK_PASSES, self._wake.is_set)
        except StocktakeError as error:
            self._journal.note("read back", error)
            return
        self._journal.note("read back", None)
        if not same:
            self.wake()

    def _beat(self, context: Context) -> None:
        """
        Say that we live, once per `report_interval`; not before a pass has seen that we are who we say.

        Raises:
            IdentityError: another run of this host's agent says so too.
        """
        if self.counts.passes == 0 or self._clock.monotonic_s() < self._beat_due_s:
            return
        self._beat_due_s = self._clock.monotonic_s() + context.settings.report_interval
        host, self._run_id = context.rules.host, self._run_id or context.ids.uuid()
        down_time_s = context.settings.service_down_time
        try:
            beat = context.ledger.heartbeat(
                host, version=__version__, run=self._run_id, since=self._beaten_at, down_time_s=down_time_s
            )
        except StocktakeError as error:
            self._health.failed(error)
            self._journal.note("heartbeat", error)
            return
        self._health.answered("ledger")
        self._journal.note("heartbeat", None)
        self._cache.run = self._run_id
        self._beaten_at = beat.service.last_seen_up
        if beat.other is not None:
            what = f"another agent lives as host {host!r}: its run is {beat.other}, this one's {self._run_id}"
            remedy = "Stop one of the two, or give this machine a name of its own (`host`); then start the other again."
            raise IdentityError(what, where=host, remedy=remedy)

    def _opened_at_last(self) -> Context | None:
        """Open the context, trying again for as long as a part of it can't be reached; None once stopped."""
        tries = 0
        while not self._stopping:
            try:
                context = self._watched(self._open())
            except Unreachable as error:
                self._health.waits(error)
                self._journal.note("start", error)
                tries += 1
                self._clock.wait(self._wake, min(BACK_OFF_LONGEST_S, BACK_OFF_FIRST_S * 2.0 ** min(tries - 1, 10)))
                self._wake.clear()
            else:
                self._health.settled(context.settings)
                return context
        return None

    def _watched(self, context: Context) -> Context:
        """Have the driver and the ledger wake the agent when something happens."""
        if isinstance(context.driver, Watching):
            context.driver.watch(self.wake)
        context.ledger.watch(context.rules.host, self.wake)
        return context

    def _reopened(self, context: Context) -> Context:
        """Take the new settings, or keep the old ones if they can't be used."""
        try:
            opened = self._watched(self._open())
        except StocktakeError as error:
            LOG.error("the settings stay as they were: %s", error)  # noqa: TRY400 - the message says it all
            return context
        context.close()
        LOG.info("the settings were read again")
        return opened
