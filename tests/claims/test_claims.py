"""Claims one by one: what they promise, what they refuse, what becomes of them; on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktake.claims import Claimed, Refused, Request
from stocktake.claims.claims import NEVER_S
from stocktake.errors import InvalidData, InvalidInput, LedgerError, NotFound
from stocktake.model.fitting import Limits
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance
from tests.claims.desk import LARGE, SMALL, Desk, flavor, open_desk
from tests.context import a_guest


@pytest.fixture
def desk(tmp_path: Path, url: str) -> Iterator[Desk]:
    with open_desk(tmp_path, url) as opened:
        yield opened


def claimed(done: Claimed | Refused) -> Instance:
    assert isinstance(done, Claimed), done
    return done.instance


def refused(done: Claimed | Refused) -> dict[str, tuple[float, float, float]]:
    """Give what was missing: asked, free, total."""
    assert isinstance(done, Refused), done
    return {reason.what: (reason.asked, reason.free, reason.total) for reason in done.reasons}


def test_given_a_node_when_claimed_on_then_its_books_have_it_at_once_and_a_whole_count_agrees(desk: Desk) -> None:
    before = desk.node()
    done = desk.claims.build("node-alpha", Request(name="web-1", flavor=SMALL, project_id="p"))
    instance = claimed(done)
    node = desk.node()
    assert (instance.host, instance.node, instance.vm_state, instance.task_state) == (
        "alpha",
        "node-alpha",
        "building",
        "spawning",
    )
    assert (node.vcpus_used, node.memory_mb_used, node.local_gb_used) == (2, 512 + 2048, 20)
    assert (node.running_vms, node.current_workload, node.stats["num_vm_building"]) == (1, 1, 1)
    assert node.generation == before.generation + 1
    assert isinstance(done, Claimed)
    assert done.nodes == (node,)
    assert done.expires_at is not None
    assert desk.entries()["instance", instance.uuid].name == "web-1"
    desk.is_true()


def test_given_a_claim_when_kept_then_it_is_an_active_instance_and_keeping_it_again_changes_nothing(desk: Desk) -> None:
    uuid = claimed(desk.claims.build("node-alpha", Request(flavor=SMALL))).uuid
    kept = desk.claims.keep(uuid).instance
    assert (kept.vm_state, kept.task_state, kept.claim_expires_at) == ("active", None, None)
    assert desk.claims.keep(uuid).instance.vm_state == "active"
    assert desk.node().stats["num_vm_active"] == 1
    desk.is_true()


@pytest.mark.parametrize("end", ["abort", "release"])
def test_given_a_claim_when_given_back_then_the_books_are_as_before(desk: Desk, end: str) -> None:
    before = desk.node()
    uuid = claimed(desk.claims.build("node-alpha", Request(flavor=flavor(pci="gpu:1", hw_cpu_policy="dedicated")))).uuid
    assert desk.holders()
    gone = getattr(desk.claims, end)(uuid).instance
    assert gone.deleted
    after = desk.node()
    assert replace(after, generation=before.generation, updated_at=before.updated_at) == before
    assert desk.holders() == {}
    with pytest.raises(NotFound, match="given back"):
        desk.claims.keep(uuid)
    desk.is_true()


def test_given_a_settled_instance_when_aborted_then_it_is_refused_and_release_takes_it(desk: Desk) -> None:
    uuid = desk.built().uuid
    with pytest.raises(InvalidInput, match="no pending claim"):
        desk.claims.abort(uuid)
    assert desk.claims.release(uuid).instance.deleted
    assert desk.node().running_vms == 0
    desk.is_true()


def test_given_no_limits_when_claimed_then_memory_cpus_and_disk_never_refuse(desk: Desk) -> None:
    claimed(desk.claims.build("node-alpha", Request(flavor=Flavor(vcpus=500, memory_mb=10**7, root_gb=10**6))))
    assert desk.node().free_ram_mb < 0
    desk.is_true()


def test_given_limits_when_nothing_fits_then_every_reason_is_given_with_its_numbers(desk: Desk) -> None:
    limits = Limits(memory_mb=1024, pcpus=1, disk_gb=10)
    before = desk.node()
    asked = flavor(pci="gpu:3", hw_cpu_policy="dedicated", hw_numa_nodes="1", vcpus=6, memory_mb=6000)
    missing = refused(desk.claims.build("node-alpha", Request(flavor=asked), limits=limits))
    assert missing["MEMORY_MB"][:2] == (6000, 512)
    assert missing["DISK_GB"][:2] == (20, 10)
    assert missing["pci.gpu"] == (3, 2, 2)
    assert missing["numa.pinned_cpus"] == (6, 4, 4)
    assert missing["PCPU"][:2] == (6, 1)
    assert desk.node() == before
    assert desk.context["alpha"].ledger.instances() == ()


def test_given_a_limit_when_it_is_reached_then_the_last_that_fits_is_granted_and_no_more(desk: Desk) -> None:
    limits = Limits(memory_mb=512 + 3 * 2048)
    granted = [desk.claims.build("node-alpha", Request(flavor=SMALL), limits=limits) for _ in range(5)]
    assert [isinstance(done, Claimed) for done in granted] == [True, True, True, False, False]
    assert refused(granted[-1])["MEMORY_MB"][:2] == (2048, 0)


def test_given_pinned_guests_when_claimed_then_no_cpu_is_given_twice_and_the_fifth_is_refused(desk: Desk) -> None:
    pinned = flavor(vcpus=2, hw_cpu_policy="dedicated")
    got = [desk.claims.build("node-alpha", Request(flavor=pinned)) for _ in range(5)]
    assert refused(got[4])["numa.pinned_cpus"] == (2, 0, 4)
    pins = [
        pin
        for done in got[:4]
        for cell in (claimed(done).numa_topology or pytest.fail("no cells")).cells
        for pin in (cell.cpu_pinning or {}).values()
    ]
    assert sorted(pins) == [4, 5, 6, 7, 12, 13, 14, 15]
    desk.is_true()


def test_given_devices_when_claimed_then_each_has_one_holder_and_the_next_is_refused(desk: Desk) -> None:
    got = [desk.claims.build("node-alpha", Request(flavor=flavor(pci="gpu:1,nic:1"))) for _ in range(3)]
    assert refused(got[2]) == {"pci.gpu": (1, 0, 2), "pci.nic": (1, 0, 2)}
    assert len(desk.holders()) == 4
    assert desk.node().pci_device_pools == ()
    desk.is_true()


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"pci": "tpu:1"}, "pci_passthrough:alias"),
        ({"hw_numa_nodes": "none"}, "hw:numa_nodes"),
        ({"hw_cpu_policy": "mixed"}, "hw:cpu_dedicated_mask"),
    ],
)
def test_given_a_flavor_that_can_t_be_read_when_claimed_then_the_spec_is_named_and_nothing_is_promised(
    desk: Desk, asked: dict[str, Any], where: str
) -> None:
    with pytest.raises(InvalidData) as refusal:
        desk.claims.build("node-alpha", Request(flavor=flavor(**asked)))
    assert refusal.value.where == where
    assert desk.context["alpha"].ledger.instances() == ()


def test_given_an_unknown_node_when_claimed_on_then_the_nearest_is_named(desk: Desk) -> None:
    with pytest.raises(NotFound, match="node-alpha"):
        desk.claims.build("node-alfa", Request(flavor=SMALL))
    with pytest.raises(NotFound, match="no node"):
        desk.claims.build("00000000-0000-4000-8000-00000000dead", Request(flavor=SMALL))


def test_given_a_uuid_that_is_taken_when_claimed_then_it_is_refused_and_the_books_stay(desk: Desk) -> None:
    uuid = desk.built().uuid
    before = desk.node()
    with pytest.raises(LedgerError, match="already"):
        desk.claims.build("node-alpha", Request(uuid=uuid, flavor=LARGE))
    assert desk.node() == before


def test_given_an_orphan_when_its_uuid_is_claimed_then_it_is_the_instance_and_no_orphan(desk: Desk) -> None:
    uuid = "7d0f5b60-0000-4000-8000-000000000001"
    desk.fleets["alpha"].has("node-alpha", guests=[a_guest(uuid)])
    desk.refresh()
    assert ("orphan", uuid) in desk.entries()
    claimed(desk.claims.build("node-alpha", Request(uuid=uuid, flavor=SMALL)))
    assert set(desk.entries()) == {("instance", uuid)}
    assert desk.node().memory_mb_used == 512 + 2048


def test_given_a_pending_claim_when_its_guest_appears_then_it_is_kept_by_the_next_refresh(desk: Desk) -> None:
    uuid = claimed(desk.claims.build("node-alpha", Request(flavor=SMALL))).uuid
    desk.fleets["alpha"].has("node-alpha", guests=[a_guest(uuid)])
    desk.refresh()
    desk.clock.pass_by(3600)
    desk.refresh()
    assert desk.instance(uuid).vm_state == "active"
    assert set(desk.entries()) == {("instance", uuid)}


def test_given_a_claim_that_nobody_settles_when_its_time_is_over_then_the_next_refresh_gives_it_back(
    desk: Desk,
) -> None:
    kept = claimed(desk.claims.build("node-alpha", Request(flavor=SMALL), expires_s=NEVER_S)).uuid
    short = claimed(desk.claims.build("node-alpha", Request(flavor=SMALL), expires_s=60)).uuid
    usual = claimed(desk.claims.build("node-alpha", Request(flavor=SMALL))).uuid
    desk.clock.pass_by(61)
    desk.claims.renew(usual)
    desk.refresh()
    assert {uuid for _, uuid in desk.entries()} == {kept, usual}
    # The machine's own time passes too: a busy one may take a minute from line to line.
    desk.clock.pass_by(500)
    desk.refresh()
    assert {uuid for _, uuid in desk.entries()} == {kept, usual}
    desk.clock.pass_by(101)
    desk.refresh()
    assert {uuid for _, uuid in desk.entries()} == {kept}
    with pytest.raises(NotFound):
        desk.claims.renew(short)
    desk.is_true()
