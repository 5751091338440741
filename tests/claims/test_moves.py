"""Moves: what both sides hold at every step, and how they end; on both databases."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.accounting.lifecycle import MoveKind
from stocktake.claims import Claimed, Refused, Request
from stocktake.errors import InvalidInput, NotFound
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration
from tests.claims.desk import LARGE, SMALL, Desk, flavor, open_desk

# One of each is taken: it has cells, pinned CPUs and a device.
PINNED = flavor(vcpus=2, memory_mb=2048, hw_cpu_policy="dedicated", pci="gpu:1")
WIDER = flavor(vcpus=4, memory_mb=4096, hw_cpu_policy="dedicated", pci="gpu:1")


@pytest.fixture
def desk(tmp_path: Path, url: str) -> Iterator[Desk]:
    with open_desk(tmp_path, url) as opened:
        yield opened


def moved(desk: Desk, uuid: str, kind: MoveKind, to: str = "beta", new: Flavor | None = None) -> Migration:
    done = desk.claims.move(uuid, kind, f"node-{to}", flavor=new)
    assert isinstance(done, Claimed), done
    assert done.migration is not None
    return done.migration


def kinds(desk: Desk, host: str) -> dict[str, int]:
    """Say as what instances count on a host, and with how much memory."""
    return {kind: entry.memory_mb for (kind, _), entry in desk.entries(host).items()}


def bare(instance: Instance) -> Instance:
    """Leave out when it was written, and what holding devices looks like from another host."""
    return replace(instance, updated_at=None)


def test_given_a_resize_when_it_goes_its_way_then_both_sides_hold_room_until_it_is_confirmed(desk: Desk) -> None:
    uuid = desk.built(of=PINNED).uuid
    migration = moved(desk, uuid, "resize", new=WIDER)
    assert (migration.status, migration.claim_expires_at is None) == ("pre-migrating", False)
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({"instance": 2048}, {"migration": 4096})
    assert {*desk.holders("alpha").values(), *desk.holders("beta").values()} == {uuid}
    desk.is_true()
    done = desk.claims.finish(uuid)
    assert (done.instance.host, done.instance.vm_state, done.instance.flavor.memory_mb) == ("beta", "resized", 4096)
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({"migration": 2048}, {"instance": 4096})
    assert len(desk.holders("alpha")) == 1
    desk.is_true()
    settled = desk.claims.confirm(uuid).instance
    assert (settled.vm_state, settled.old_flavor, settled.migration_context) == ("active", None, None)
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({}, {"instance": 4096})
    assert desk.holders("alpha") == {}
    desk.is_true()


def test_given_a_finished_resize_when_reverted_then_all_is_as_it_was(desk: Desk) -> None:
    uuid = desk.built(of=PINNED).uuid
    desk.refresh()
    before, instance = desk.node("alpha"), desk.instance(uuid)
    moved(desk, uuid, "resize", new=WIDER)
    desk.claims.finish(uuid)
    desk.claims.revert(uuid)
    assert bare(desk.instance(uuid)) == bare(instance)
    assert replace(desk.node("alpha"), generation=0, updated_at=None) == replace(before, generation=0, updated_at=None)
    assert kinds(desk, "beta") == {}
    assert desk.holders("beta") == {}
    desk.is_true()


@pytest.mark.parametrize(
    ("kind", "status"), [("resize", "failed"), ("migration", "failed"), ("live-migration", "cancelled")]
)
def test_given_a_move_that_has_begun_when_aborted_then_the_destination_is_free(
    desk: Desk, kind: MoveKind, status: str
) -> None:
    uuid = desk.built(of=PINNED).uuid
    instance = desk.instance(uuid)
    moved(desk, uuid, kind, new=WIDER if kind == "resize" else None)
    done = desk.claims.abort(uuid)
    assert done.migration is not None
    assert done.migration.status == status
    assert bare(desk.instance(uuid)) == bare(instance)
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({"instance": 2048}, {})
    assert desk.holders("beta") == {}
    desk.is_true()


def test_given_a_resize_on_its_own_host_when_it_goes_its_way_then_each_side_has_cpus_and_a_device_of_its_own(
    desk: Desk,
) -> None:
    uuid = desk.built(of=PINNED).uuid
    moved(desk, uuid, "resize", to="alpha", new=WIDER)
    assert kinds(desk, "alpha") == {"instance": 2048, "migration": 4096}
    assert len(desk.holders()) == 2
    # As in Nova, only the new side's CPUs are in the books until it is finished; the old ones are nobody else's yet.
    other = desk.built(of=flavor(vcpus=2, hw_cpu_policy="dedicated")).uuid
    assert isinstance(desk.claims.build("node-alpha", Request(flavor=flavor(hw_cpu_policy="dedicated"))), Refused)
    desk.is_true()
    desk.claims.finish(uuid)
    assert {kind for kind, _ in desk.entries()} == {"instance", "migration"}
    pins = [take.pinned_cpus for entry in desk.entries().values() for take in entry.cells]
    assert sum(map(len, pins)) == len(frozenset().union(*pins)) == 8
    desk.is_true()
    desk.claims.release(other)
    desk.claims.confirm(uuid)
    assert kinds(desk, "alpha") == {"instance": 4096}
    assert len(desk.holders()) == 1
    desk.is_true()
    moved(desk, uuid, "resize", to="alpha", new=PINNED)
    desk.claims.finish(uuid)
    desk.claims.revert(uuid)
    assert kinds(desk, "alpha") == {"instance": 4096}
    assert len(desk.holders()) == 1
    desk.is_true()


def test_given_a_live_migration_when_finished_then_it_is_over_and_the_source_is_free(desk: Desk) -> None:
    uuid = desk.built(of=PINNED).uuid
    moved(desk, uuid, "live-migration")
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({"instance": 2048}, {"migration": 2048})
    done = desk.claims.finish(uuid)
    assert done.migration is not None
    assert (done.instance.vm_state, done.migration.status) == ("active", "completed")
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({}, {"instance": 2048})
    assert desk.holders("alpha") == {}
    desk.is_true()


def test_given_a_guest_on_large_pages_when_it_would_have_others_then_the_live_migration_is_refused(desk: Desk) -> None:
    uuid = desk.built(of=flavor(memory_mb=1024, hw_mem_page_size="any")).uuid
    hog = Request(flavor=flavor(memory_mb=1024, hw_mem_page_size="large"))
    assert all(isinstance(desk.claims.build("node-beta", hog), Claimed) for _ in range(2))
    done = desk.claims.move(uuid, "live-migration", "node-beta")
    assert isinstance(done, Refused)
    assert [reason.what for reason in done.reasons] == ["numa.pages.2048"]
    assert isinstance(desk.claims.move(uuid, "migration", "node-beta"), Claimed)


def test_given_a_host_that_lives_when_evacuated_then_it_is_refused_unless_forced(desk: Desk) -> None:
    uuid = desk.built().uuid
    desk.context["alpha"].ledger.heartbeat("alpha", version="1")
    with pytest.raises(InvalidInput, match="run twice"):
        desk.claims.move(uuid, "evacuation", "node-beta")
    desk.clock.pass_by(61)
    done = desk.claims.move(uuid, "evacuation", "node-beta")
    assert isinstance(done, Claimed)
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({"instance": 2048}, {"migration": 2048})
    there = desk.claims.finish(uuid)
    assert there.migration is not None
    assert (there.instance.host, there.migration.status) == ("beta", "done")
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({}, {"instance": 2048})
    desk.is_true()


def test_given_a_shelved_instance_when_unshelved_then_it_takes_room_at_once(desk: Desk) -> None:
    instance = desk.built(of=PINNED)
    shelved = replace(instance, host=None, node=None, vm_state="shelved_offloaded", numa_topology=None)
    desk.context["alpha"].ledger.change_instances([shelved])
    desk.refresh()
    assert kinds(desk, "alpha") == {}
    assert isinstance(desk.claims.unshelve(instance.uuid, "node-beta"), Claimed)
    assert kinds(desk, "beta") == {"instance": 2048}
    desk.is_true()
    desk.claims.abort(instance.uuid)
    assert (kinds(desk, "beta"), desk.holders("beta")) == ({}, {})
    back = desk.instance(instance.uuid)
    assert (back.host, back.vm_state, back.task_state, back.deleted) == (None, "shelved_offloaded", None, False)
    assert isinstance(desk.claims.unshelve(instance.uuid, "node-alpha"), Claimed)
    assert desk.claims.keep(instance.uuid).instance.vm_state == "active"
    desk.is_true()


def test_given_a_move_that_nobody_finishes_when_its_time_is_over_then_the_instance_is_where_it_was(desk: Desk) -> None:
    uuid = desk.built(of=PINNED).uuid
    instance = desk.instance(uuid)
    moved(desk, uuid, "resize", to="alpha", new=WIDER)
    desk.clock.pass_by(601)
    desk.refresh()
    assert bare(desk.instance(uuid)) == bare(instance)
    assert (kinds(desk, "alpha"), len(desk.holders())) == ({"instance": 2048}, 1)
    with pytest.raises(InvalidInput, match="no move in progress"):
        desk.claims.finish(uuid)
    desk.is_true()


def test_given_a_moving_instance_when_released_then_both_sides_are_free(desk: Desk) -> None:
    uuid = desk.built(of=PINNED).uuid
    moved(desk, uuid, "resize", new=WIDER)
    desk.claims.release(uuid)
    assert (kinds(desk, "alpha"), kinds(desk, "beta")) == ({}, {})
    assert (desk.holders("alpha"), desk.holders("beta")) == ({}, {})
    desk.is_true()


@pytest.mark.parametrize(
    ("kind", "to", "new", "said"),
    [
        ("resize", "beta", None, "needs a flavor"),
        ("resize", "beta", SMALL, "the one that it has"),
        ("migration", "beta", LARGE, "keeps the flavor"),
        ("live-migration", "alpha", None, "another node"),
        ("evacuation", "alpha", None, "another node"),
    ],
)
def test_given_a_move_that_makes_no_sense_when_asked_for_then_it_is_refused_with_a_reason(
    desk: Desk, kind: MoveKind, to: str, new: Flavor | None, said: str
) -> None:
    uuid = desk.built().uuid
    before = desk.node()
    with pytest.raises(InvalidInput, match=said):
        desk.claims.move(uuid, kind, f"node-{to}", flavor=new)
    assert desk.node() == before


def test_given_an_instance_that_moves_when_it_is_to_move_again_then_it_is_refused(desk: Desk) -> None:
    uuid = desk.built().uuid
    moved(desk, uuid, "migration")
    with pytest.raises(InvalidInput, match="resize_prep"):
        desk.claims.move(uuid, "migration", "node-beta")
    with pytest.raises(InvalidInput, match="can't be confirmed"):
        desk.claims.confirm(uuid)
    desk.claims.finish(uuid)
    with pytest.raises(InvalidInput, match="can't be aborted"):
        desk.claims.abort(uuid)


def test_given_no_instance_when_moved_or_settled_then_it_is_not_found(desk: Desk) -> None:
    nobody = "00000000-0000-4000-8000-00000000dead"
    for call in (desk.claims.finish, desk.claims.confirm, desk.claims.revert, desk.claims.abort, desk.claims.release):
        with pytest.raises(NotFound, match="no instance"):
            call(nobody)
    with pytest.raises(NotFound, match="no instance"):
        desk.claims.move(nobody, "migration", "node-beta")
    with pytest.raises(NotFound, match="no instance"):
        desk.claims.unshelve(nobody, "node-beta")
