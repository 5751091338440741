"""When wakes are answered: by a clock that the test moves; and nothing of them is lost, whatever their order."""

import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.agent.wakeups import REST_LONGEST_S, RESTS_MAX, SETTLES_MAX, UNSETTLED_REST_S, Wakeups

SETTLE_S = 0.02


class SetClock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic_s(self) -> float:
        return self.now_s

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        del timeout_s
        return event.is_set()


class Stage:
    """Wakeups, their clock, and how often they signalled."""

    def __init__(self) -> None:
        self.clock = SetClock()
        self.signals = 0
        self.busy_s = 0.0
        self.wakeups = Wakeups(self.clock, self._signal, lambda: self.busy_s)

    def _signal(self) -> None:
        self.signals += 1

    def at(self, now_s: float) -> "Stage":
        self.clock.now_s = now_s
        return self

    def due_s(self) -> float | None:
        return self.wakeups.due_s(SETTLE_S)

    def a_pass(
        self, began_s: float, took_s: float, *, waited_s: float = 0.0, periodic: bool = False, settling: bool = False
    ) -> None:
        self.at(began_s).wakeups.begin(periodic=periodic)
        self.busy_s += took_s - waited_s
        self.at(began_s + took_s).wakeups.end(settling=settling)


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_given_nothing_that_happened_then_nothing_is_due(stage: Stage) -> None:
    assert stage.due_s() is None
    stage.a_pass(100, 1, periodic=True)
    assert stage.due_s() is None


def test_given_one_wake_then_it_is_answered_once_it_has_settled(stage: Stage) -> None:
    stage.at(200).wakeups.wake()
    assert stage.due_s() == pytest.approx(200 + SETTLE_S)


def test_given_wakes_in_a_row_then_they_are_answered_after_the_last_of_them(stage: Stage) -> None:
    for late_s in (0.0, 0.01, 0.02):
        stage.at(200 + late_s).wakeups.wake()
    assert stage.due_s() == pytest.approx(200.02 + SETTLE_S)
    assert stage.signals == 1


def test_given_wakes_that_never_pause_then_they_are_answered_all_the_same(stage: Stage) -> None:
    for number in range(1000):
        stage.at(200 + number / 1000).wakeups.wake()
    assert stage.due_s() == pytest.approx(200 + SETTLE_S * SETTLES_MAX)


def test_given_a_pass_then_the_next_rests_for_as_long_as_it_was_busy_and_not_for_what_it_waited(stage: Stage) -> None:
    stage.a_pass(200, 3.0, waited_s=2.9, periodic=True)
    stage.a_pass(210, 3.0, waited_s=2.9, periodic=True)
    stage.at(213.01).wakeups.wake()
    assert stage.due_s() == pytest.approx(213.1)
    stage = Stage()
    stage.a_pass(200, 0.5, periodic=True)
    stage.at(200.6).wakeups.wake()
    assert stage.due_s() == pytest.approx(201.0)


def test_given_a_wake_during_a_pass_then_it_is_for_the_next_one(stage: Stage) -> None:
    stage.at(200).wakeups.wake()
    stage.at(200.02).wakeups.begin(periodic=False)
    stage.at(200.03).wakeups.wake()
    stage.busy_s += 0.03
    stage.at(200.05).wakeups.end(settling=False)
    assert stage.due_s() == pytest.approx(200.08)
    assert stage.signals == 2


def test_given_a_driver_that_knows_of_more_to_come_then_the_next_pass_waits_for_that(stage: Stage) -> None:
    stage.a_pass(200, 0.1, settling=True)
    stage.at(200.2).wakeups.wake()
    assert stage.due_s() == pytest.approx(200.1 + UNSETTLED_REST_S)


def test_given_a_storm_then_rests_grow_to_a_limit_and_are_short_again_after_it(stage: Stage) -> None:
    began_s, rests_s = 200.0, []
    for _ in range(6):
        stage.at(began_s).wakeups.wake()
        stage.a_pass(began_s, 0.1)
        stage.wakeups.wake()
        due_s = stage.due_s()
        assert due_s is not None
        rests_s.append(round(due_s - began_s - 0.1, 6))
        began_s = due_s
    assert rests_s == [0.1, 0.2, 0.4, 0.8, 0.8, 0.8]
    assert rests_s[-1] == 0.1 * RESTS_MAX
    stage.a_pass(began_s, 0.1)
    stage.at(began_s + 10).wakeups.wake()
    stage.a_pass(began_s + 10.02, 0.1)
    stage.at(began_s + 10.13).wakeups.wake()
    assert stage.due_s() == pytest.approx(began_s + 10.22)


def test_given_long_passes_in_a_storm_then_the_rest_is_never_longer_than_a_pass_or_a_second(stage: Stage) -> None:
    began_s = 200.0
    for took_s, rest_s in ((0.4, 0.4), (0.4, 0.8), (0.4, REST_LONGEST_S), (3.0, 3.0), (3.0, 3.0)):
        stage.at(began_s).wakeups.wake()
        stage.a_pass(began_s, took_s)
        stage.wakeups.wake()
        due_s = stage.due_s()
        assert due_s == pytest.approx(began_s + took_s + rest_s)
        assert due_s is not None
        began_s = due_s


def test_given_a_periodic_pass_then_it_answers_what_is_pending_and_is_counted_as_itself(stage: Stage) -> None:
    for _ in range(3):
        stage.wakeups.wake()
    stage.a_pass(100.01, 0.1, periodic=True)
    assert stage.due_s() is None
    counts = stage.wakeups.counts
    assert (counts.passes, counts.event_passes, counts.events, counts.coalesced) == (1, 0, 3, 3)


@given(st.lists(st.tuples(st.sampled_from(["wake", "pass", "periodic"]), st.floats(0, 0.2)), max_size=60))
def test_any_wake_is_pending_until_a_pass_begins_after_it_and_all_are_counted(steps: list[tuple[str, float]]) -> None:
    stage = Stage()
    pending = 0
    for what, later_s in steps:
        now_s = stage.clock.now_s + later_s
        if what == "wake":
            stage.at(now_s).wakeups.wake()
            pending += 1
        else:
            stage.a_pass(now_s, later_s / 2, periodic=what == "periodic")
            pending = 0
        due_s = stage.due_s()
        assert (due_s is None) == (pending == 0)
        assert due_s is None or due_s <= stage.clock.now_s + max(SETTLE_S * SETTLES_MAX, REST_LONGEST_S)
    counts = stage.wakeups.counts
    assert counts.events == counts.event_passes + counts.coalesced + pending
    assert stage.signals <= counts.passes + 1


def test_given_wakes_from_many_threads_then_none_is_lost(stage: Stage) -> None:
    def many() -> None:
        for _ in range(1000):
            stage.wakeups.wake()

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stage.a_pass(101, 0.1)
    assert (stage.wakeups.counts.events, stage.wakeups.counts.coalesced) == (8000, 7999)
    assert stage.signals == 1
