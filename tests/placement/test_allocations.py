"""Allocations of one's own, over the embedded Placement and over a real one by HTTP: all of it or none, and why not."""

import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from stocktake.errors import PlacementConflict
from stocktake.model.provider import NOBODY, Allocation, ConsumerKind, ProviderTree
from stocktake.model.value import replace
from stocktake.placement import NoScheduler, Scheduler
from stocktake.placement.client import PlacementClient
from tests.placement.making import child, stock, tree, with_children, with_root
from tests.placement.schedulers import EVERYBODY, Backend, before_writes, seen, some_name

DEVICE = "CUSTOM_PCI_10DE_1DB6"


@pytest.fixture
def node(scheduler: Scheduler) -> ProviderTree:
    """A node that Placement knows: 8 VCPU sold four times, 1,024 MEMORY_MB."""
    made = tree(some_name())
    scheduler.sync({"n": made})
    return made


def some_consumer() -> str:
    return str(uuid.uuid4())


def of(
    consumer: str, resources: Mapping[str, Mapping[str, int]], kind: ConsumerKind = "INSTANCE", **more: str
) -> Allocation:
    return Allocation(consumer=consumer, kind=kind, resources=resources, **more)


def test_given_a_new_consumer_when_allocated_then_it_took_one_request(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    consumer, amounts = some_consumer(), {"VCPU": 2, "MEMORY_MB": 512}
    requests = scheduler.requests
    assert scheduler.allocate([of(consumer, {node.root.uuid: amounts}, project_id="blue", user_id="ann")]) == ()
    assert scheduler.requests - requests == 1
    there = seen(backend, consumer)
    assert there.resources == {node.root.uuid: amounts}
    assert (there.kind, there.owner) == ("INSTANCE", ("blue", "ann"))


def test_given_an_instance_of_nobody_when_allocated_then_it_has_the_project_that_placement_gives_such(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    consumer = some_consumer()
    assert scheduler.allocate([of(consumer, {node.root.uuid: {"VCPU": 1}}, "MIGRATION")]) == ()
    assert (seen(backend, consumer).kind, seen(backend, consumer).owner) == ("MIGRATION", (NOBODY, NOBODY))


def test_given_a_consumer_that_holds_something_when_allocated_then_it_holds_exactly_what_is_wanted(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    other, consumer = tree(some_name()), some_consumer()
    scheduler.sync({"o": other})
    backend.allocate(consumer, {node.root.uuid: {"VCPU": 4, "MEMORY_MB": 100}, other.root.uuid: {"VCPU": 1}})
    assert scheduler.allocate([of(consumer, {node.root.uuid: {"VCPU": 3}})]) == ()
    assert seen(backend, consumer).resources == {node.root.uuid: {"VCPU": 3}}
    assert scheduler.allocations(other.root.uuid) == {}


@pytest.mark.parametrize("held", [True, False])
def test_given_nothing_wanted_when_allocated_then_nothing_is_held_and_it_may_be_given_again(
    backend: Backend, scheduler: Scheduler, node: ProviderTree, *, held: bool
) -> None:
    consumer, wanted = some_consumer(), {node.root.uuid: {"VCPU": 1}}
    if held:
        backend.allocate(consumer, wanted)
    requests = scheduler.requests
    assert scheduler.allocate([of(consumer, {})]) == ()
    assert scheduler.requests - requests == 1
    assert seen(backend, consumer).resources == {}
    requests = scheduler.requests
    assert scheduler.allocate([of(consumer, wanted)]) == ()
    assert scheduler.requests - requests == 1


def test_given_several_of_which_some_hold_nothing_and_want_nothing_when_allocated_then_placement_keeps_no_trace(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    new, idle, gone = (some_consumer() for _ in range(3))
    wanted = {node.root.uuid: {"VCPU": 1}}
    backend.allocate(gone, wanted)
    assert scheduler.allocate([of(new, wanted), of(idle, {}), of(gone, {})]) == ()
    assert [seen(backend, one).resources for one in (new, idle, gone)] == [wanted, {}, {}]
    assert scheduler.allocate([of(idle, {}), of(gone, {})]) == ()
    # A consumer that Placement kept without allocations could not be made new.
    for one in (idle, gone):
        backend.allocate(one, wanted)


def test_given_a_consumer_that_a_killed_placement_left_empty_when_allocated_then_it_is_given_all_the_same(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    consumer, wanted = some_consumer(), {node.root.uuid: {"VCPU": 1}}
    backend.allocate(consumer, {})
    assert seen(backend, consumer).generation is None
    assert scheduler.allocate([of(consumer, wanted)]) == ()
    assert seen(backend, consumer).resources == wanted


def test_given_another_writer_in_between_when_allocated_then_it_is_read_again_and_done(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    consumer, root = some_consumer(), node.root.uuid

    def bump() -> None:
        there = seen(backend, consumer)
        body = {"allocations": {root: {"resources": {"VCPU": 7}}}, "project_id": "p", "user_id": "u"}
        backend.put(
            f"/allocations/{consumer}",
            {**body, "consumer_generation": there.generation, "consumer_type": "INSTANCE"},
        )

    before_writes(scheduler, bump, bump, bump)
    assert scheduler.allocate([of(consumer, {root: {"VCPU": 2}})]) == ()
    assert seen(backend, consumer).resources == {root: {"VCPU": 2}}


def test_given_a_consumer_that_is_gone_in_between_when_allocated_then_the_next_try_makes_it_new(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    consumer, wanted = some_consumer(), {node.root.uuid: {"VCPU": 2}}
    backend.allocate(consumer, {node.root.uuid: {"VCPU": 1}})
    writes: list[str] = []

    def gone() -> None:
        writes.append("lost")
        backend.other.write("DELETE", f"/allocations/{consumer}")

    # The first write meets it, so that it is read before the second.
    before_writes(scheduler, lambda: writes.append("taken for new"), gone, *[lambda: writes.append("again")] * 3)
    assert scheduler.allocate([of(consumer, wanted)]) == ()
    assert seen(backend, consumer).resources == wanted
    assert writes == ["taken for new", "lost", "again"]


def test_given_somebody_who_always_writes_first_when_allocated_then_it_ends_with_a_conflict(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    one, other, root = some_consumer(), some_consumer(), node.root.uuid
    taken = [0]

    def bump() -> None:
        taken[0] += 1
        there = seen(backend, one)
        body = {"allocations": {root: {"resources": {"VCPU": taken[0]}}}, "project_id": "p", "user_id": "u"}
        backend.put(
            f"/allocations/{one}", {**body, "consumer_generation": there.generation, "consumer_type": "INSTANCE"}
        )

    before_writes(scheduler, *[bump] * 20)
    with pytest.raises(PlacementConflict):
        scheduler.allocate([of(one, {root: {"VCPU": 2}}), of(other, {root: {"VCPU": 2}})])
    assert taken[0] == 5
    # All or none.
    assert seen(backend, other).resources == {}


def test_given_a_full_node_when_an_instance_leaves_then_its_migration_holds_the_room_in_one_write(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    there = tree(some_name())
    scheduler.sync({"t": there})
    instance, migration, all_of_it = some_consumer(), some_consumer(), {"MEMORY_MB": 1024, "VCPU": 8}
    assert scheduler.allocate([of(instance, {node.root.uuid: all_of_it})]) == ()
    left = of(migration, {node.root.uuid: all_of_it}, "MIGRATION")
    writes = scheduler.writes
    assert scheduler.allocate([of(instance, {there.root.uuid: all_of_it}), left]) == ()
    assert scheduler.writes - writes == 1
    assert seen(backend, instance).resources == {there.root.uuid: all_of_it}
    assert seen(backend, migration).resources == {node.root.uuid: all_of_it}
    assert (seen(backend, instance).kind, seen(backend, migration).kind) == ("INSTANCE", "MIGRATION")
    # The move is reverted: back again, as one.
    assert scheduler.allocate([of(instance, {node.root.uuid: all_of_it}), replace(left, resources={})]) == ()
    assert scheduler.allocations(node.root.uuid) == {instance: {node.root.uuid: all_of_it}}
    assert scheduler.allocations(there.root.uuid) == {}


def test_given_no_room_at_the_destination_when_an_instance_is_to_leave_then_all_stays_as_it_was(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    there = tree(some_name())
    scheduler.sync({"t": there})
    instance, migration, squatter = (some_consumer() for _ in range(3))
    half = {"MEMORY_MB": 600}
    backend.allocate(instance, {node.root.uuid: half})
    backend.allocate(squatter, {there.root.uuid: half})
    (lack,) = scheduler.allocate(
        [of(instance, {there.root.uuid: half}), of(migration, {node.root.uuid: half}, "MIGRATION")]
    )
    assert (lack.what, lack.asked, lack.free, lack.total) == ("MEMORY_MB", 600, 424, 1024)
    assert seen(backend, instance).resources == {node.root.uuid: half}
    assert seen(backend, migration).resources == {}
    assert scheduler.allocations(there.root.uuid).keys() == {squatter}


NUMBERS: tuple[tuple[str, dict[str, int], list[tuple[str, float, float, float]]], ...] = (
    ("one class", {"MEMORY_MB": 600, "VCPU": 1}, [("MEMORY_MB", 600, 524, 1024)]),
    ("every class", {"MEMORY_MB": 600, "VCPU": 9}, [("MEMORY_MB", 600, 524, 1024), ("VCPU", 9, 8, 32)]),
    ("a class that it has not", {"PCPU": 2, "VCPU": 1}, [("PCPU", 2, 0, 0)]),
    ("a class that nobody has", {"CUSTOM_NOWHERE": 1, "VCPU": 1}, [("CUSTOM_NOWHERE", 1, 0, 0)]),
    ("steps", {"DISK_GB": 7}, [("DISK_GB", 7, 80, 80)]),
    ("a reserve", {"DISK_GB": 85}, [("DISK_GB", 85, 80, 80)]),
)


@pytest.mark.parametrize(("case", "asked", "missing"), NUMBERS, ids=[case for case, _, _ in NUMBERS])
def test_given_too_little_when_allocated_then_every_class_that_lacks_is_named_with_its_numbers(
    backend: Backend,
    scheduler: Scheduler,
    case: str,
    asked: dict[str, int],
    missing: list[tuple[str, float, float, float]],
) -> None:
    name = some_name()
    node = tree(name)
    disk = stock(100, reserved=20, step_size=5)
    node = with_root(node, inventories={**node.root.inventories, "DISK_GB": disk})
    scheduler.sync({name: node})
    squatter, consumer = some_consumer(), some_consumer()
    backend.allocate(squatter, {node.root.uuid: {"MEMORY_MB": 500, "VCPU": 4}})
    lacks = scheduler.allocate([of(consumer, {node.root.uuid: asked})])
    assert [(lack.what, lack.asked, lack.free, lack.total) for lack in lacks] == missing
    assert all(node.root.uuid in lack.text and str(int(lack.asked)) in lack.text for lack in lacks)
    assert scheduler.allocations(node.root.uuid).keys() == {squatter}


def test_given_a_provider_that_is_not_there_when_allocated_then_it_is_said_to_have_nothing(
    scheduler: Scheduler, node: ProviderTree
) -> None:
    nowhere = str(uuid.uuid4())
    lacks = scheduler.allocate([of(some_consumer(), {nowhere: {"VCPU": 1}, node.root.uuid: {"VCPU": 1}})])
    assert [(lack.what, lack.asked, lack.free, lack.total) for lack in lacks] == [("VCPU", 1, 0, 0)]
    assert nowhere in lacks[0].text


def test_given_several_consumers_when_they_lack_together_then_the_sum_is_what_is_asked(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    grower, new = some_consumer(), some_consumer()
    backend.allocate(grower, {node.root.uuid: {"MEMORY_MB": 200}})
    wanted = [of(one, {node.root.uuid: {"MEMORY_MB": 600}}) for one in (grower, new)]
    (lack,) = scheduler.allocate(wanted)
    assert (lack.asked, lack.free, lack.total) == (1200, 1024, 1024)


def test_given_a_node_that_shrank_below_its_use_when_allocated_then_what_was_held_may_be_kept_and_not_more(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    consumer, root = some_consumer(), node.root.uuid
    backend.allocate(consumer, {root: {"MEMORY_MB": 1000}})
    small = with_root(node, inventories={**node.root.inventories, "MEMORY_MB": stock(1024, reserved=624)})
    scheduler.sync({"n": small}, EVERYBODY)
    assert scheduler.allocate([of(consumer, {root: {"MEMORY_MB": 900}})]) == ()
    (lack,) = scheduler.allocate([of(consumer, {root: {"MEMORY_MB": 1000}})])
    assert (lack.asked, lack.free, lack.total) == (1000, 400, 400)
    assert seen(backend, consumer).resources == {root: {"MEMORY_MB": 900}}


@pytest.mark.parametrize("synced", [True, False])
def test_given_a_device_under_anothers_uuid_when_allocated_then_that_provider_gives_it(
    backend: Backend, scheduler: Scheduler, node: ProviderTree, *, synced: bool
) -> None:
    theirs, consumer = str(uuid.uuid4()), some_consumer()
    device = child(node, "0000:01:00.0")
    body = {"uuid": theirs, "name": device.name, "parent_provider_uuid": node.root.uuid}
    assert backend.other.write("POST", "/resource_providers", body).fine
    scheduler.sync({"n": with_children(node, device)})
    asked = scheduler if synced else backend.open()
    wanted = {node.root.uuid: {"VCPU": 1}, device.uuid: {DEVICE: 1}}
    assert asked.allocate([of(consumer, wanted)]) == ()
    assert seen(backend, consumer).resources == {node.root.uuid: {"VCPU": 1}, theirs: {DEVICE: 1}}
    (lack,) = asked.allocate([of(some_consumer(), wanted)])
    assert (lack.what, lack.asked, lack.free, lack.total) == (DEVICE, 1, 0, 1)


@pytest.mark.parametrize("version", [(1, 28), (1, 34), (1, 37)])
def test_given_a_placement_without_consumer_types_when_allocated_then_it_works_and_a_newer_one_adds_them(
    backend: Backend, scheduler: Scheduler, node: ProviderTree, version: tuple[int, int]
) -> None:
    old = backend.open()
    assert isinstance(old, PlacementClient)
    old._session._version = version
    one, other, wanted = some_consumer(), some_consumer(), {node.root.uuid: {"VCPU": 1}}
    assert old.allocate([of(one, wanted)]) == ()
    assert old.allocate([of(one, wanted), of(other, wanted, "MIGRATION")]) == ()
    assert [seen(backend, consumer).kind for consumer in (one, other)] == ["unknown", "unknown"]
    assert scheduler.allocate([of(one, wanted), of(other, wanted, "MIGRATION")]) == ()
    assert [seen(backend, consumer).kind for consumer in (one, other)] == ["INSTANCE", "MIGRATION"]


def test_given_room_that_is_freed_while_the_refusal_is_looked_into_when_allocated_then_it_is_given(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    squatter, consumer = some_consumer(), some_consumer()
    backend.allocate(squatter, {node.root.uuid: {"MEMORY_MB": 1000}})
    assert isinstance(scheduler, PlacementClient)
    free = scheduler._session.get
    acts: list[Callable[[], object]] = [lambda: backend.other.write("DELETE", f"/allocations/{squatter}")]

    def interrupted(path: str) -> object:
        if acts:
            acts.pop()()
        return free(path)

    scheduler._session.get = interrupted  # type: ignore[method-assign, assignment]
    assert scheduler.allocate([of(consumer, {node.root.uuid: {"MEMORY_MB": 1000}})]) == ()
    assert scheduler.allocations(node.root.uuid).keys() == {consumer}


def test_given_many_who_claim_at_once_when_there_is_room_for_some_then_so_many_have_it_and_the_rest_is_told(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    wanted = [of(some_consumer(), {node.root.uuid: {"MEMORY_MB": 100}}) for _ in range(16)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: scheduler.allocate([one]), wanted))
    refused = [lacks for lacks in answers if lacks]
    assert len(refused) == 6
    assert {(lack.what, lack.free) for lacks in refused for lack in lacks} == {("MEMORY_MB", 24)}
    assert len(scheduler.allocations(node.root.uuid)) == 10


def test_given_many_who_write_one_consumer_at_once_then_one_of_them_has_the_last_word(
    backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    consumer = some_consumer()
    wanted = [of(consumer, {node.root.uuid: {"VCPU": number}}) for number in range(1, 5)]

    def write(one: Allocation) -> bool:
        try:
            return scheduler.allocate([one]) == ()
        except PlacementConflict:
            return False

    with ThreadPoolExecutor(4) as pool:
        done = [one for one, fine in zip(wanted, pool.map(write, wanted), strict=True) if fine]
    assert seen(backend, consumer).resources in [one.resources for one in done]


def test_given_no_scheduler_when_allocated_then_it_agrees() -> None:
    scheduler = NoScheduler()
    assert scheduler.allocate([of("c", {"p": {"VCPU": 10**6}})]) == ()
    assert scheduler.requests == 0
