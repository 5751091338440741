"""What a claim and its end make of an instance: which states may, and which are refused."""

import itertools

import pytest
from hypothesis import given

from stocktake.accounting import lifecycle
from stocktake.accounting.lifecycle import Location, MoveKind
from stocktake.accounting.migrations import is_moving
from stocktake.errors import InvalidInput
from stocktake.model.value import replace
from stocktake.model.workload import Flavor
from tests.accounting.making import LARGE, NOON, SMALL, an_instance
from tests.accounting.moving import HAS, HERE, KINDS, NEW, THERE, begin
from tests.strategies import FLAVORS

VM_STATES = (
    "active",
    "stopped",
    "paused",
    "suspended",
    "resized",
    "building",
    "error",
    "shelved",
    "shelved_offloaded",
    "soft-delete",
    "deleted",
    None,
)
TASKS = (None, "spawning", "resize_prep", "migrating", "rebuilding", "deleting")
# What each kind may begin from; the task must be none.
MAY_MOVE: dict[MoveKind, set[str | None]] = {
    "resize": {"active", "stopped"},
    "migration": {"active", "stopped"},
    "live-migration": {"active", "paused"},
    "evacuation": {"active", "stopped"},
}


@pytest.mark.parametrize(("kind", "vm_state", "task_state"), [*itertools.product(KINDS, VM_STATES, TASKS)])
def test_given_any_state_when_a_move_is_checked_then_only_those_that_can_be_counted_may(
    kind: MoveKind, vm_state: str | None, task_state: str | None
) -> None:
    instance = replace(HAS, vm_state=vm_state, task_state=task_state)
    flavor = LARGE if kind == "resize" else None
    if vm_state in MAY_MOVE[kind] and task_state is None:
        lifecycle.check_move(instance, kind, HERE, THERE, flavor)
        assert is_moving(begin(kind, instance).instance)
        return
    with pytest.raises(InvalidInput, match=f"can't begin a {kind}") as refused:
        lifecycle.check_move(instance, kind, HERE, THERE, flavor)
    assert refused.value.where == HAS.uuid
    assert (vm_state or "of no state") in refused.value.what
    assert (task_state or "") in refused.value.what
    assert "without a task" in refused.value.remedy


@pytest.mark.parametrize(
    ("kind", "dest", "flavor", "error"),
    [
        ("resize", HERE, LARGE, None),
        ("resize", THERE, LARGE, None),
        ("resize", THERE, None, "needs a flavor"),
        ("resize", THERE, SMALL, "is the one that it has"),
        ("resize", THERE, replace(SMALL, vcpus=9), "is the one that it has"),
        ("resize", THERE, replace(LARGE, id=None), None),
        ("migration", THERE, None, None),
        ("migration", THERE, LARGE, "a migration keeps the flavor"),
        ("live-migration", THERE, None, None),
        ("live-migration", THERE, LARGE, "a live-migration keeps the flavor"),
        ("live-migration", HERE, None, "goes to another node than cn-1.example.org"),
        ("evacuation", THERE, None, None),
        ("evacuation", THERE, SMALL, "an? evacuation keeps the flavor"),
        ("evacuation", HERE, None, "goes to another node than cn-1.example.org"),
        # The same name at another service is another node.
        ("live-migration", Location(host="cn-2", node=HERE.node), None, None),
    ],
)
def test_given_a_destination_and_a_flavor_when_a_move_is_checked_then_they_have_to_go_with_its_kind(
    kind: MoveKind, dest: Location, flavor: Flavor | None, error: str | None
) -> None:
    if error is None:
        lifecycle.check_move(HAS, kind, HERE, dest, flavor)
        return
    with pytest.raises(InvalidInput, match=error):
        lifecycle.check_move(HAS, kind, HERE, dest, flavor)


@pytest.mark.parametrize("named", [None, "small", "another name"])
def test_given_a_flavor_without_an_id_when_resized_to_the_same_then_that_is_seen_by_what_it_is(
    named: str | None,
) -> None:
    bare = replace(SMALL, id=None)
    instance = replace(HAS, flavor=bare, instance_type_id=None)
    with pytest.raises(InvalidInput, match="is the one that it has"):
        lifecycle.check_move(instance, "resize", HERE, THERE, replace(bare, name=named))
    lifecycle.check_move(instance, "resize", HERE, THERE, replace(bare, extra_specs={"hw:numa_nodes": "1"}))


def test_given_an_instance_whose_two_ids_differ_when_resized_then_the_one_that_is_counted_by_decides() -> None:
    odd = replace(HAS, instance_type_id=5)
    lifecycle.check_move(odd, "resize", HERE, THERE, replace(LARGE, id=SMALL.id))
    with pytest.raises(InvalidInput, match="is the one that it has"):
        lifecycle.check_move(odd, "resize", HERE, THERE, replace(LARGE, id=5))


@given(FLAVORS, FLAVORS)
def test_given_flavors_when_they_have_no_id_then_equal_ones_share_one_that_a_database_can_hold(
    one: Flavor, other: Flavor
) -> None:
    assert lifecycle.flavor_id(one) == one.id
    bare, another = replace(one, id=None, name="x"), replace(other, id=None, name="y")
    assert 0 <= lifecycle.flavor_id(bare) < 2**31
    assert (lifecycle.flavor_id(bare) == lifecycle.flavor_id(another)) is (replace(bare, name="y") == another)


BUILDING = an_instance(vm_state="building", task_state="spawning", claim_expires_at=NOON)
SHELVED = an_instance(host=None, node=None, vm_state="shelved_offloaded")


@pytest.mark.parametrize(("vm_state", "task_state"), [*itertools.product(VM_STATES, TASKS)])
def test_given_any_state_when_its_machine_is_there_then_only_what_was_claimed_is_settled(
    vm_state: str | None, task_state: str | None
) -> None:
    instance = replace(BUILDING, vm_state=vm_state, task_state=task_state)
    if vm_state == "building" or (vm_state, task_state) == ("shelved_offloaded", "spawning"):
        done = replace(BUILDING, vm_state="active", task_state=None, power_state=1, claim_expires_at=None)
        assert lifecycle.built(instance) == done
        return
    with pytest.raises(InvalidInput, match="no claim of a build that could be kept"):
        lifecycle.built(instance)


@pytest.mark.parametrize(("vm_state", "task_state"), [*itertools.product(VM_STATES, TASKS)])
def test_given_any_state_when_unshelved_then_only_what_was_shelved_and_offloaded_may(
    vm_state: str | None, task_state: str | None
) -> None:
    instance = replace(SHELVED, vm_state=vm_state, task_state=task_state)
    if (vm_state, task_state) == ("shelved_offloaded", None):
        claimed = lifecycle.unshelving(instance, THERE, NEW, NOON)
        place = {"host": THERE.host, "node": THERE.node}
        assert claimed == replace(instance, **place, task_state="spawning", numa_topology=NEW, claim_expires_at=NOON)
        return
    with pytest.raises(InvalidInput, match="can't be unshelved"):
        lifecycle.unshelving(instance, THERE, NEW, NOON)


def test_given_a_claim_of_an_unshelve_when_it_is_given_back_then_the_instance_is_nowhere_as_it_was() -> None:
    assert lifecycle.reshelved(lifecycle.unshelving(SHELVED, THERE, NEW, NOON)) == SHELVED
    assert lifecycle.reshelved(replace(SHELVED, power_state=1)).power_state is None
    there = lifecycle.built(lifecycle.unshelving(SHELVED, THERE, NEW, NOON))
    assert (there.vm_state, there.host, there.numa_topology) == ("active", THERE.host, NEW)


@pytest.mark.parametrize(("task_state", "state"), [(None, "active"), ("rebooting", "active, rebooting")])
def test_given_an_instance_that_is_not_offloaded_when_unshelved_then_the_text_has_its_state(
    task_state: str | None, state: str
) -> None:
    with pytest.raises(InvalidInput, match=f"the instance is {state} and "):
        lifecycle.unshelving(an_instance(task_state=task_state), THERE, NEW, NOON)
