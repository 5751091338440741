"""A claim that is repeated with its uuid: the same promise if it asks for the same, else refused; on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktake.claims import Claimed, Refused, Request
from stocktake.claims.candidates import claim_on, place_of
from stocktake.errors import AlreadyThere
from stocktake.model.fitting import Limits
from stocktake.views.fitting import wanted_of
from tests.claims.desk import LARGE, SMALL, Desk, flavor, open_desk
from tests.context import database_of

UUID = "aaaaaaaa-0000-4000-8000-000000000001"
ASKED: dict[str, Any] = {
    "uuid": UUID,
    "name": "web-1",
    "flavor": flavor(pci="gpu:1", hw_cpu_policy="dedicated"),
    "project_id": "blue",
    "user_id": "ada",
    "os_type": "linux",
}


@pytest.fixture
def desk(tmp_path: Path, url: str) -> Iterator[Desk]:
    with open_desk(tmp_path, url) as opened:
        yield opened


def claimed(done: Claimed | Refused) -> Claimed:
    assert isinstance(done, Claimed), done
    return done


@pytest.mark.parametrize("state", ["pending", "kept"])
def test_given_a_claim_when_repeated_then_it_is_the_same_and_the_books_have_it_once(desk: Desk, state: str) -> None:
    first = claimed(desk.claims.build("node-alpha", Request(**ASKED)))
    instance = desk.claims.keep(UUID).instance if state == "kept" else first.instance
    before, holders = desk.node(), desk.holders()
    again = claimed(desk.claims.build("node-alpha", Request(**ASKED), expires_s=5))
    assert (again.instance.flavor, again.instance.pci_devices) == (instance.flavor, instance.pci_devices)
    assert (again.instance.numa_topology, again.expires_at) == (instance.numa_topology, instance.claim_expires_at)
    assert again.nodes == (desk.node(),)
    assert (desk.node().vcpus_used, desk.holders()) == (before.vcpus_used, holders)
    assert len(holders) == 1
    desk.is_true()


@pytest.mark.parametrize(
    "other",
    [
        {"name": "web-2"},
        {"flavor": SMALL},
        {"project_id": None},
        {"user_id": "bob"},
        {"os_type": "windows"},
        {"volume_backed": True},
    ],
    ids=lambda other: next(iter(other)),
)
def test_given_a_claim_when_repeated_with_other_content_then_what_differs_is_said_and_it_stays(
    desk: Desk, other: dict[str, Any]
) -> None:
    first = claimed(desk.claims.build("node-alpha", Request(**ASKED)))
    with pytest.raises(AlreadyThere, match=f"another {next(iter(other))}$|another {next(iter(other))}\\.") as caught:
        desk.claims.build("node-alpha", Request(**ASKED | other))
    assert UUID in str(caught.value)
    assert desk.instance(UUID) == first.instance
    desk.is_true()


def test_given_a_claim_when_repeated_on_another_node_then_it_is_refused(desk: Desk) -> None:
    claimed(desk.claims.build("node-alpha", Request(uuid=UUID, flavor=SMALL)))
    with pytest.raises(AlreadyThere, match="another node"):
        desk.claims.build("node-beta", Request(uuid=UUID, flavor=SMALL))
    assert "instance" not in {kind for kind, _ in desk.entries("beta")}


def test_given_a_claim_that_was_given_back_when_repeated_then_it_is_a_new_one(desk: Desk) -> None:
    for _ in range(2):
        claimed(desk.claims.build("node-alpha", Request(uuid=UUID, flavor=SMALL)))
        desk.claims.release(UUID)
    assert desk.node().running_vms == 0


@pytest.mark.parametrize("limits", [None, Limits(vcpus=2)], ids=["there is another place", "it has the last room"])
def test_given_a_claim_on_the_best_node_when_repeated_then_it_is_where_it_was(
    desk: Desk, limits: Limits | None
) -> None:
    context = desk.context["alpha"]
    ledger, settings = database_of(context), context.settings

    def ask(uuid: str, of: Any = SMALL) -> Claimed:
        def claim(node: str, narrow: Limits | None) -> Claimed | Refused:
            return desk.claims.build(node, Request(uuid=uuid, flavor=of), limits=narrow)

        wanted = wanted_of(of, settings, volume_backed=False)
        return claim_on(
            ledger,
            settings,
            None,
            wanted,
            limits=limits,
            claim=claim,
            now=desk.clock.now(),
            claimed_on=lambda: place_of(ledger, uuid),
        )

    first = [ask(f"aaaaaaaa-0000-4000-8000-00000000000{number}") for number in (1, 2)]
    for one in first:
        assert ask(one.instance.uuid).instance.node == one.instance.node
    with pytest.raises(AlreadyThere, match="another flavor"):
        ask(first[0].instance.uuid, LARGE)
    desk.is_true()
