"""Step 1: when; by a clock that the test moves, so that an hour takes no time."""

import logging
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from stocktake.agent.health import AgentHealth
from stocktake.agent.loop import Agent
from stocktake.drivers.base import Driver
from stocktake.errors import IdentityError, LedgerUnreachable, SettingsError, StocktakeError
from stocktake.model.hypervisor import Survey
from stocktake.model.value import replace as changed
from stocktake.refresh.context import Context
from stocktake.settings import Supervisor
from tests.context import Fleet, a_guest, context_of
from tests.servers.systemd import Systemd, listening, status_of

START = datetime(2026, 1, 1, tzinfo=UTC)
GUEST = "bbbbbbbb-0000-4000-8000-000000000001"


class SteppedClock:
    """Time passes only by waiting; `at` runs things when it is time for them."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.at: list[tuple[float, Callable[[], object]]] = []

    def now(self) -> datetime:
        return START + timedelta(seconds=self.now_s)

    def monotonic_s(self) -> float:
        return self.now_s

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        if event.is_set():
            return True
        end_s = self.now_s + (timeout_s if timeout_s is not None else 3600.0)
        due = sorted((one for one in self.at if one[0] <= end_s), key=lambda one: one[0])
        if not due:
            self.now_s = end_s
            return False
        self.at.remove(due[0])
        self.now_s = max(self.now_s, due[0][0])
        due[0][1]()
        return event.is_set()


class WatchedDriver:
    """A driver that notes when it is asked for its nodes."""

    name = "watched"

    def __init__(self, driver: Driver, clock: SteppedClock) -> None:
        self._driver = driver
        self._clock = clock
        self.asked_s: list[float] = []
        self.settles = False
        self.during: list[Callable[[], object]] = []
        self._wake: Callable[[], None] = lambda: None

    def node_names(self) -> tuple[str, ...]:
        self.asked_s.append(self._clock.now_s - 1000.0)
        return self._driver.node_names()

    def survey(self, nodes: Collection[str]) -> dict[str, Survey | StocktakeError]:
        if self.during:
            self.during.pop(0)()
        return self._driver.survey(nodes)

    def node_exists(self, node: str) -> bool:
        return self._driver.node_exists(node)

    def uptime_s(self) -> float | None:
        return self._driver.uptime_s()

    def watch(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def settling(self) -> bool:
        return self.settles

    def happens(self) -> None:
        """Tell of something."""
        self._wake()

    def close(self) -> None:
        return


class Stage:
    """An agent, its clock and what it works with."""

    def __init__(self, context: Context, clock: SteppedClock, fleet: Fleet) -> None:
        self.clock = clock
        self.fleet = fleet
        self.driver = WatchedDriver(context.driver, clock)
        self.context = replace(context, driver=self.driver)
        self.opened: list[Callable[[], Context]] = []
        self.agent = Agent(self._open, clock, lambda: 0.5, busy_s=lambda: 0.0)

    def _open(self) -> Context:
        return self.opened.pop(0)() if self.opened else self.context

    def watched(self, systemd: Systemd) -> AgentHealth:
        """Let the agent tell a systemd that waits an hour for signs of life."""
        health = AgentHealth(self.clock, supervisor=Supervisor(systemd.address, 3600.0))
        self.agent = Agent(self._open, self.clock, lambda: 0.5, health, lambda: 0.0)
        return health

    def run(self, seconds: float) -> list[float]:
        """Run for so long; give when the driver was asked."""
        self.clock.at.append((self.clock.now_s + seconds, self.agent.stop))
        self.agent.run()
        return self.driver.asked_s


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    clock = SteppedClock()
    fleet = Fleet(tmp_path / "fleet.json").has("one")
    with context_of(tmp_path, clock=clock) as context:
        yield Stage(context, clock, fleet)


def again(stage: Stage, **changes: object) -> Context:
    """Context whose settings differ; the ledger stays open."""
    return replace(stage.context, settings=changed(stage.context.settings, **changes))


def test_given_the_default_interval_when_it_runs_then_the_first_pass_is_at_once_and_a_fleet_is_out_of_step(
    stage: Stage,
) -> None:
    assert stage.run(200) == [0, 30, 90, 150]


def test_given_an_interval_when_it_runs_then_it_is_kept(stage: Stage) -> None:
    stage.context = again(stage, update_resources_interval=7)
    assert stage.run(20) == [0, 3.5, 10.5, 17.5]


def test_given_a_negative_interval_when_it_runs_then_only_a_wake_up_refreshes(stage: Stage) -> None:
    stage.context = again(stage, update_resources_interval=-1)
    stage.clock.at.append((1500.0, stage.agent.reload))
    assert stage.run(3600) == [0, 500]


def test_given_a_failing_pass_when_it_runs_then_it_is_tried_again_with_growing_pauses_and_logged_once(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage.fleet.listing = {"raise": "DriverUnreachable", "text": "gone"}
    stage.fleet.write()
    asked = stage.run(40)
    pauses = [later - sooner for sooner, later in pairwise(asked)]
    assert pauses == [0.75, 1.5, 3, 6, 12]
    assert sum("gone" in record.getMessage() for record in caplog.records) == 1


def test_given_a_failure_that_ends_when_it_runs_then_that_is_logged_and_the_interval_is_back(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    stage.fleet.has("one", fault={"raise": "DriverError", "text": "it burns"})
    stage.clock.at.append((1001.0, lambda: stage.fleet.has("one")))
    assert stage.run(100) == [0, 0.75, 2.25, 62.25]
    said = [record.getMessage() for record in caplog.records]
    assert sum("it burns" in line for line in said) == 1
    assert sum("one: fine again" in line for line in said) == 1


def test_given_it_runs_when_seconds_pass_then_it_says_that_it_lives(stage: Stage) -> None:
    stage.run(35)
    (service,) = stage.context.ledger.services()
    assert service.version
    assert service.last_seen_up == START + timedelta(seconds=1030)


def test_given_new_settings_when_reloaded_then_they_hold_from_the_next_pass_which_is_now(stage: Stage) -> None:
    before = stage.context
    stage.opened = [lambda: before, lambda: again(stage, update_resources_interval=5)]
    stage.clock.at.append((1035.0, stage.agent.reload))
    assert stage.run(48) == [0, 30, 35, 40, 45]


def test_given_wrong_settings_when_reloaded_then_the_old_ones_stay(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    def wrong() -> Context:
        raise SettingsError("no such thing", where="stocktake.toml line 3")

    before = stage.context
    stage.opened = [lambda: before, wrong]
    stage.clock.at.append((1035.0, stage.agent.reload))
    assert stage.run(100) == [0, 30, 35, 95]
    assert "stocktake.toml line 3: no such thing" in caplog.text


def test_given_a_part_that_is_away_at_the_start_when_it_runs_then_it_waits_for_it(stage: Stage) -> None:
    def away() -> Context:
        raise LedgerUnreachable("no answer", where="the ledger")

    stage.opened = [away, away, away]
    assert stage.run(20)[0] == 7


def test_given_another_hosts_id_when_it_starts_then_it_ends_and_nothing_is_written(stage: Stage) -> None:
    stage.run(1)
    other = Agent(
        lambda: replace(stage.context, rules=changed(stage.context.rules, host="omega")), stage.clock, lambda: 0.5
    )
    with pytest.raises(IdentityError):
        other.run()
    assert [service.host for service in stage.context.ledger.services()] == ["alpha"]


def test_given_a_stop_before_the_first_pass_when_it_runs_then_it_ends(stage: Stage) -> None:
    stage.agent.stop()
    stage.agent.run()
    assert stage.driver.asked_s == []


def test_given_a_guest_that_starts_between_passes_when_the_next_pass_ran_then_the_record_has_it(stage: Stage) -> None:
    stage.clock.at.append((1010.0, lambda: stage.fleet.has("one", guests=[a_guest(GUEST)])))
    stage.run(35)
    assert stage.context.ledger.node("one").vcpus_used == 2


# What happens between passes.


def happens(stage: Stage, *at_s: float) -> None:
    """Let the driver tell of something at these times after the start."""
    stage.clock.at.extend((1000.0 + late_s, stage.driver.happens) for late_s in at_s)


def test_given_an_event_when_it_has_settled_then_a_pass_answers_it_and_the_periodic_passes_stay_where_they_are(
    stage: Stage,
) -> None:
    happens(stage, 10, 89.99)
    assert stage.run(200) == pytest.approx([0, 10.02, 30, 90, 150])
    counts = stage.agent.counts
    assert (counts.passes, counts.event_passes, counts.events, counts.coalesced) == (5, 1, 2, 1)


def test_given_events_in_a_row_then_one_pass_answers_them(stage: Stage) -> None:
    happens(stage, *(10 + number / 1000 for number in range(50)))
    assert stage.run(20) == pytest.approx([0, 10.049 + 0.02])
    assert (stage.agent.counts.events, stage.agent.counts.coalesced) == (50, 49)


def test_given_a_steady_stream_of_events_then_passes_are_few_and_the_periodic_one_is_not_starved(
    stage: Stage,
) -> None:
    happens(stage, *(29 + number / 100 for number in range(200)))
    asked_s = stage.run(40)
    assert 30 in asked_s
    during = [when_s for when_s in asked_s if 29 < when_s < 31.2]
    assert 18 <= len(during) <= 22
    assert stage.agent.counts.events == 200
    assert stage.agent.counts.coalesced == 200 - stage.agent.counts.event_passes


def test_given_an_event_during_a_pass_then_one_more_pass_follows(stage: Stage) -> None:
    def storm() -> None:
        for _ in range(1000):
            stage.driver.happens()

    stage.driver.during = [storm]
    assert stage.run(20) == pytest.approx([0, 0.02])
    assert stage.agent.counts.coalesced == 999


def test_given_no_periodic_pass_when_something_happens_then_there_is_one_for_that(stage: Stage) -> None:
    stage.context = again(stage, update_resources_interval=-1)
    happens(stage, 100)
    assert stage.run(3600) == pytest.approx([0, 100.02])


def test_given_a_longer_time_to_settle_then_it_holds(stage: Stage) -> None:
    stage.context = again(stage, event_settle_s=2.0)
    happens(stage, 10, 11)
    assert stage.run(20) == pytest.approx([0, 13])


def test_given_an_event_whose_pass_fails_then_it_is_tried_again_and_the_interval_goes_on(stage: Stage) -> None:
    def fails() -> None:
        stage.fleet.listing = {"raise": "DriverUnreachable", "text": "gone"}
        stage.fleet.write()
        stage.driver.happens()

    def is_back() -> None:
        stage.fleet.listing = None
        stage.fleet.write()

    stage.clock.at += [(1010.0, fails), (1010.5, is_back)]
    assert stage.run(100) == pytest.approx([0, 10.02, 10.77, 70.77])


def test_given_events_all_the_time_then_it_says_that_it_lives(stage: Stage) -> None:
    happens(stage, *(number / 10 for number in range(1, 300)))
    stage.run(30)
    (service,) = stage.context.ledger.services()
    assert service.last_seen_up is not None
    assert service.last_seen_up >= START + timedelta(seconds=1020)


def test_given_a_driver_that_sees_guests_start_then_what_happens_meanwhile_is_answered_together(stage: Stage) -> None:
    stage.driver.settles = True
    happens(stage, 10, 10.3, 10.6, 10.9)
    assert stage.run(20) == pytest.approx([0, 10.02, 11.02])


def test_given_new_settings_when_reloaded_then_the_new_driver_is_watched(stage: Stage) -> None:
    before = stage.context
    other = WatchedDriver(before.driver, stage.clock)
    stage.opened = [lambda: before, lambda: replace(before, driver=other)]
    stage.clock.at += [(1005.0, stage.agent.reload), (1010.0, other.happens)]
    stage.run(20)
    assert other.asked_s == pytest.approx([5, 10.02])


def lines_of(systemd: Systemd) -> list[str]:
    """Everything that was told, without the sentences."""
    return [line for message in systemd.drain() for line in message if not line.startswith("STATUS=")]


def test_given_an_idle_agent_when_hours_pass_then_it_gives_signs_of_life_in_time_whatever_its_intervals(
    stage: Stage, tmp_path: Path
) -> None:
    stage.context = again(stage, update_resources_interval=-1, report_interval=100_000, service_down_time=200_000)
    with listening(tmp_path) as systemd:
        stage.watched(systemd)
        stage.run(3600)
        told = lines_of(systemd)
    # Ready after the pass; then one after every quarter of the hour that systemd waits.
    assert told == ["EXTEND_TIMEOUT_USEC=180000000", "READY=1", *["WATCHDOG=1"] * 3, "STOPPING=1"]


def test_given_a_reload_when_it_is_done_then_it_was_told_from_its_signal_to_its_settings(
    stage: Stage, tmp_path: Path
) -> None:
    with listening(tmp_path) as systemd:
        health = stage.watched(systemd)
        before = stage.context
        stage.opened = [lambda: before, lambda: again(stage, update_resources_interval=5)]
        stage.clock.at.append((1005.0, stage.agent.reload))
        stage.run(8)
        told = [line.partition("=")[0] for line in lines_of(systemd)]
    assert health.life.interval_s == 5
    assert [name for name in told if name != "WATCHDOG"] == [
        "EXTEND_TIMEOUT_USEC",
        "READY",
        "RELOADING",
        "MONOTONIC_USEC",
        "READY",
        "STOPPING",
    ]


def test_given_a_pass_that_fails_when_it_is_over_then_the_watch_knows_what_broke_it_and_how_far_it_came(
    stage: Stage, tmp_path: Path
) -> None:
    with listening(tmp_path) as systemd:
        health = stage.watched(systemd)
        stage.clock.at.append((1005.0, lambda: setattr(stage.fleet, "listing", {"raise": "DriverUnreachable"})))
        stage.clock.at.append((1005.5, stage.fleet.write))
        stage.run(40)
    assert health.life.parts["driver"]
    assert health.life.nodes["one"].stale


def test_given_another_hosts_id_when_it_starts_then_systemd_is_told_why_and_never_that_it_is_ready(
    stage: Stage, tmp_path: Path
) -> None:
    stage.run(1)
    with listening(tmp_path) as systemd:
        health = AgentHealth(stage.clock, supervisor=Supervisor(systemd.address))
        other = replace(stage.context, rules=changed(stage.context.rules, host="omega"))
        with pytest.raises(IdentityError):
            Agent(lambda: other, stage.clock, lambda: 0.5, health, lambda: 0.0).run()
        told = systemd.drain()
    assert "belongs to host" in status_of(told[-1])
    assert not any("READY=1" in message for message in told)
