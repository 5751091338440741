"""
A fleet under seeds: whatever happens, in whatever order, one healthy refresh puts everything right.

`make soak` tells thousands of histories; `make soak SEED=...` tells one again.
"""

from collections.abc import Iterator

import pytest

from tests.servers.placement import PlacementServer, private_placement
from tests.sim import oracle
from tests.sim.history import History, said, shortest, told

pytestmark = pytest.mark.system

# Enough for every commit; any other number is a history too. The even ones are of services that allocate themselves.
SEEDS = (1, 2, 3, 4, 105, 106)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlacementServer]:
    with private_placement(tmp_path_factory.mktemp("placement")) as server:
        yield server


@pytest.mark.parametrize("seed", SEEDS)
def test_given_any_history_when_a_healthy_refresh_ran_then_books_and_scheduler_are_right(
    seed: int, server: PlacementServer
) -> None:
    history = told(seed, server)
    assert not history.failure, said(history)
    assert history.checks
    assert history.events


@pytest.mark.unmeasured
def test_given_a_seed_when_its_history_is_told_again_then_the_same_happens(server: PlacementServer) -> None:
    first, second = (told(108, server, range(8)) for _ in range(2))
    assert first.trace == second.trace
    assert first.events == second.events


@pytest.mark.unmeasured
def test_given_a_history_that_fails_when_it_is_made_short_then_only_what_it_takes_is_left(
    server: PlacementServer,
) -> None:
    def nobody_is_unmanaged(case: oracle.Case) -> None:
        entries = [entry for several in case.books.entries.values() for entry in several]
        assert not [entry for entry in entries if entry["kind"] == "orphan"], "planted"

    failed = first_that_fails(server, nobody_is_unmanaged)
    assert "planted" in failed.failure
    short = shortest(failed, server, nobody_is_unmanaged)
    assert short.mark == failed.mark
    (step,) = short.steps
    assert f"{step}: guest" in "\n".join(short.trace)
    assert f"seed {failed.seed}" in said(short)


def first_that_fails(server: PlacementServer, check: oracle.Check) -> History:
    histories = (told(seed, server, range(6), check) for seed in range(1, 100, 2))
    return next(history for history in histories if history.failure)
