"""Buckets: so many at once, so many a second, each caller for himself."""

from hypothesis import given
from hypothesis import strategies as st

from stocktake.clock import SystemClock
from stocktake.web.auth import BURST_S, Rates


class Still(SystemClock):
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic_s(self) -> float:
        """Give the seconds that the test set."""
        return self.now_s


@given(st.floats(0.5, 50), st.lists(st.floats(0, 2), max_size=60))
def test_given_any_requests_when_counted_then_never_more_get_through_than_the_rate_and_the_burst_allow(
    per_s: float, waits: list[float]
) -> None:
    clock = Still()
    rates = Rates(per_s, clock)
    began_s, through = clock.now_s, 0
    for wait_s in waits:
        clock.now_s += wait_s
        through += rates.take("a") == 0
        assert through <= max(per_s * BURST_S, 1) + (clock.now_s - began_s) * per_s + 1e-6


def test_given_an_empty_bucket_when_the_time_it_told_has_passed_then_one_gets_through() -> None:
    clock = Still()
    rates = Rates(2, clock)
    assert [rates.take("a") for _ in range(4)] == [0, 0, 0, 0]
    wait_s = rates.take("a")
    assert wait_s == 0.5
    assert rates.take("b") == 0
    clock.now_s += wait_s
    assert rates.take("a") == 0


def test_given_no_rate_when_counted_then_nobody_waits() -> None:
    rates = Rates(0, Still())
    assert {rates.take("a") for _ in range(1000)} == {0.0}


def test_given_more_callers_than_are_remembered_when_counted_then_memory_stays_bounded() -> None:
    clock = Still()
    rates = Rates(1, clock)
    for number in range(25_000):
        clock.now_s += 0.001
        rates.take(str(number))
    assert len(rates._left) <= 10_000
