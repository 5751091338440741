"""A pass that takes minutes, as the first one over thousands of nodes does."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

import pytest

from stocktake.errors import PlacementUnreachable, StocktakeError
from stocktake.model.provider import ProviderTree
from stocktake.placement.scheduler import STRICT, Guard, NoScheduler, Synced, never
from tests.agent.test_loop import START, Stage, SteppedClock, again, stage

__all__ = ["stage"]


class SlowScheduler(NoScheduler):
    """Takes 25 s between two looks at whether it is to stop."""

    def __init__(self, clock: SteppedClock, seen: Callable[[], object]) -> None:
        self._clock = clock
        self._seen = seen
        self.beats: list[object] = []

    def sync(
        self,
        trees: Mapping[str, ProviderTree],
        guard: Guard = STRICT,
        *,
        full: bool = False,
        stop: Callable[[], bool] = never,
    ) -> dict[str, Synced | StocktakeError]:
        for _ in range(4):
            self._clock.now_s += 25
            stop()
            self.beats.append(self._seen())
        return super().sync(trees, guard, full=full, stop=stop)


def test_given_a_pass_that_takes_minutes_when_it_runs_then_it_is_no_silence_even_if_it_is_the_first(
    stage: Stage,
) -> None:
    def seen() -> object:
        service = stage.context.ledger.service("alpha")
        assert service is not None
        return service.last_seen_up

    scheduler = SlowScheduler(stage.clock, seen)
    stage.context = replace(again(stage, update_resources_interval=3600), scheduler=scheduler)
    stage.run(1)
    assert scheduler.beats[:4] == [START + timedelta(seconds=1000 + 25 * number) for number in (1, 2, 3, 4)]


class Drifting(NoScheduler):
    """Is not as it was agreed on when it is looked at for the first time; the second time it is away."""

    def __init__(self, clock: SteppedClock) -> None:
        self._clock = clock
        self.asked: list[tuple[str, float]] = []

    def is_as_agreed(self, root_uuid: str) -> bool:
        self.asked.append((root_uuid, self._clock.now_s - 1000))
        if len(self.asked) == 2:
            raise PlacementUnreachable("away", where="placement")
        return len(self.asked) > 1


def test_given_a_scheduler_when_hours_pass_then_each_node_is_read_back_within_thirty_intervals_and_drift_has_a_pass(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    scheduler = Drifting(stage.clock)
    stage.context = replace(again(stage, update_resources_interval=100), scheduler=scheduler)
    passes = stage.run(9050)
    (node,) = stage.context.ledger.nodes()
    assert {uuid for uuid, _ in scheduler.asked} == {node.uuid}
    times = [at_s for _, at_s in scheduler.asked]
    # The second was no answer, and is asked for again with the next sign of life.
    assert times == pytest.approx([3000, 6000, 6010, 9000], abs=11)
    assert [at_s for at_s in passes if (at_s - 50) % 100] == pytest.approx([0, times[0] + 0.02])
    assert "read back: placement: away" in caplog.text
