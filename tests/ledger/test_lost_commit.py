"""A connection lost at COMMIT: what was saved is said to be, what was not is said not to be, and else neither."""

import contextlib

import pytest

from stocktake.claims import Claimed, ClaimRules, Claims, Request
from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import LedgerUnreachable, OutcomeUnknown
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.model.workload import Flavor
from stocktake.placement import NoScheduler
from tests.ledger.making import NODE, instance, saved
from tests.servers.cut_at_commit import Moment, cut_at_commit
from tests.servers.postgres import postgres, postgres_url

__all__ = ["postgres", "postgres_url"]
CLOCK, IDS = SystemClock(), RandomIds()


def opened(url: str) -> DatabaseLedger:
    return open_ledger(url, clock=CLOCK, ids=IDS)


@pytest.mark.parametrize("moment", ["request", "answer"])
def test_given_a_connection_lost_at_commit_when_written_then_nobody_says_that_nothing_was_saved(
    postgres_url: str, moment: Moment
) -> None:
    one = instance(uuid="aaaaaaaa-0000-4000-8000-000000000001")
    with cut_at_commit(postgres_url) as proxy, contextlib.closing(opened(proxy.url)) as ledger:
        proxy.cut(moment)
        with pytest.raises(OutcomeUnknown) as caught:
            ledger.put_instances([one])
        assert proxy.done == 1
        assert "may have been done" in str(caught.value)
        assert "nothing was saved" not in str(caught.value)


@pytest.mark.parametrize("moment", ["request", "answer"])
def test_given_a_connection_lost_at_commit_when_claimed_then_it_is_said_which_of_the_two_it_is(
    postgres_url: str, moment: Moment
) -> None:
    with (
        cut_at_commit(postgres_url) as proxy,
        contextlib.closing(opened(postgres_url)) as direct,
        contextlib.closing(opened(proxy.url)) as ledger,
    ):
        saved(direct)
        claims = Claims(ledger, NoScheduler(), ClaimRules(), CLOCK, IDS)
        uuid, small = IDS.uuid(), Flavor(vcpus=1, memory_mb=64)
        proxy.cut(moment)
        if moment == "answer":
            done = claims.build(NODE, Request(uuid=uuid, flavor=small))
            assert isinstance(done, Claimed)
        else:
            with pytest.raises(LedgerUnreachable, match="nothing was") as caught:
                claims.build(NODE, Request(uuid=uuid, flavor=small))
            assert not isinstance(caught.value, OutcomeUnknown)
        assert proxy.done == 1
        assert len(direct.instances(named=uuid)) == (moment == "answer")


@pytest.mark.parametrize("moment", ["request", "answer"])
def test_given_a_connection_lost_at_commit_when_moved_then_it_is_one_move_and_said_to_be(
    postgres_url: str, moment: Moment
) -> None:
    with (
        cut_at_commit(postgres_url) as proxy,
        contextlib.closing(opened(postgres_url)) as direct,
        contextlib.closing(opened(proxy.url)) as ledger,
    ):
        saved(direct)
        claims, small = Claims(ledger, NoScheduler(), ClaimRules(), CLOCK, IDS), Flavor(vcpus=1, memory_mb=64)
        built = claims.build(NODE, Request(flavor=small))
        assert isinstance(built, Claimed)
        uuid = claims.keep(built.instance.uuid).instance.uuid
        proxy.cut(moment)
        done = claims.move(uuid, "resize", NODE, flavor=Flavor(vcpus=2, memory_mb=64))
        assert isinstance(done, Claimed)
        assert proxy.done == 1
        assert done.migration is not None
        assert [one.uuid for one in direct.migrations()] == [done.migration.uuid]
