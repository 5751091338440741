"""Nothing of others is touched: what is Nova's, or held by somebody unknown, stays as it is."""

import datetime as dt
import logging
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from stocktake.errors import PlacementError, ProviderNotOurs
from stocktake.model.provider import Found, ProviderTree
from stocktake.placement import Guard, Scheduler
from stocktake.placement.contests import QUIET
from stocktake.placement.plan import (
    CreateProvider,
    RenameProvider,
    SetInventories,
    SetTraits,
    Step,
    foreign,
    undone,
    written,
)
from stocktake.placement.scheduler import STRICT
from tests.placement.holding import some_consumer
from tests.placement.making import child, stock, tree, with_children, with_root
from tests.placement.schedulers import EVERYBODY, Backend, Hurried, agreed, some_name

NOVA = "OWNER_NOVA"


def all_of(scheduler: Scheduler, node: ProviderTree) -> object:
    """All there is of a tree: names, generations, inventories, traits, and who holds what."""
    there = scheduler.providers(root_uuid=node.root.uuid, contents=True)
    return there, [scheduler.allocations(one.uuid) for one in there]


def of_nova(backend: Backend, node: ProviderTree) -> None:
    """Make of a node's provider what a nova-compute makes."""
    assert backend.other.write("POST", "/resource_providers", {"uuid": node.root.uuid, "name": node.root.name}).fine
    stocked = {"VCPU": {"total": 4}, "MEMORY_MB": {"total": 4096}}
    path = f"/resource_providers/{node.root.uuid}"
    backend.put(f"{path}/inventories", {"resource_provider_generation": 0, "inventories": stocked})
    backend.put(f"{path}/traits", {"resource_provider_generation": 1, "traits": [NOVA, "HW_CPU_X86_AVX"]})


def test_given_a_provider_of_novas_under_our_uuid_when_synced_then_nothing_of_it_is_written(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    of_nova(backend, node)
    before = all_of(scheduler, node)
    for wanted in (node, with_children(node, child(node, "0000:01:00.0"))):
        error = scheduler.sync({"n": wanted}, EVERYBODY)["n"]
        assert isinstance(error, ProviderNotOurs)
        assert node.root.uuid in error.what
        assert NOVA in error.what
        assert "compute_id" not in error.remedy
        assert "force" not in error.remedy
    with pytest.raises(ProviderNotOurs, match=NOVA):
        scheduler.delete_tree(node.root.uuid, EVERYBODY)
    assert all_of(scheduler, node) == before
    assert scheduler.writes == 0


def test_given_unknown_consumers_when_synced_or_deleted_then_nothing_is_written_and_the_first_are_named(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    agreed(scheduler.sync({"n": node})["n"])
    unknown = sorted(some_consumer() for _ in range(7))
    for consumer in unknown:
        backend.allocate(consumer, {node.root.uuid: {"MEMORY_MB": 1}})
    ours = some_consumer()
    backend.allocate(ours, {node.root.uuid: {"VCPU": 1}})
    before, writes = all_of(scheduler, node), scheduler.writes
    asked: list[frozenset[str]] = []

    def known(consumers: frozenset[str]) -> frozenset[str]:
        asked.append(consumers)
        return consumers & {ours}

    changed = with_root(node, inventories={**node.root.inventories, "VCPU": stock(3)})
    error = scheduler.sync({"n": changed}, Guard(known=known))["n"]
    assert isinstance(error, ProviderNotOurs)
    assert error.what.endswith(f"{', '.join(unknown[:5])} and 2 more")
    with pytest.raises(ProviderNotOurs):
        scheduler.delete_tree(node.root.uuid, Guard(known=known))
    # One query for all of them, each time.
    assert asked == [{*unknown, ours}] * 2
    assert all_of(scheduler, node) == before
    assert scheduler.writes == writes
    # What agrees asks nobody.
    assert agreed(scheduler.sync({"n": node}, Guard(known=known))["n"]).writes == 0
    assert len(asked) == 2


def test_given_a_device_that_others_hold_when_its_tree_is_deleted_then_all_of_it_stays(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    device = child(node, "0000:01:00.0")
    agreed(scheduler.sync({"n": with_children(node, device)})["n"])
    backend.allocate(some_consumer(), {device.uuid: {"CUSTOM_PCI_10DE_1DB6": 1}})
    before = all_of(scheduler, node)
    with pytest.raises(ProviderNotOurs, match=device.uuid):
        scheduler.delete_tree(node.root.uuid)
    assert all_of(scheduler, node) == before


def test_given_the_providers_uuid_typed_out_when_synced_or_deleted_then_it_is_done_once_and_logged(
    backend: Backend, scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    node = tree(some_name())
    of_nova(backend, node)
    forced, another = Guard(forced=node.root.uuid), Guard(forced=str(uuid.uuid4()))
    assert isinstance(scheduler.sync({"n": node}, another)["n"], ProviderNotOurs)
    with caplog.at_level(logging.WARNING):
        assert agreed(scheduler.sync({"n": node}, forced)["n"]).writes
    assert f"by --force-provider {node.root.uuid}" in caplog.text
    changed = with_root(node, inventories={"VCPU": stock(3)})
    assert isinstance(scheduler.sync({"n": changed})["n"], ProviderNotOurs)
    with pytest.raises(ProviderNotOurs):
        scheduler.delete_tree(node.root.uuid, another)
    scheduler.delete_tree(node.root.uuid, forced)
    assert scheduler.providers(root_uuid=node.root.uuid) == ()


@pytest.mark.parametrize("whose", ["ours", "novas", "held"])
def test_given_a_name_that_another_provider_has_when_synced_then_its_uuid_is_suggested_only_if_it_is_ours(
    backend: Backend, scheduler: Scheduler, whose: str
) -> None:
    name = some_name()
    other, node = tree(name), tree(name)
    if whose == "novas":
        of_nova(backend, other)
    else:
        agreed(scheduler.sync({"n": other})["n"])
    if whose == "held":
        backend.allocate(some_consumer(), {other.root.uuid: {"VCPU": 1}})
    error = scheduler.sync({"n": node})["n"]
    assert isinstance(error, PlacementError)
    assert f"belongs to provider {other.root.uuid}" in error.what
    assert isinstance(error, ProviderNotOurs) == (whose != "ours")
    assert ("compute_id" in error.remedy) == (whose == "ours")
    assert ("another name" in error.remedy) == (whose != "ours")


@dataclass
class Moved(Hurried):
    """The machine's clock, some time later."""

    by: dt.timedelta = dt.timedelta()

    def now(self) -> dt.datetime:
        return super().now() + self.by


def rewritten(backend: Backend, node: ProviderTree) -> None:
    """Write another inventory to a node's provider, as another writer does in each of its passes."""
    body = {"resource_provider_generation": backend.generation(node.root.uuid), "inventories": {"VCPU": {"total": 1}}}
    backend.put(f"/resource_providers/{node.root.uuid}/inventories", body)


def rid_of_traits(backend: Backend, node: ProviderTree) -> None:
    """Take away all traits, as another writer does."""
    body = {"resource_provider_generation": backend.generation(node.root.uuid), "traits": []}
    backend.put(f"/resource_providers/{node.root.uuid}/traits", body)


def renamed(backend: Backend, node: ProviderTree) -> None:
    """Give the provider another name."""
    backend.put(f"/resource_providers/{node.root.uuid}", {"name": some_name(), "parent_provider_uuid": None})


@pytest.mark.parametrize("change", [rewritten, rid_of_traits, renamed])
def test_given_another_writer_when_it_undoes_ours_twice_then_it_is_told_until_it_was_quiet_for_long(
    backend: Backend, change: Callable[[Backend, ProviderTree], None]
) -> None:
    clock = Moved()
    scheduler = backend.open(clock=clock)
    node = tree(some_name())

    def codes() -> list[str]:
        return [problem.code for problem in agreed(scheduler.sync({"n": node})["n"]).problems]

    assert codes() == codes() == []
    change(backend, node)
    # Once is an accident.
    assert codes() == codes() == []
    change(backend, node)
    (told,) = agreed(scheduler.sync({"n": node})["n"]).problems
    assert told.code == "provider-contested"
    assert node.root.uuid in told.text
    assert "since 20" in told.text
    # Not only in the pass that wrote, nor is it forgotten with what was read.
    assert agreed(scheduler.sync({"n": node})["n"]).problems == (told,)
    assert agreed(scheduler.sync({"n": node}, full=True)["n"]).problems == (told,)
    clock.by = QUIET + dt.timedelta(seconds=1)
    assert codes() == []
    scheduler.close()


def test_given_others_add_what_is_theirs_when_synced_then_nobody_contests_anything(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    for number in range(4):
        wanted = with_root(node, inventories={**node.root.inventories, "VCPU": stock(number + 1)})
        assert agreed(scheduler.sync({"n": wanted})["n"]).problems == ()
        traits = ["COMPUTE_NODE", "HW_CPU_X86_AVX", "HW_CPU_X86_AVX2", "HW_CPU_X86_SSE"][: number + 1]
        body = {"resource_provider_generation": backend.generation(node.root.uuid), "traits": traits}
        backend.put(f"/resource_providers/{node.root.uuid}/traits", body)


ROOT, OTHER = "r", "o"
FOUND = {
    one: Found(uuid=one, name=f"name-{one}", parent_uuid=None, generation=1, traits=frozenset({"T"}))
    for one in (ROOT, OTHER)
}


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ((), []),
        ((SetTraits(uuid=OTHER, generation=1, traits=frozenset()),), [ROOT, OTHER]),
        ((CreateProvider(uuid="new", name="new", parent_uuid=ROOT),), [ROOT]),
        ((RenameProvider(uuid=ROOT, name="new", parent_uuid=None),), [ROOT]),
    ],
)
def test_given_steps_then_what_they_write_is_looked_at_and_the_root_with_it(
    steps: tuple[Step, ...], expected: list[str]
) -> None:
    assert [there.uuid for there in written(steps, ROOT, FOUND)] == expected
    assert written(steps, ROOT, {}) == ()


def test_given_unknown_consumers_or_a_trait_then_a_provider_is_foreign() -> None:
    assert foreign(FOUND.values(), {}) is None
    assert foreign(FOUND.values(), {ROOT: frozenset()}) is None
    held = foreign(FOUND.values(), {OTHER: frozenset({"b", "a"})})
    assert held is not None
    assert (held.uuid, held.consumers, held.trait) == (OTHER, ("a", "b"), "")


@pytest.mark.parametrize(
    ("step", "there", "expected"),
    [
        (CreateProvider(uuid=ROOT, name="name-r", parent_uuid=None), None, True),
        (CreateProvider(uuid="new", name="new", parent_uuid=None), None, False),
        (RenameProvider(uuid=ROOT, name="name-r", parent_uuid=None), "renamed", True),
        (RenameProvider(uuid=ROOT, name="new", parent_uuid=None), "renamed", False),
        (SetTraits(uuid=ROOT, generation=1, traits=frozenset({"T"})), "bare", True),
        (SetTraits(uuid=ROOT, generation=1, traits=frozenset({"U"})), "same", False),
        (SetInventories(uuid=ROOT, generation=1, inventories={"VCPU": stock(1)}), "same", False),
        (SetInventories(uuid=ROOT, generation=1, inventories={}), "stocked", True),
        (SetInventories(uuid=ROOT, generation=1, inventories={"VCPU": stock(2)}), "stocked", False),
    ],
)
def test_given_a_step_then_it_is_said_whether_it_puts_back_what_others_changed(
    step: Step, there: str | None, *, expected: bool
) -> None:
    now = {
        "renamed": Found(uuid=ROOT, name="x", parent_uuid=None, generation=2, traits=frozenset({"T"})),
        "bare": Found(uuid=ROOT, name="name-r", parent_uuid=None, generation=2),
        "same": FOUND[ROOT],
        "stocked": Found(
            uuid=ROOT,
            name="name-r",
            parent_uuid=None,
            generation=2,
            traits=frozenset({"T"}),
            inventories={"VCPU": stock(1)},
        ),
        None: None,
    }[there]
    assert bool(undone([step], FOUND, {ROOT: now} if now is not None else {})) == expected


def test_given_a_strict_guard_then_it_knows_nobody() -> None:
    assert STRICT.known(frozenset({"c"})) == frozenset()
