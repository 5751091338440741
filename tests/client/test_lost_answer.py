"""A claim from afar whose answer is lost on the way: it is claimed once, and who can't be told is told its uuid."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stocktake.claims import Claimed, Request
from stocktake.client import Fleet, connected
from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import AlreadyThere, LedgerUnreachable, OutcomeUnknown
from stocktake.ledger import open_ledger
from stocktake.model.workload import Flavor, Instance
from tests.servers.between import Between, between
from tests.servers.fleets import stocked
from tests.servers.serve import secret_of, served

SMALL = Flavor(vcpus=1, memory_mb=64)
LARGE = Flavor(vcpus=2, memory_mb=128)
UUID = "aaaaaaaa-0000-4000-8000-000000000001"


@dataclass(frozen=True, slots=True)
class Afar:
    """A fleet behind a proxy, and its ledger beside it."""

    fleet: Fleet
    proxy: Between
    url: str

    def instances(self) -> tuple[Instance, ...]:
        """Read all instances from the ledger."""
        with contextlib.closing(open_ledger(self.url, clock=SystemClock(), ids=RandomIds())) as ledger:
            return ledger.instances()


@pytest.fixture
def afar(tmp_path: Path) -> Iterator[Afar]:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    stocked(tmp_path, url)
    (tmp_path / "served").mkdir()
    with (
        served(tmp_path / "served", url) as server,
        between(server.url) as proxy,
        connected(proxy.url, token=secret_of("operator")) as fleet,
    ):
        yield Afar(fleet, proxy, url)


@pytest.mark.parametrize("uuid", [None, UUID], ids=["its own uuid", "a given uuid"])
def test_given_an_answer_that_is_cut_when_claimed_then_it_is_claimed_once_and_said_to_be(
    afar: Afar, uuid: str | None
) -> None:
    before = {one.uuid for one in afar.instances()}
    afar.proxy.misbehave("/v1/claims", cut=True, times=1)
    done = afar.fleet.claims.build("auto", Request(uuid=uuid, flavor=SMALL))
    assert isinstance(done, Claimed)
    assert afar.proxy.paths.count("/v1/claims") == 2
    assert [one for one in afar.instances() if one.uuid not in before] == [done.instance]
    assert uuid in {None, done.instance.uuid}


def test_given_answers_that_are_all_cut_when_claimed_then_the_uuid_is_said_and_with_it_the_claim_is_found(
    afar: Afar,
) -> None:
    before = {one.uuid for one in afar.instances()}
    afar.proxy.misbehave("/v1/claims", cut=True)
    with pytest.raises(OutcomeUnknown) as caught:
        afar.fleet.claims.build("auto", Request(flavor=SMALL))
    (made,) = [one for one in afar.instances() if one.uuid not in before]
    assert made.uuid in caught.value.remedy
    afar.proxy.behave()
    again = afar.fleet.claims.build("auto", Request(uuid=made.uuid, flavor=SMALL))
    assert isinstance(again, Claimed)
    assert again.instance == made


def test_given_an_answer_that_is_cut_when_a_machine_is_moved_then_there_is_one_move_and_it_is_said(afar: Afar) -> None:
    built = afar.fleet.claims.build("auto", Request(uuid=UUID, flavor=SMALL))
    assert isinstance(built, Claimed)
    afar.fleet.claims.keep(UUID)
    afar.proxy.misbehave(f"/v1/instances/{UUID}/move", cut=True, times=1)
    done = afar.fleet.claims.move(UUID, "resize", "auto", flavor=LARGE)
    assert isinstance(done, Claimed)
    assert done.migration is not None
    again = afar.fleet.claims.move(UUID, "resize", "auto", flavor=LARGE, migration_uuid=done.migration.uuid)
    assert isinstance(again, Claimed)
    assert again.migration == done.migration
    with pytest.raises(AlreadyThere, match="another kind, node or flavor"):
        afar.fleet.claims.move(UUID, "resize", "auto", flavor=SMALL, migration_uuid=done.migration.uuid)
    assert [one.uuid for one in afar.fleet.migrations() if one.instance_uuid == UUID] == [done.migration.uuid]


def test_given_nobody_who_listens_when_claimed_then_it_is_said_that_trying_again_is_safe(tmp_path: Path) -> None:
    with served(tmp_path, f"sqlite:///{tmp_path / 'ledger.db'}") as server:
        url = server.url
    with (
        connected(url, token=secret_of("operator")) as fleet,
        pytest.raises(LedgerUnreachable, match="trying again is safe") as caught,
    ):
        fleet.claims.build("auto", Request(flavor=SMALL))
    assert not isinstance(caught.value, OutcomeUnknown)
