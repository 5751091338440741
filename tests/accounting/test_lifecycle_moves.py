"""What each step of a move makes of an instance and its migration, and which devices it lets go."""

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting import lifecycle
from stocktake.accounting.lifecycle import Location, MoveKind, Step
from stocktake.accounting.migrations import SETTLED, in_play, is_moving
from stocktake.errors import InvalidInput
from stocktake.model.topology import GuestTopology
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext
from tests.accounting.making import LARGE, NOON, SMALL, uuid_of
from tests.accounting.moving import HAS, HERE, KINDS, NEW, OLD, THERE, begin, moved, then
from tests.strategies import FLAVORS, GUEST_TOPOLOGIES, NEWCOMER
from tests.strategies import instances as any_instance

# Of kinds that hold both sides until they are confirmed or reverted.
TWO_SIDED: tuple[MoveKind, ...] = ("resize", "migration")
# Kind: what the instance does, and the migration's status, as in Nova.
BEGUN: dict[MoveKind, tuple[str, str]] = {
    "resize": ("resize_prep", "pre-migrating"),
    "migration": ("resize_prep", "pre-migrating"),
    "live-migration": ("migrating", "preparing"),
    "evacuation": ("rebuilding", "accepted"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vm_state", ["active", "stopped"])
def test_given_a_move_when_it_begins_then_both_sides_are_said_and_the_instance_is_where_it_was(
    kind: MoveKind, vm_state: str
) -> None:
    instance = replace(HAS, vm_state=vm_state)
    step = begin(kind, instance)
    task, status = BEGUN[kind]
    resize = kind == "resize"
    assert step.instance == replace(
        instance,
        task_state=task,
        old_flavor=SMALL if resize else None,
        new_flavor=LARGE if resize else None,
        migration_context=MigrationContext(
            migration_id=7,
            old_numa_topology=OLD,
            new_numa_topology=NEW,
            old_pci_devices=("0000:05:00.0",),
            new_pci_devices=("0000:06:00.0",),
            old_vm_state=vm_state,
        ),
    )
    assert step.migration == Migration(
        id=7,
        uuid=uuid_of(70),
        instance_uuid=HAS.uuid,
        migration_type=kind,
        status=status,
        source_compute=HERE.host,
        source_node=HERE.node,
        dest_compute=THERE.host,
        dest_node=THERE.node,
        old_instance_type_id=SMALL.id,
        new_instance_type_id=LARGE.id if resize else SMALL.id,
        claim_expires_at=NOON,
    )
    assert in_play(step.migration)
    assert step.frees == {}


@pytest.mark.parametrize(
    ("flavor", "number"), [(SMALL, None), (replace(SMALL, id=None), 1), (replace(SMALL, id=None), None)]
)
def test_given_ids_that_are_missing_when_a_move_begins_then_they_are_filled_in_alike(
    flavor: Flavor, number: int | None
) -> None:
    wanted = lifecycle.flavor_id(flavor) if number is None else number
    step = begin("resize", replace(HAS, flavor=flavor, instance_type_id=number), flavor=replace(LARGE, id=None))
    assert step.instance.instance_type_id == wanted == step.instance.flavor.id
    assert step.instance.old_flavor == step.instance.flavor
    assert moved(step).old_instance_type_id == wanted
    new = step.instance.new_flavor
    assert new is not None
    assert new.id == moved(step).new_instance_type_id == lifecycle.flavor_id(replace(LARGE, id=None))


# Kind: the state it ends in at once, the migration's status; what is let go, if anything.
@pytest.mark.parametrize(
    ("kind", "vm_state", "status", "over"),
    [
        ("resize", "resized", "finished", False),
        ("migration", "resized", "finished", False),
        ("live-migration", "active", "completed", True),
        ("evacuation", "active", "done", True),
    ],
)
def test_given_a_move_when_it_is_finished_then_the_instance_is_there_and_only_two_sided_ones_go_on(
    kind: MoveKind, vm_state: str, status: str, *, over: bool
) -> None:
    begun = begin(kind)
    step = then(begun, lifecycle.finished)
    there = replace(
        HAS, host="cn-2", node="cn-2.example.org", numa_topology=NEW, pci_devices=("0000:06:00.0",), vm_state=vm_state
    )
    if kind == "resize":
        there = replace(there, flavor=LARGE, instance_type_id=LARGE.id, old_flavor=SMALL, new_flavor=LARGE)
    if not over:
        there = replace(there, migration_context=begun.instance.migration_context)
    assert step.instance == there
    assert step.migration == replace(moved(begun), status=status, claim_expires_at=None)
    assert (status in SETTLED) is over
    assert step.frees == ({HERE: ("0000:05:00.0",)} if over else {})


@pytest.mark.parametrize("kind", TWO_SIDED)
@pytest.mark.parametrize(("type_", "old", "new"), [(None, 1, 2), (None, 1, 1)])
def test_given_a_move_without_a_type_when_it_is_finished_then_it_holds_both_sides_as_it_is_counted(
    kind: MoveKind, type_: str | None, old: int, new: int
) -> None:
    begun = begin(kind)
    typeless = replace(moved(begun), migration_type=type_, old_instance_type_id=old, new_instance_type_id=new)
    step = lifecycle.finished(begun.instance, typeless)
    assert (step.instance.vm_state, moved(step).status, step.frees) == ("resized", "finished", {})


@pytest.mark.parametrize("kind", TWO_SIDED)
@pytest.mark.parametrize("vm_state", ["active", "stopped"])
def test_given_a_finished_move_when_it_is_confirmed_then_only_the_new_side_is_left(
    kind: MoveKind, vm_state: str
) -> None:
    finished = then(begin(kind, replace(HAS, vm_state=vm_state)), lifecycle.finished)
    step = then(finished, lifecycle.confirmed)
    assert step.instance == replace(
        finished.instance, vm_state=vm_state, old_flavor=None, new_flavor=None, migration_context=None
    )
    assert step.migration == replace(moved(finished), status="confirmed")
    assert step.frees == {HERE: ("0000:05:00.0",)}


@pytest.mark.parametrize("kind", TWO_SIDED)
@pytest.mark.parametrize("vm_state", ["active", "stopped"])
def test_given_a_finished_move_when_it_is_reverted_then_the_instance_is_as_it_was(
    kind: MoveKind, vm_state: str
) -> None:
    finished = then(begin(kind, replace(HAS, vm_state=vm_state)), lifecycle.finished)
    step = then(finished, lifecycle.reverted)
    assert step.instance == replace(HAS, vm_state=vm_state)
    assert step.migration == replace(moved(finished), status="reverted")
    assert step.frees == {THERE: ("0000:06:00.0",)}


@pytest.mark.parametrize("end", [lifecycle.confirmed, lifecycle.reverted])
def test_given_a_context_without_the_state_before_when_a_move_ends_then_the_instance_is_active(
    end: Callable[[Instance, Migration], Step],
) -> None:
    """Nova's own contexts don't have it."""
    finished = then(begin(instance=replace(HAS, vm_state="stopped")), lifecycle.finished)
    context = replace(finished.instance.migration_context, old_vm_state=None)
    step = end(replace(finished.instance, migration_context=context), moved(finished))
    assert step.instance.vm_state == "active"


@pytest.mark.parametrize(
    ("kind", "status"),
    [("resize", "failed"), ("migration", "failed"), ("live-migration", "cancelled"), ("evacuation", "failed")],
)
@pytest.mark.parametrize("vm_state", ["active", "paused", "stopped"])
def test_given_a_move_when_it_is_aborted_then_the_instance_is_as_it_was_and_the_destination_is_free(
    kind: MoveKind, status: str, vm_state: str
) -> None:
    begun = begin(kind, replace(HAS, vm_state=vm_state))
    step = then(begun, lifecycle.aborted)
    assert step.instance == replace(HAS, vm_state=vm_state)
    assert step.migration == replace(moved(begun), status=status, claim_expires_at=None)
    assert step.frees == {THERE: ("0000:06:00.0",)}


STEPS: dict[str, Callable[[Instance, Migration], Step]] = {
    "finished": lifecycle.finished,
    "confirmed": lifecycle.confirmed,
    "reverted": lifecycle.reverted,
    "aborted": lifecycle.aborted,
}
STATUSES = (
    "accepted",
    "pre-migrating",
    "preparing",
    "migrating",
    "running",
    "finished",
    "error",
    *sorted(SETTLED),
    None,
)


@pytest.mark.parametrize(("name", "status"), [*itertools.product(STEPS, STATUSES)])
@pytest.mark.parametrize("kind", KINDS)
def test_given_any_status_when_a_move_goes_on_then_what_comes_out_of_turn_is_refused(
    kind: MoveKind, name: str, status: str | None
) -> None:
    begun = begin(kind)
    migration = replace(moved(begun), status=status)
    may = {"accepted", "pre-migrating", "preparing"} if name in ("finished", "aborted") else {"finished"}
    if status in may:
        assert moved(STEPS[name](begun.instance, migration)).claim_expires_at is None
        return
    with pytest.raises(InvalidInput, match=f"migration 7 is {status} and can't be {name}") as refused:
        STEPS[name](begun.instance, migration)
    assert refused.value.where == HAS.uuid
    assert refused.value.remedy


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("context", [None, MigrationContext(), MigrationContext(migration_id=8)])
def test_given_another_move_than_the_instance_is_in_when_it_goes_on_then_it_is_refused(
    name: str, context: MigrationContext | None
) -> None:
    begun = begin()
    status = "finished" if name in ("confirmed", "reverted") else "pre-migrating"
    with pytest.raises(InvalidInput, match="migration 7 is not the one that the instance is in"):
        STEPS[name](replace(begun.instance, migration_context=context), replace(moved(begun), status=status))


@pytest.mark.parametrize(
    ("ends", "old", "new", "freed"),
    [
        ([lifecycle.aborted], ("a",), ("b",), ("b",)),
        ([lifecycle.aborted], ("a",), ("a", "b"), ("b",)),
        ([lifecycle.finished, lifecycle.confirmed], ("a",), ("b",), ("a",)),
        ([lifecycle.finished, lifecycle.confirmed], ("a", "b"), ("b",), ("a",)),
        ([lifecycle.finished, lifecycle.reverted], ("a",), ("b",), ("b",)),
        ([lifecycle.finished, lifecycle.reverted], ("a",), ("a",), ()),
    ],
)
def test_given_a_resize_on_the_same_node_when_it_ends_then_a_device_of_both_sides_stays(
    ends: list[Callable[[Instance, Migration], Step]],
    old: tuple[str, ...],
    new: tuple[str, ...],
    freed: tuple[str, ...],
) -> None:
    step = then(begin(instance=replace(HAS, pci_devices=old), dest=HERE, devices=new), *ends)
    assert step.frees == {HERE: freed}
    elsewhere = then(begin(instance=replace(HAS, pci_devices=old), devices=new), *ends)
    # Elsewhere the same address is another device.
    assert elsewhere.frees in ({HERE: old}, {THERE: new})


def test_given_a_resize_on_the_same_node_when_read_back_and_aborted_then_its_old_devices_are_left() -> None:
    """The ledger says of the instance all that it holds on its node, of both sides."""
    begun = begin(dest=HERE)
    read = replace(begun.instance, pci_devices=("0000:05:00.0", "0000:06:00.0"))
    assert lifecycle.aborted(read, moved(begun)).instance == HAS


@given(
    any_instance(NEWCOMER, here=True),
    st.sampled_from(KINDS),
    st.sampled_from([HERE, THERE]),
    FLAVORS,
    st.none() | GUEST_TOPOLOGIES,
)
def test_given_any_move_when_it_is_taken_back_then_the_instance_is_as_it_was_but_for_ids_filled_in(
    drawn: Instance, kind: MoveKind, dest: Location, flavor: Flavor, numa: GuestTopology | None
) -> None:
    settled = {"old_flavor": None, "new_flavor": None, "migration_context": None, "task_state": None}
    before = replace(drawn, vm_state="active", pci_devices=("a",), **settled)
    begun = begin(
        kind, before, dest, flavor=replace(flavor, id=9) if kind == "resize" else None, numa=numa, devices=("b",)
    )
    number = lifecycle.flavor_id(before.flavor) if before.instance_type_id is None else before.instance_type_id
    filled = replace(before, instance_type_id=number)
    aborted = then(begun, lifecycle.aborted)
    assert aborted.instance == filled
    assert aborted.frees == {dest: ("b",)}
    there = then(begun, lifecycle.finished)
    if kind in TWO_SIDED:
        assert then(there, lifecycle.reverted).instance == filled
        there = then(there, lifecycle.confirmed)
    grown = {"flavor": replace(flavor, id=9), "instance_type_id": 9} if kind == "resize" else {}
    assert there.instance == replace(
        filled, host=dest.host, node=dest.node, numa_topology=numa, pci_devices=("b",), **grown
    )
    assert there.frees == {HERE: ("a",)}
    assert not in_play(moved(there))
    assert not is_moving(there.instance)
