"""Claims as context managers: kept at the end of the block, given back if it ends badly, renewed while it lasts."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.claims import ClaimRules, Request, building, moving
from stocktake.errors import ClaimRefused, exit_code
from stocktake.model.fitting import Limits
from tests.claims.desk import SMALL, Desk, open_desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    rules = ClaimRules(expiry_s=0.6)
    with open_desk(tmp_path, f"sqlite:///{tmp_path}/ledger.db", rules=rules, bare=True) as opened:
        yield opened


def test_given_a_build_when_the_block_ends_well_then_it_is_kept(desk: Desk) -> None:
    with building(desk.claims, "node-alpha", Request(flavor=SMALL)) as claimed:
        assert desk.instance(claimed.instance.uuid).vm_state == "building"
    assert desk.instance(claimed.instance.uuid).vm_state == "active"


@pytest.mark.parametrize("trouble", [ValueError("no image"), KeyboardInterrupt()])
def test_given_a_build_when_the_block_fails_then_it_is_given_back_and_the_failure_is_the_callers(
    desk: Desk, trouble: BaseException
) -> None:
    before = desk.node()
    with pytest.raises(type(trouble)), building(desk.claims, "node-alpha", Request(flavor=SMALL)):
        raise trouble
    assert desk.node().memory_mb_used == before.memory_mb_used
    assert desk.context["alpha"].ledger.instances() == ()


def test_given_a_build_whose_guest_was_seen_when_the_block_fails_then_it_is_given_back_too(desk: Desk) -> None:
    def build() -> None:
        with building(desk.claims, "node-alpha", Request(flavor=SMALL)) as claimed:
            desk.claims.keep(claimed.instance.uuid)
            raise ValueError("late")

    with pytest.raises(ValueError, match="late"):
        build()
    assert desk.context["alpha"].ledger.instances() == ()


def test_given_no_room_when_entered_then_it_raises_with_every_reason_and_the_block_is_not_run(desk: Desk) -> None:
    limits = Limits(memory_mb=1, vcpus=1)
    with (
        pytest.raises(ClaimRefused) as refusal,
        building(desk.claims, "node-alpha", Request(flavor=SMALL), limits=limits),
    ):
        pytest.fail("there is no room")
    assert len(refusal.value.reasons) == 2
    assert refusal.value.where == "node-alpha"
    assert exit_code(refusal.value) == 1


def test_given_a_long_block_when_the_claim_would_expire_then_it_was_renewed(desk: Desk) -> None:
    seen = threading.Event()
    renew = desk.claims.renew

    def noted(uuid: str, *, expires_s: float | None = None) -> object:
        done = renew(uuid, expires_s=expires_s)
        seen.set()
        return done

    desk.claims.renew = noted  # type: ignore[assignment,method-assign]
    with building(desk.claims, "node-alpha", Request(flavor=SMALL)) as claimed:
        assert seen.wait(20)
        assert claimed.expires_at is not None
        expires_at = desk.instance(claimed.instance.uuid).claim_expires_at
        assert expires_at is not None
        assert expires_at > claimed.expires_at


def test_given_a_move_when_the_block_ends_well_then_it_is_finished_and_given_back_otherwise(desk: Desk) -> None:
    uuid = desk.built().uuid
    with pytest.raises(ValueError, match="stuck"), moving(desk.claims, uuid, "live-migration", "node-beta"):
        raise ValueError("stuck")
    assert (desk.instance(uuid).host, desk.entries("beta")) == ("alpha", {})
    with moving(desk.claims, uuid, "live-migration", "node-beta"):
        assert ("migration", uuid) in desk.entries("beta")
    assert desk.instance(uuid).host == "beta"
