"""Tables and properties of the writes that make Placement agree."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.model.provider import Found, Inventory, Provider, ProviderTree
from stocktake.model.value import replace
from stocktake.placement.desired import child_uuid
from stocktake.placement.plan import (
    CreateClass,
    CreateProvider,
    CreateTrait,
    DeleteProvider,
    RenameProvider,
    SetInventories,
    SetTraits,
    Step,
    adopted,
    droppable,
    ours,
    plan,
    settled,
)
from tests.placement.making import ROOT, child, stock, tree, with_children, with_root

NODE = tree("n", root_uuid=ROOT)
DEVICE = child(NODE, "0000:01:00.0")
NOBODY: Mapping[str, AbstractSet[str]] = {}


def there(provider: Provider, **changes: object) -> Found:
    """A wanted provider as Placement has it."""
    inventories = {
        name: replace(inventory, ratio_is_initial=False, reserved_is_initial=False)
        for name, inventory in provider.inventories.items()
    }
    found = Found(
        uuid=provider.uuid,
        name=provider.name,
        parent_uuid=provider.parent_uuid,
        generation=7,
        inventories=inventories,
        traits=provider.traits,
    )
    return replace(found, **changes)


def by_uuid(*found: Found) -> dict[str, Found]:
    return {one.uuid: one for one in found}


def simulated(found: Mapping[str, Found], steps: tuple[Step, ...]) -> dict[str, Found]:
    """Do what Placement does, and insist on what it insists on."""
    after = dict(found)
    for step in steps:
        match step:
            case CreateProvider():
                assert step.uuid not in after
                assert step.name not in {one.name for one in after.values()}
                assert step.parent_uuid is None or step.parent_uuid in after
                after[step.uuid] = Found(uuid=step.uuid, name=step.name, parent_uuid=step.parent_uuid, generation=0)
            case RenameProvider():
                after[step.uuid] = replace(after[step.uuid], name=step.name, parent_uuid=step.parent_uuid)
            case SetInventories():
                assert all(inventory.reserved <= inventory.total for inventory in step.inventories.values())
                now = after[step.uuid]
                after[step.uuid] = replace(now, inventories=step.inventories, generation=now.generation + 1)
            case SetTraits():
                now = after[step.uuid]
                after[step.uuid] = replace(now, traits=step.traits, generation=now.generation + 1)
            case DeleteProvider():
                assert step.uuid not in {one.parent_uuid for one in after.values()}
                del after[step.uuid]
            case _:
                assert step.name.startswith("CUSTOM_")
    return after


def test_given_nothing_there_when_planned_then_everything_is_made_in_order() -> None:
    wanted = with_children(with_root(NODE, traits=frozenset({"COMPUTE_NODE", "CUSTOM_GOLD"})), DEVICE)
    assert [type(step) for step in plan(wanted, {}, NOBODY).steps] == [
        CreateClass,
        CreateTrait,
        CreateProvider,
        CreateProvider,
        SetInventories,
        SetTraits,
        SetInventories,
        SetTraits,
    ]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, []),
        # Single-precision databases give back a little less.
        ({"inventories": {"VCPU": stock(8, allocation_ratio=3.9999999), "MEMORY_MB": stock(1024)}}, []),
        ({"inventories": {"VCPU": stock(8, allocation_ratio=9.0), "MEMORY_MB": stock(1024)}}, []),
        (
            {"inventories": {"VCPU": stock(8, allocation_ratio=4.0), "MEMORY_MB": stock(1024, allocation_ratio=2.0)}},
            [SetInventories],
        ),
        ({"inventories": {"VCPU": stock(9, allocation_ratio=4.0), "MEMORY_MB": stock(1024)}}, [SetInventories]),
        ({"inventories": {"VCPU": stock(8, allocation_ratio=4.0)}}, [SetInventories]),
        ({"traits": frozenset({"COMPUTE_NODE", "OWNER_NOVA"})}, []),
        ({"traits": frozenset({"COMPUTE_NODE", "COMPUTE_STATUS_DISABLED"})}, [SetTraits]),
        ({"traits": frozenset()}, [SetTraits]),
        ({"name": "old"}, [RenameProvider]),
        # A rack above us is somebody else's doing.
        ({"parent_uuid": "rack"}, []),
    ],
)
def test_given_a_difference_when_planned_then_only_that_is_written(
    changes: dict[str, object], wanted: list[type[Step]]
) -> None:
    assert [type(step) for step in plan(NODE, by_uuid(there(NODE.root, **changes)), NOBODY).steps] == wanted


def test_given_foreign_content_when_something_is_written_then_it_is_written_back() -> None:
    theirs = {"VCPU": stock(1, allocation_ratio=2.0), "CUSTOM_THEIRS": stock(3, reserved=1), "CUSTOM_OURS": stock(1)}
    found = by_uuid(there(NODE.root, inventories=theirs, traits=frozenset({"CUSTOM_THEIRS", "CUSTOM_OURS"})))
    steps = plan(NODE, found, NOBODY).steps
    assert steps == (
        SetInventories(
            uuid=ROOT,
            generation=7,
            inventories={
                # The operator's ratio stays; ours was only for the first time.
                "VCPU": stock(8, allocation_ratio=2.0),
                "MEMORY_MB": stock(1024),
                "CUSTOM_THEIRS": stock(3, reserved=1),
            },
        ),
        SetTraits(uuid=ROOT, generation=7, traits=frozenset({"CUSTOM_THEIRS", "COMPUTE_NODE"})),
    )


def test_given_a_class_of_ours_in_use_when_it_goes_then_it_stays_reserved() -> None:
    found = by_uuid(there(NODE.root, inventories={**there(NODE.root).inventories, "CUSTOM_OURS": stock(4)}))
    assert droppable(NODE, found) == {ROOT}
    made = plan(NODE, found, {ROOT: {"CUSTOM_OURS", "VCPU"}})
    (step,) = made.steps
    assert isinstance(step, SetInventories)
    assert step.inventories["CUSTOM_OURS"] == stock(4, reserved=4)
    assert [(problem.code, problem.about) for problem in made.problems] == [("inventory-in-use", "n CUSTOM_OURS")]
    assert made.kept_classes == {"CUSTOM_OURS"}
    again = plan(NODE, simulated(found, made.steps), {ROOT: {"CUSTOM_OURS"}})
    assert (again.steps, again.problems) == ((), made.problems)


@pytest.mark.parametrize(("reserved", "kept"), [(0, 0), (1, 1), (3, 2)])
def test_given_an_operator_reserved_devices_when_planned_then_they_stay_so(reserved: int, kept: int) -> None:
    device = child(NODE, "0000:01:00.0", total=2)
    held = {"CUSTOM_PCI_10DE_1DB6": stock(3, reserved=reserved)}
    found = by_uuid(there(NODE.root), there(device, inventories=held))
    (step,) = plan(with_children(NODE, device), found, NOBODY).steps
    assert isinstance(step, SetInventories)
    assert step.inventories == {"CUSTOM_PCI_10DE_1DB6": stock(2, reserved=kept)}


@pytest.mark.parametrize(
    ("used", "grandchild", "steps", "codes"),
    [
        ({}, False, [DeleteProvider], []),
        ({DEVICE.uuid: frozenset({"CUSTOM_PCI_10DE_1DB6"})}, False, [SetInventories], ["provider-in-use"]),
        ({}, True, [SetInventories], ["provider-in-use"]),
    ],
)
def test_given_a_child_of_ours_that_is_not_wanted_when_planned_then_it_goes_if_it_can(
    *, used: Mapping[str, AbstractSet[str]], grandchild: bool, steps: list[type[Step]], codes: list[str]
) -> None:
    found = by_uuid(there(NODE.root), there(DEVICE))
    if grandchild:
        found |= by_uuid(Found(uuid="g", name="g", parent_uuid=DEVICE.uuid, generation=0))
    assert droppable(NODE, found) == {DEVICE.uuid}
    assert ours(NODE, found) == {ROOT, DEVICE.uuid}
    made = plan(NODE, found, used)
    assert [type(step) for step in made.steps] == steps
    assert [problem.code for problem in made.problems] == codes
    again = plan(NODE, simulated(found, made.steps), used)
    assert (again.steps, [problem.code for problem in again.problems]) == ((), codes)


def test_given_several_children_in_use_when_they_are_not_wanted_then_each_is_closed_and_told() -> None:
    other = child(NODE, "0000:02:00.0")
    found = by_uuid(there(NODE.root), there(DEVICE), there(other))
    made = plan(NODE, found, {DEVICE.uuid: {"CUSTOM_PCI_10DE_1DB6"}, other.uuid: {"CUSTOM_PCI_10DE_1DB6"}})
    assert {step.uuid for step in made.steps if isinstance(step, SetInventories)} == {DEVICE.uuid, other.uuid}
    # Another plan finds them closed already, and tells both again.
    again = plan(
        NODE, simulated(found, made.steps), {one: {"CUSTOM_PCI_10DE_1DB6"} for one in (DEVICE.uuid, other.uuid)}
    )
    assert again.steps == ()
    assert {problem.about for problem in again.problems} == {DEVICE.name, other.name}


def test_given_units_and_steps_when_planned_then_they_are_written() -> None:
    whole = {"CUSTOM_GOLD": stock(8, min_unit=2, step_size=4)}
    steps = plan(with_root(NODE, inventories=whole), {}, NOBODY).steps
    assert [step.inventories for step in steps if isinstance(step, SetInventories)] == [whole]


@pytest.mark.parametrize(("ratio", "written"), [(1000.0001, False), (1000.1, True), (999.9, True)])
def test_given_a_large_ratio_when_it_came_back_a_little_off_then_it_is_not_written(
    ratio: float, *, written: bool
) -> None:
    wanted = with_root(NODE, inventories={"VCPU": stock(8, allocation_ratio=1000.0)})
    found = by_uuid(there(wanted.root, inventories={"VCPU": stock(8, allocation_ratio=ratio)}))
    assert bool(plan(wanted, found, NOBODY).steps) is written


def test_given_a_child_of_others_when_planned_then_it_is_left_alone() -> None:
    found = by_uuid(there(NODE.root), Found(uuid="theirs", name="n_numa0", parent_uuid=ROOT, generation=3))
    assert plan(NODE, found, NOBODY).steps == ()
    assert ours(NODE, found) == {ROOT}


def test_given_a_child_under_another_uuid_when_settled_then_its_uuid_is_taken() -> None:
    other = child(NODE, "0000:02:00.0")
    wanted = with_children(NODE, DEVICE, other)
    found = by_uuid(there(NODE.root), there(DEVICE, uuid="theirs"), there(other))
    assert [provider.uuid for provider in settled(wanted, found).providers] == [ROOT, "theirs", other.uuid]
    assert plan(wanted, found, NOBODY).steps == ()


def test_given_a_provider_of_that_name_below_another_when_settled_then_its_uuid_is_not_taken() -> None:
    wanted = with_children(NODE, DEVICE)
    found = by_uuid(there(NODE.root), there(DEVICE, uuid="theirs", parent_uuid="another"))
    assert settled(wanted, found) == wanted


def test_given_children_of_ours_and_of_others_when_compared_then_those_of_others_stand_for_ours() -> None:
    mine, other = there(DEVICE), child(NODE, "0000:02:00.0")
    theirs, root = there(other, uuid="theirs"), there(NODE.root)
    assert adopted((root, mine)) == {}
    assert adopted((root, mine, theirs)) == {other.uuid: "theirs"}
    assert adopted((root, mine, theirs, there(other))) == {}


def test_given_a_child_without_its_parent_when_planned_then_it_is_put_below_it() -> None:
    found = by_uuid(there(NODE.root), there(DEVICE, parent_uuid=None))
    assert plan(with_children(NODE, DEVICE), found, NOBODY).steps == (
        RenameProvider(uuid=DEVICE.uuid, name=DEVICE.name, parent_uuid=ROOT),
    )


CLASSES = st.sampled_from(["VCPU", "MEMORY_MB", "CUSTOM_OURS", "CUSTOM_THEIRS", "CUSTOM_BOTH"])
TRAITS = st.frozensets(st.sampled_from(["COMPUTE_NODE", "CUSTOM_OURS", "CUSTOM_THEIRS", "HW_CPU_X86_AVX"]))
TOTALS = st.integers(1, 50)


@st.composite
def inventories(draw: st.DrawFn, *, wanted: bool) -> Inventory:
    total = draw(TOTALS)
    return Inventory(
        total=total,
        reserved=draw(st.integers(0, total)),
        max_unit=total,
        allocation_ratio=draw(st.floats(0.01, 100)),
        ratio_is_initial=wanted and draw(st.integers(0, 1)) == 1,
        reserved_is_initial=wanted and draw(st.integers(0, 1)) == 1,
    )


@st.composite
def trees(draw: st.DrawFn) -> ProviderTree:
    classes = st.dictionaries(CLASSES, inventories(wanted=True), max_size=4)
    providers = []
    for name in ["n", *draw(st.lists(st.sampled_from(["n_a", "n_b", "n_c"]), unique=True))]:
        held = draw(classes)
        providers.append(
            Provider(
                uuid=ROOT if name == "n" else child_uuid(ROOT, name),
                name=name,
                parent_uuid=None if name == "n" else ROOT,
                inventories=held,
                traits=draw(TRAITS),
                own_classes=frozenset({"VCPU", "CUSTOM_OURS"}),
                own_traits=frozenset({"COMPUTE_NODE", "CUSTOM_OURS"}),
            )
        )
    return ProviderTree(providers=tuple(providers))


@st.composite
def founds(draw: st.DrawFn) -> dict[str, Found]:
    names = sorted(draw(st.sets(st.sampled_from(["n_a", "n_b", "n_c", "n_theirs"]))))
    empty = draw(st.integers(0, 9)) == 0
    result = []
    for name in [] if empty else ["n", *names]:
        known = name != "n_theirs" and (name == "n" or draw(st.integers(0, 1)) == 1)
        result.append(
            Found(
                uuid=ROOT if name == "n" else child_uuid(ROOT, name) if known else f"theirs-{name}",
                name=name,
                parent_uuid=None if name == "n" else ROOT,
                generation=draw(st.integers(0, 9)),
                inventories=draw(st.dictionaries(CLASSES, inventories(wanted=False), max_size=4)),
                traits=draw(TRAITS),
            )
        )
    return by_uuid(*result)


USED = st.frozensets(CLASSES)


@given(wanted=trees(), found=founds(), used=USED)
def test_given_anything_when_planned_and_applied_then_planning_again_gives_nothing(
    wanted: ProviderTree, found: dict[str, Found], used: frozenset[str]
) -> None:
    uses = {uuid: used & one.inventories.keys() for uuid, one in found.items()}
    made = plan(wanted, found, uses)
    after = simulated(found, made.steps)
    again = plan(wanted, after, uses)
    assert again.steps == ()
    assert again.problems == made.problems
    for provider in settled(wanted, after).providers:
        assert provider.inventories.keys() <= after[provider.uuid].inventories.keys()
        assert provider.traits <= after[provider.uuid].traits


@given(wanted=trees(), found=founds())
def test_given_foreign_content_when_planned_and_applied_then_it_survives(
    wanted: ProviderTree, found: dict[str, Found]
) -> None:
    after = simulated(found, plan(wanted, found, {}).steps)
    by_id = {provider.uuid: provider for provider in settled(wanted, found).providers}
    for uuid, before in found.items():
        if uuid not in by_id:
            # Either a leftover of ours, that may go, or another's, that stays as it was.
            assert after.get(uuid, before) == before
            assert uuid in after or uuid == child_uuid(ROOT, before.name)
            continue
        own = by_id[uuid]
        foreign = {
            name: held
            for name, held in before.inventories.items()
            if name not in own.own_classes and name not in own.inventories
        }
        assert foreign.items() <= after[uuid].inventories.items()
        assert before.traits - own.own_traits <= after[uuid].traits
