"""What is counted: nothing is lost between threads, and durations fall into the right buckets."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from stocktake.telemetry import (
    BUCKETS_S,
    CACHE_CHECKS,
    CACHE_LIES,
    COALESCED,
    CONFLICTS,
    ERRORS,
    EVENTS,
    PASSES,
    REQUESTS,
    SAVES,
    Durations,
    Telemetry,
)


def test_given_nothing_happened_when_copied_then_every_known_count_is_there_as_zero() -> None:
    totals = Telemetry().counts().totals
    assert set(totals.values()) == {0}
    assert {(EVENTS, ""), (PASSES, "failed"), (REQUESTS, "unreachable")} <= totals.keys()


def test_given_things_that_happened_when_copied_then_each_is_under_its_name_and_the_copy_stays_as_it_is() -> None:
    telemetry = Telemetry()
    telemetry.events(3)
    telemetry.coalesced(2)
    telemetry.cache_checked(lies=1)
    telemetry.cache_checked()
    telemetry.error("LedgerError")
    telemetry.placement("conflict")
    telemetry.saved(4, conflicts=1)
    telemetry.passed("partial", 0.3, {"audit": 0.2, "save": 0.1})
    copied = telemetry.counts()
    telemetry.events()
    telemetry.passed("fine", 1.0, {"audit": 1.0})
    assert {key: number for key, number in copied.totals.items() if number} == {
        (EVENTS, ""): 3,
        (COALESCED, ""): 2,
        (CACHE_CHECKS, ""): 2,
        (CACHE_LIES, ""): 1,
        (ERRORS, "LedgerError"): 1,
        (REQUESTS, "conflict"): 1,
        (SAVES, ""): 4,
        (CONFLICTS, ""): 1,
        (PASSES, "partial"): 1,
    }
    assert (sum(copied.passes.counts), copied.passes.sum_s) == (1, 0.3)
    assert {step: sum(one.counts) for step, one in copied.steps.items()} == {"audit": 1, "save": 1}


def test_given_many_threads_when_they_count_at_once_then_nothing_is_lost() -> None:
    telemetry = Telemetry()

    def count() -> None:
        for _ in range(2000):
            telemetry.events()
            telemetry.counts()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert telemetry.counts().totals[EVENTS, ""] == 16000


@given(st.lists(st.floats(0, 1000), max_size=20))
def test_given_any_durations_when_counted_then_each_is_in_the_first_bucket_that_holds_it(seconds: list[float]) -> None:
    durations = Durations()
    for one in seconds:
        durations.add(one)
    limits = (*BUCKETS_S, float("inf"))
    for number, limit in enumerate(limits):
        assert sum(durations.counts[: number + 1]) == sum(one <= limit for one in seconds)
    assert durations.sum_s == sum(seconds)
