"""A pass that takes minutes, as the first one over thousands of nodes does."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta

from stocktake.errors import StocktakeError
from stocktake.model.provider import ProviderTree
from stocktake.placement.scheduler import NoScheduler, Synced, never
from tests.test_agent import START, Stage, SteppedClock, again, stage

__all__ = ["stage"]


class SlowScheduler(NoScheduler):
    """Takes 25 s between two looks at whether it is to stop."""

    def __init__(self, clock: SteppedClock, seen: Callable[[], object]) -> None:
        self._clock = clock
        self._seen = seen
        self.beats: list[object] = []

    def sync(
        self, trees: Mapping[str, ProviderTree], *, full: bool = False, stop: Callable[[], bool] = never
    ) -> dict[str, Synced | StocktakeError]:
        for _ in range(4):
            self._clock.now_s += 25
            stop()
            self.beats.append(self._seen())
        return super().sync(trees, full=full, stop=stop)


def test_given_a_pass_that_takes_minutes_when_it_runs_then_it_is_no_silence_even_if_it_is_the_first(
    stage: Stage,
) -> None:
    def seen() -> object:
        service = stage.parts.ledger.service("alpha")
        assert service is not None
        return service.last_seen_up

    scheduler = SlowScheduler(stage.clock, seen)
    stage.parts = replace(again(stage, update_resources_interval=3600), scheduler=scheduler)
    stage.run(1)
    assert scheduler.beats[:4] == [START + timedelta(seconds=1000 + 25 * number) for number in (1, 2, 3, 4)]
