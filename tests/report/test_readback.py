"""Step 7b, between passes: every node is read back within the span, whoever comes and goes."""

from collections.abc import Callable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from stocktake.placement import NoScheduler
from stocktake.report.readback import ReadBack
from tests.agent.test_loop import SteppedClock

SPAN_S = 1800.0
STAYING = tuple(f"{number:03}" for number in range(0, 200, 7))


class Noting(NoScheduler):
    """Notes when it was asked for what."""

    def __init__(self, clock: SteppedClock) -> None:
        self._clock = clock
        self.asked: list[tuple[float, str]] = []

    def is_as_agreed(self, root_uuid: str) -> bool:
        self.asked.append((self._clock.now_s, root_uuid))
        return root_uuid != STAYING[3]


def runs(steps_s: list[float], others: Callable[[], set[str]]) -> Noting:
    """Look at whose turn it is after each step, with other nodes than those that stay coming and going."""
    clock = SteppedClock()
    scheduler, back = Noting(clock), ReadBack(clock)
    for step_s in steps_s:
        clock.now_s += step_s
        back.know({*STAYING, *others()})
        before = len(scheduler.asked)
        same = back.run(scheduler, SPAN_S, lambda: False)
        assert same == all(uuid != STAYING[3] for _, uuid in scheduler.asked[before:])
    return scheduler


@given(data=st.data(), steps_s=st.lists(st.floats(0.1, 60), min_size=200, max_size=300))
def test_given_nodes_that_come_and_go_when_time_passes_then_each_that_stays_is_read_back_within_the_span(
    data: st.DataObject, steps_s: list[float]
) -> None:
    extra = data.draw(st.sets(st.sampled_from([f"{number:03}" for number in range(200)]), max_size=40))
    come = data.draw(st.booleans())
    turn = iter(range(10**6))
    scheduler = runs(steps_s, lambda: extra if come and next(turn) % 2 else set())
    passed_s = sum(steps_s)
    for uuid in STAYING:
        times = [0.0, *(at_s - 1000 for at_s, asked in scheduler.asked if asked == uuid), passed_s]
        # A node that leaves takes its turn with it, one that comes brings one: half of the others at the most.
        slack_s = SPAN_S * len(extra) / len(STAYING) + 2 * max(steps_s)
        assert max(after - before for before, after in pairwise(times)) <= SPAN_S + slack_s


def test_given_somebody_who_wakes_when_reading_back_then_he_comes_first_and_the_rest_stays_due() -> None:
    clock = SteppedClock()
    scheduler, back = Noting(clock), ReadBack(clock)
    back.know(STAYING)
    clock.now_s += SPAN_S
    assert len(back.due(SPAN_S)) == len(STAYING)
    assert back.run(scheduler, SPAN_S, lambda: len(scheduler.asked) == 2)
    assert [uuid for _, uuid in scheduler.asked] == list(STAYING[:2])
    assert back.due(SPAN_S) == STAYING[2:]


def test_given_no_nodes_then_nobody_has_a_turn() -> None:
    clock = SteppedClock()
    back = ReadBack(clock)
    clock.now_s += 10_000
    assert back.due(1.0) == ()
