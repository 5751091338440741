"""What becomes of allocations when Placement misbehaves, goes away, or is written to by others all the time."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.errors import PlacementConflict, PlacementError, PlacementUnreachable
from stocktake.model.provider import Allocation, Holdings, ProviderTree
from stocktake.model.value import replace
from stocktake.placement import Scheduler, SyncedAllocations
from tests.placement.making import tree
from tests.placement.schedulers import Backend, agreed, http_backend, seen, some_name
from tests.servers.placement import PlacementServer, private_placement

CONCURRENT = "placement.concurrent_update"


@pytest.fixture
def server(placement_server: PlacementServer) -> Iterator[PlacementServer]:
    yield placement_server
    placement_server.behave()


@pytest.fixture
def backend(server: PlacementServer) -> Iterator[Backend]:
    made = http_backend(server)
    yield made
    made.other.close()


@pytest.fixture
def scheduler(backend: Backend) -> Iterator[Scheduler]:
    opened = backend.open()
    yield opened
    opened.close()


@pytest.fixture
def node(scheduler: Scheduler) -> ProviderTree:
    made = tree(some_name())
    agreed(scheduler.sync({"n": made})["n"])
    return made


def one_vcpu(node: ProviderTree, consumer: str | None = None) -> Allocation:
    return Allocation(consumer=consumer or str(uuid.uuid4()), resources={node.root.uuid: {"VCPU": 1}})


def holdings(node: ProviderTree, *held: Allocation) -> Holdings:
    return Holdings(tree=node, allocations={one.consumer: one for one in held})


def knows_all(name: str, unknown: frozenset[str]) -> frozenset[str]:
    del name
    return unknown


@pytest.mark.parametrize("status", [500, 503])
def test_given_an_error_5xx_when_allocated_then_it_is_unreachable_and_nothing_is_held(
    server: PlacementServer, backend: Backend, scheduler: Scheduler, node: ProviderTree, status: int
) -> None:
    wanted = one_vcpu(node)
    server.misbehave("PUT", "/allocations/", status=status, times=1)
    with pytest.raises(PlacementUnreachable, match=str(status)):
        scheduler.allocate([wanted])
    assert seen(backend, wanted.consumer).resources == {}
    assert scheduler.allocate([wanted]) == ()


def test_given_a_conflict_once_when_allocated_then_it_is_read_and_done(
    server: PlacementServer, backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    several = [one_vcpu(node), one_vcpu(node)]
    server.misbehave("POST", "/allocations", status=409, code=CONCURRENT, times=2)
    assert scheduler.allocate(several) == ()
    assert all(seen(backend, one.consumer).resources for one in several)


def test_given_conflicts_for_ever_when_allocated_then_it_gives_up_after_bounded_tries(
    server: PlacementServer, scheduler: Scheduler, node: ProviderTree
) -> None:
    server.misbehave("PUT", "/allocations/", status=409, code=CONCURRENT)
    requests = scheduler.requests
    with pytest.raises(PlacementConflict):
        scheduler.allocate([one_vcpu(node)])
    assert scheduler.requests - requests == 5 + 4


def test_given_the_answer_is_lost_when_allocated_again_then_it_holds_that_once(
    server: PlacementServer, backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    wanted = one_vcpu(node)
    # Somebody did it, and nobody heard.
    backend.allocate(wanted.consumer, {node.root.uuid: {"VCPU": 1}})
    server.misbehave("PUT", "/allocations/", how="close", times=1)
    with pytest.raises(PlacementUnreachable):
        scheduler.allocate([wanted])
    assert scheduler.allocate([wanted]) == ()
    assert seen(backend, wanted.consumer).resources == wanted.resources


def test_given_it_hangs_when_allocated_then_the_time_limit_ends_it(
    server: PlacementServer, backend: Backend, node: ProviderTree
) -> None:
    scheduler = backend.open(replace(backend.section, timeout_s=0.5))
    scheduler.ping()
    server.misbehave("PUT", "/allocations/", how="hang")
    # It hangs until the end of the test: without the limit this would never come back.
    with pytest.raises(PlacementUnreachable):
        scheduler.allocate([one_vcpu(node)])
    scheduler.close()


@pytest.mark.parametrize(("method", "path"), [("PUT", "/allocations/"), ("GET", "/inventories")])
def test_given_a_refusal_that_is_not_for_room_when_allocated_then_its_words_are_told(
    server: PlacementServer, scheduler: Scheduler, node: ProviderTree, method: str, path: str
) -> None:
    server.misbehave(method, path, status=403)
    too_much = Allocation(consumer=str(uuid.uuid4()), resources={node.root.uuid: {"VCPU": 10**6}})
    with pytest.raises(PlacementError, match="403: told to"):
        scheduler.allocate([too_much])


def test_given_a_consumer_that_is_no_uuid_when_allocated_then_it_is_an_error_and_no_want_of_room(
    scheduler: Scheduler, node: ProviderTree
) -> None:
    with pytest.raises(PlacementError, match="400"):
        scheduler.allocate([one_vcpu(node, "no-uuid")])


def test_given_one_consumer_that_others_keep_changing_when_healed_then_it_is_tried_again_and_the_rest_is_right(
    server: PlacementServer, backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    stuck, fine = one_vcpu(node), one_vcpu(node)
    for one in (stuck, fine):
        backend.allocate(one.consumer, {node.root.uuid: {"VCPU": 2}})
    server.misbehave("PUT", f"/allocations/{stuck.consumer}", status=409, code=CONCURRENT)
    answer = scheduler.sync_allocations({"n": holdings(node, stuck, fine)}, knows_all)["n"]
    assert isinstance(answer, SyncedAllocations)
    assert [(problem.code, problem.about) for problem in answer.problems] == [("allocation-refused", stuck.consumer)]
    assert seen(backend, fine.consumer).resources == fine.resources
    server.behave()
    assert scheduler.sync_allocations({"n": holdings(node, stuck, fine)}, knows_all) == {
        "n": SyncedAllocations(writes=1)
    }
    assert seen(backend, stuck.consumer).resources == stuck.resources


def test_given_an_unknown_consumer_that_others_keep_changing_when_healed_then_only_that_node_waits(
    server: PlacementServer, backend: Backend, scheduler: Scheduler, node: ProviderTree
) -> None:
    unknown, other = one_vcpu(node), tree(some_name())
    scheduler.sync({"n": node, "o": other})
    backend.allocate(unknown.consumer, unknown.resources)  # type: ignore[arg-type]
    server.misbehave("PUT", f"/allocations/{unknown.consumer}", status=409, code=CONCURRENT)
    nodes = {"n": holdings(node), "o": holdings(other, one_vcpu(other))}
    answers = scheduler.sync_allocations(nodes, knows_all)
    assert isinstance(answers["n"], PlacementConflict)
    assert answers["o"] == SyncedAllocations(writes=1)
    server.behave()
    assert scheduler.sync_allocations({"n": nodes["n"]}, knows_all) == {"n": SyncedAllocations(writes=1)}


def test_given_errors_500_for_all_when_healed_then_only_the_first_few_are_asked_and_the_settled_are_fine(
    server: PlacementServer, scheduler: Scheduler
) -> None:
    trees = {name: tree(name) for name in (some_name() for _ in range(30))}
    settled = list(trees)[:5]
    scheduler.sync(trees)
    nodes = {name: holdings(node) for name, node in trees.items()}
    scheduler.sync_allocations({name: nodes[name] for name in settled}, knows_all)
    server.misbehave("GET", "/allocations", status=500)
    requests = scheduler.requests
    answers = scheduler.sync_allocations(nodes, knows_all)
    assert scheduler.requests - requests == 3
    assert answers.keys() == nodes.keys()
    assert {name for name, answer in answers.items() if isinstance(answer, SyncedAllocations)} == set(settled)
    assert all(isinstance(answer, PlacementUnreachable) for name, answer in answers.items() if name not in settled)


def test_given_an_error_500_once_when_healed_then_that_node_fails_and_the_next_pass_puts_it_right(
    server: PlacementServer, scheduler: Scheduler
) -> None:
    trees = {name: tree(name) for name in (some_name() for _ in range(3))}
    scheduler.sync(trees)
    nodes = {name: holdings(node, one_vcpu(node)) for name, node in trees.items()}
    first, second, third = trees
    server.misbehave("GET", f"{trees[second].root.uuid}/allocations", status=500, times=1)
    answers = scheduler.sync_allocations(nodes, knows_all)
    assert isinstance(answers[second], PlacementUnreachable)
    assert (answers[first], answers[third]) == (SyncedAllocations(writes=1), SyncedAllocations(writes=1))
    assert scheduler.sync_allocations(nodes, knows_all)[second] == SyncedAllocations(writes=1)


def test_given_it_hangs_when_many_are_healed_then_one_time_limit_is_waited_for(
    server: PlacementServer, backend: Backend
) -> None:
    trees = {name: tree(name) for name in (some_name() for _ in range(20))}
    scheduler = backend.open(replace(backend.section, timeout_s=0.5))
    scheduler.sync(trees)
    server.misbehave("GET", "/allocations", how="hang")
    before = scheduler.requests
    answers = scheduler.sync_allocations({name: holdings(node) for name, node in trees.items()}, knows_all)
    # Each request that hangs takes the whole limit: whoever asked for every node would send 20.
    assert scheduler.requests - before == 1
    assert len(answers) == 20
    assert all(isinstance(answer, PlacementUnreachable) for answer in answers.values())
    scheduler.close()


def test_given_it_goes_away_when_it_is_back_then_claims_and_healing_go_on(tmp_path: Path) -> None:
    with private_placement(tmp_path) as own:
        backend = http_backend(own)
        scheduler = backend.open()
        node = tree(some_name())
        scheduler.sync({"n": node})
        claimed, missing = one_vcpu(node), one_vcpu(node)
        assert scheduler.allocate([claimed]) == ()
        own.stop()
        with pytest.raises(PlacementUnreachable):
            scheduler.allocate([missing])
        with pytest.raises(PlacementUnreachable):
            scheduler.allocate([Allocation(consumer=claimed.consumer)])
        assert isinstance(scheduler.sync_allocations({"n": holdings(node)}, knows_all)["n"], PlacementUnreachable)
        own.start()
        agreed(scheduler.sync({"n": node})["n"])
        assert scheduler.sync_allocations({"n": holdings(node, claimed, missing)}, knows_all) == {
            "n": SyncedAllocations(writes=1)
        }
        assert scheduler.allocations(node.root.uuid).keys() == {claimed.consumer, missing.consumer}
        scheduler.close()
        backend.other.close()
