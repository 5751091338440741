"""The best node is taken, and who loses it to others goes on to the next."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.fit.fit import wanted
from stocktake.claims import Claimed, Refused, Request
from stocktake.claims.best import claim_best, narrowed
from stocktake.model.fitting import Limits
from stocktake.model.workload import Flavor
from tests.claims.desk import SMALL, Desk, open_desk

most = st.none() | st.floats(min_value=0, max_value=1e6)
limits = st.builds(Limits, **dict.fromkeys(Limits.__struct_fields__, most))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path, f"sqlite:///{tmp_path}/ledger.db", bare=True) as opened:
        yield opened


def best(desk: Desk, flavor: Flavor, *, meanwhile: bool = False) -> Claimed | tuple[Refused, ...]:
    """Claim on the best; `meanwhile` lets somebody else take all of the first between the look and the claim."""
    context = desk.context["alpha"]
    asked: list[str] = []

    def claim(node: str, limits: Limits) -> Claimed | Refused:
        if meanwhile and not asked:
            hog = Flavor(vcpus=1, memory_mb=60_000)
            assert isinstance(desk.claims.build(node, Request(flavor=hog)), Claimed)
        asked.append(node)
        return desk.claims.build(node, Request(flavor=flavor), limits=limits)

    return claim_best(context.ledger, context.settings, wanted(flavor, ()), claim, now=desk.clock.now())


def test_given_nodes_when_claimed_then_the_emptiest_is_taken_and_filled_by_its_capacity(desk: Desk) -> None:
    desk.built("alpha")
    took = []
    big = Flavor(vcpus=1, memory_mb=32_000)
    for _ in range(3):
        done = best(desk, big)
        took.append(done.instance.host if isinstance(done, Claimed) else None)
    # One more fits beside the small machine; the scheduler would grant a third to nobody.
    assert took == ["beta", "alpha", "beta"]
    refused = best(desk, big)
    assert isinstance(refused, tuple)
    assert {one.node for one in refused} == {"node-alpha", "node-beta"}
    assert {reason.what for one in refused for reason in one.reasons} == {"MEMORY_MB"}


def test_given_others_who_were_faster_when_claimed_then_the_next_best_is_taken(desk: Desk) -> None:
    first = best(desk, SMALL)
    assert isinstance(first, Claimed)
    desk.claims.release(first.instance.uuid)
    done = best(desk, Flavor(vcpus=1, memory_mb=32_000), meanwhile=True)
    assert isinstance(done, Claimed)
    assert done.instance.host != first.instance.host


def test_given_others_who_were_faster_everywhere_when_claimed_then_each_nodes_lack_is_told(desk: Desk) -> None:
    for host in ("alpha", "beta"):
        assert isinstance(desk.claims.build(f"node-{host}", Request(flavor=Flavor(vcpus=1, memory_mb=30_000))), Claimed)
    refused = best(desk, Flavor(vcpus=1, memory_mb=32_000), meanwhile=True)
    assert isinstance(refused, Claimed) or len(refused) == 2


@given(capacity=limits, further=st.none() | limits)
def test_given_limits_of_two_then_neither_is_exceeded_and_nothing_else_holds(
    capacity: Limits, further: Limits | None
) -> None:
    both = narrowed(capacity, further)
    for name in Limits.__struct_fields__:
        given_ = [most for one in (capacity, further) if one and (most := getattr(one, name)) is not None]
        assert getattr(both, name) == (min(given_) if given_ else None)
