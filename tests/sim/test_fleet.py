"""A fleet under seeds: whatever happens, in whatever order, one healthy refresh puts everything right."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.errors import LedgerUnreachable
from tests.servers.placement import PlacementServer, private_placement
from tests.sim.events import LIFE, TROUBLE, a_node_comes
from tests.sim.oracle import check
from tests.sim.world import HOSTS, World

pytestmark = pytest.mark.system

# Enough for every commit; any other number is a history too. The even ones are of services that allocate themselves.
SEEDS = (1, 2, 3, 4, 105, 106)
STEPS = 60
ROUNDS_MAX = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlacementServer]:
    with private_placement(tmp_path_factory.mktemp("placement")) as server:
        yield server


@pytest.mark.parametrize("seed", SEEDS)
def test_given_any_history_when_a_healthy_refresh_ran_then_books_and_scheduler_are_right(
    seed: int, tmp_path: Path, server: PlacementServer
) -> None:
    world = World(seed, tmp_path, server)
    try:
        for _ in range(3):
            world.trace.append(a_node_comes(world))
        for step in range(STEPS):
            happen(world)
            if step % 12 == 11:
                settle(world)
    except BaseException as error:
        error.add_note(f"seed {seed}, after:\n" + "\n".join(world.trace))
        raise
    finally:
        world.close()


def happen(world: World) -> None:
    """Let one thing happen, mostly of life, sometimes trouble; then perhaps refresh, and check if nothing is wrong."""
    events = TROUBLE if world.dice.below(8) == 0 else LIFE
    event = world.dice.pick(events)
    try:
        world.trace.append(event(world))
    except LedgerUnreachable:
        # The event itself met the lock that stands round the ledger.
        assert world.faulty
        world.trace.append(f"{event.__name__} met a locked ledger")
    if world.dice.below(2):
        return
    service = world.any_service()
    cut = world.dice.below(4) if world.dice.below(6) == 0 else None
    healthy = not world.faulty
    result = world.refresh(service, stop_after=cut)
    if result is not None and healthy:
        check(world, service, result)


def settle(world: World) -> None:
    """End all trouble: one pass each is right at once, and soon nobody has anything left to write."""
    world.heal()
    for _ in range(ROUNDS_MAX):
        quiet = True
        for host in HOSTS:
            service = world.services[host]
            result = world.refresh(service)
            assert result is not None
            check(world, service, result)
            quiet = quiet and not (result.changed or result.writes or result.deleted)
        if quiet:
            return
    pytest.fail(f"after {ROUNDS_MAX} healthy passes of each there is still something to write")
