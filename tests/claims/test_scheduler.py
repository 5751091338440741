"""Claims with allocations of our own, where the scheduler is slow or others are faster: nothing is left behind."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from stocktake.claims import Claimed, ClaimRules, Claims, Refused, Request
from stocktake.clock import RandomIds
from stocktake.errors import NotFound, PlacementConflict
from stocktake.model.fitting import NoRoom
from stocktake.model.provider import Allocation
from stocktake.placement.scheduler import NoScheduler
from tests.claims.desk import ALIASES, LARGE, SMALL, Desk, open_desk
from tests.context import database_of
from tests.servers.placement import PlacementServer
from tests.system.readback import Readback, remote


@dataclass
class Meanwhile(NoScheduler):
    """The scheduler of a desk, before which something happens whenever it is to allocate."""

    desk: Desk
    happens: Callable[[], object]

    def allocate(self, allocations: Sequence[Allocation]) -> tuple[NoRoom, ...]:
        """Let it happen, and then allocate."""
        self.happens()
        return self.desk.context["alpha"].scheduler.allocate(allocations)


@pytest.fixture
def desk(tmp_path: Path, placement_server: PlacementServer) -> Iterator[Desk]:
    """Two hosts and a Placement of theirs."""
    Readback(placement_server.url).clear()
    own = {"placement": remote(placement_server), "allocations": "own"}
    rules = ClaimRules(own=True, aliases=ALIASES)
    with open_desk(tmp_path, f"sqlite:///{tmp_path}/ledger.db", rules=rules, bare=True, **own) as opened:
        yield opened


def claims_when(desk: Desk, happens: Callable[[], object]) -> Claims:
    """Give claims before whose allocations something happens."""
    rules = ClaimRules(own=True, aliases=ALIASES)
    database = database_of(desk.context["alpha"])
    return Claims(database, Meanwhile(desk, happens), rules, desk.clock, RandomIds())


def holders(desk: Desk) -> set[str]:
    """Say who holds something of the first host in its Placement."""
    return set(desk.context["alpha"].scheduler.allocations(desk.node().uuid))


def expire(desk: Desk) -> None:
    """Let more time pass than a claim lives, and the agent look."""
    desk.clock.pass_by(700)
    desk.refresh("alpha")


def test_given_a_claim_that_expires_before_the_scheduler_is_told_then_nobody_holds_anything(desk: Desk) -> None:
    with pytest.raises(NotFound, match="expired before the scheduler was told"):
        claims_when(desk, lambda: expire(desk)).build("node-alpha", Request(flavor=SMALL))
    assert holders(desk) == set()
    assert desk.entries() == {}
    desk.refresh("alpha")
    assert holders(desk) == set()


def test_given_a_claim_whose_time_is_over_before_any_refresh_then_it_is_given_back_at_once(desk: Desk) -> None:
    with pytest.raises(NotFound, match="expired before the scheduler was told"):
        claims_when(desk, lambda: desk.clock.pass_by(700)).build("node-alpha", Request(flavor=SMALL))
    assert (holders(desk), desk.entries()) == (set(), {})


def test_given_a_resize_that_expires_before_the_scheduler_is_told_then_the_instance_is_as_it_was(desk: Desk) -> None:
    instance = desk.built("alpha")
    with pytest.raises(NotFound, match="expired before the scheduler was told"):
        claims_when(desk, lambda: expire(desk)).move(instance.uuid, "resize", "node-alpha", flavor=LARGE)
    desk.refresh("alpha")
    assert holders(desk) == {instance.uuid}
    held = desk.context["alpha"].scheduler.allocations(desk.node().uuid)[instance.uuid][desk.node().uuid]
    assert held == {"VCPU": 2, "MEMORY_MB": 2048, "DISK_GB": 20}
    assert set(desk.entries()) == {("instance", instance.uuid)}


def test_given_others_who_were_faster_at_every_try_then_it_is_refused_and_nothing_is_claimed(desk: Desk) -> None:
    def conflict() -> None:
        raise PlacementConflict("the allocations changed meanwhile", where="POST /allocations")

    done = claims_when(desk, conflict).build("node-alpha", Request(flavor=SMALL))
    assert isinstance(done, Refused)
    assert (done.by, done.node, [one.what for one in done.reasons]) == (
        "scheduler",
        "node-alpha",
        ["scheduler.conflict"],
    )
    assert (holders(desk), desk.entries()) == (set(), {})
    assert isinstance(desk.claims.build("node-alpha", Request(flavor=SMALL)), Claimed)


def test_given_a_claimant_that_dies_before_the_scheduler_is_told_when_repeated_then_the_scheduler_has_it(
    desk: Desk,
) -> None:
    def dies() -> None:
        raise KeyboardInterrupt

    request = Request(uuid=RandomIds().uuid(), flavor=SMALL)
    with pytest.raises(KeyboardInterrupt):
        claims_when(desk, dies).build("node-alpha", request)
    assert holders(desk) == set()
    assert isinstance(desk.claims.build("node-alpha", request), Claimed)
    assert holders(desk) == {request.uuid}
    desk.is_true()
