"""The scheduler's contract, over the embedded Placement and over a real one that is served by HTTP."""

import uuid
from collections.abc import Iterator

import pytest

from stocktake.errors import PlacementError
from stocktake.model.provider import Allocation, Found
from stocktake.placement import Scheduler
from tests.placement.making import child, stock, tree, with_children, with_root
from tests.placement.schedulers import EVERYBODY, Backend, agreed, embedded_backend, http_backend, some_name


@pytest.fixture(params=["embedded", "http"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "embedded":
        made = embedded_backend(request.getfixturevalue("embedded_connection"))
    else:
        made = http_backend(request.getfixturevalue("placement_server"))
    yield made
    made.other.close()


@pytest.fixture
def scheduler(backend: Backend) -> Iterator[Scheduler]:
    opened = backend.open()
    yield opened
    opened.close()


def found(scheduler: Scheduler, root_uuid: str) -> dict[str, Found]:
    return {there.name: there for there in scheduler.providers(root_uuid=root_uuid, contents=True)}


def test_given_a_new_node_when_synced_then_its_providers_are_there_as_wanted(scheduler: Scheduler) -> None:
    name = some_name()
    node = tree(name)
    node = with_children(node, child(node, "0000:01:00.0"), child(node, "0000:02:00.0", total=4))
    answer = agreed(scheduler.sync({name: node})[name])
    assert answer.problems == ()
    assert answer.writes == scheduler.writes > 0
    there = found(scheduler, node.root.uuid)
    assert there.keys() == {name, f"{name}_0000:01:00.0", f"{name}_0000:02:00.0"}
    assert there[name].uuid == node.root.uuid
    assert there[name].inventories == {"VCPU": stock(8, allocation_ratio=4.0), "MEMORY_MB": stock(1024)}
    assert there[name].traits == {"COMPUTE_NODE"}
    device = there[f"{name}_0000:02:00.0"]
    assert device.parent_uuid == node.root.uuid
    assert device.inventories == {"CUSTOM_PCI_10DE_1DB6": stock(4)}
    assert device.traits == {"COMPUTE_MANAGED_PCI_DEVICE"}


@pytest.mark.parametrize("count", [1, 2, 30])
def test_given_nothing_changed_when_synced_again_then_one_request_and_no_write(
    scheduler: Scheduler, count: int
) -> None:
    trees = {name: tree(name) for name in (some_name() for _ in range(count))}
    for answer in scheduler.sync(trees).values():
        agreed(answer)
    requests, writes = scheduler.requests, scheduler.writes
    for answer in scheduler.sync(trees).values():
        assert agreed(answer).writes == 0
    assert (scheduler.requests - requests, scheduler.writes - writes) == (1, 0)


def test_given_nothing_changed_when_another_process_syncs_then_it_reads_and_does_not_write(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    node = with_children(node, child(node, "0000:01:00.0"))
    agreed(scheduler.sync({"n": node})["n"])
    other = backend.open()
    assert agreed(other.sync({"n": node})["n"]).writes == 0
    assert other.writes == 0


def test_given_one_of_many_changed_elsewhere_when_synced_then_only_that_one_is_read(
    backend: Backend, scheduler: Scheduler
) -> None:
    trees = {name: tree(name) for name in (some_name() for _ in range(5))}
    scheduler.sync(trees)
    changed = next(iter(trees.values())).root.uuid
    body = {"resource_provider_generation": backend.generation(changed), "traits": ["HW_CPU_X86_AVX"]}
    backend.put(f"/resource_providers/{changed}/traits", body)
    requests = scheduler.requests
    answers = scheduler.sync(trees)
    assert [agreed(answer).writes for answer in answers.values()] == [1, 0, 0, 0, 0]
    # The list, inventories, traits and allocations of one, and one write.
    assert scheduler.requests - requests == 5
    root = next(iter(trees.values())).root
    assert found(scheduler, changed)[root.name].traits == {"COMPUTE_NODE", "HW_CPU_X86_AVX"}


def test_given_foreign_traits_and_classes_when_synced_then_they_stay_and_ours_go(
    backend: Backend, scheduler: Scheduler
) -> None:
    name = some_name()
    node = tree(name, traits=frozenset({"COMPUTE_NODE", "COMPUTE_STATUS_DISABLED", "CUSTOM_OURS"}))
    node = with_root(node, inventories={**node.root.inventories, "CUSTOM_OURS": stock(2)})
    scheduler.sync({name: node})
    uuid_ = node.root.uuid
    for path in ("/traits/CUSTOM_THEIRS", "/resource_classes/CUSTOM_THEIRS"):
        backend.put(path, None)
    there = found(scheduler, uuid_)[name]
    traits = {"resource_provider_generation": there.generation, "traits": [*sorted(there.traits), "CUSTOM_THEIRS"]}
    backend.put(f"/resource_providers/{uuid_}/traits", traits)
    inventories = {
        "resource_provider_generation": backend.generation(uuid_),
        "inventories": {"VCPU": {"total": 8}, "CUSTOM_OURS": {"total": 2}, "CUSTOM_THEIRS": {"total": 7}},
    }
    backend.put(f"/resource_providers/{uuid_}/inventories", inventories)
    plain = tree(name, root_uuid=uuid_)
    agreed(scheduler.sync({name: plain})[name])
    there = found(scheduler, uuid_)[name]
    assert there.traits == {"COMPUTE_NODE", "CUSTOM_THEIRS"}
    assert there.inventories.keys() == {"VCPU", "MEMORY_MB", "CUSTOM_THEIRS"}
    assert there.inventories["CUSTOM_THEIRS"].total == 7
    # An initial ratio does not touch the one that is there.
    assert there.inventories["VCPU"].allocation_ratio == 1.0


def test_given_a_class_in_use_when_it_goes_then_it_stays_reserved_and_goes_once_it_is_free(
    backend: Backend, scheduler: Scheduler
) -> None:
    name, consumer = some_name(), str(uuid.uuid4())
    node = tree(name)
    full = with_root(node, inventories={**node.root.inventories, "CUSTOM_OURS": stock(2)})
    scheduler.sync({name: full})
    backend.allocate(consumer, {node.root.uuid: {"CUSTOM_OURS": 1, "VCPU": 6}})
    answer = agreed(scheduler.sync({name: node}, EVERYBODY)[name])
    assert [problem.code for problem in answer.problems] == ["inventory-in-use"]
    assert answer.kept_classes == {"CUSTOM_OURS"}
    assert found(scheduler, node.root.uuid)[name].inventories["CUSTOM_OURS"] == stock(2, reserved=2)
    # In steady state the problem is remembered, and nothing is tried again.
    requests = scheduler.requests
    again = agreed(scheduler.sync({name: node}, EVERYBODY)[name])
    assert (again.problems, again.writes, again.kept_classes) == (answer.problems, 0, answer.kept_classes)
    assert scheduler.requests - requests == 1
    # To shrink below what is used is allowed.
    small = with_root(node, inventories={"VCPU": stock(2)})
    assert agreed(scheduler.sync({name: small}, EVERYBODY)[name]).writes == 1
    assert scheduler.allocate([Allocation(consumer=consumer)]) == ()
    assert not scheduler.is_as_agreed(node.root.uuid)
    assert agreed(scheduler.sync({name: small}, EVERYBODY)[name]).problems == ()
    assert scheduler.is_as_agreed(node.root.uuid)
    assert found(scheduler, node.root.uuid)[name].inventories.keys() == {"VCPU"}


def test_given_a_device_in_use_when_it_vanishes_then_its_provider_stays_reserved_and_goes_once_it_is_free(
    backend: Backend, scheduler: Scheduler
) -> None:
    name, consumer = some_name(), str(uuid.uuid4())
    node = tree(name)
    device, idle = child(node, "0000:01:00.0"), child(node, "0000:02:00.0")
    scheduler.sync({name: with_children(node, device, idle)})
    backend.allocate(consumer, {device.uuid: {"CUSTOM_PCI_10DE_1DB6": 1}})
    answer = agreed(scheduler.sync({name: node}, EVERYBODY)[name])
    assert [problem.code for problem in answer.problems] == ["provider-in-use"]
    there = found(scheduler, node.root.uuid)
    assert there.keys() == {name, device.name}
    assert there[device.name].inventories == {"CUSTOM_PCI_10DE_1DB6": stock(1, reserved=1)}
    scheduler.allocate([Allocation(consumer=consumer)])
    assert not scheduler.is_as_agreed(node.root.uuid)
    assert agreed(scheduler.sync({name: node}, EVERYBODY)[name]).problems == ()
    assert found(scheduler, node.root.uuid).keys() == {name}


def test_given_a_child_of_others_with_our_name_when_synced_then_it_is_adopted(
    backend: Backend, scheduler: Scheduler
) -> None:
    name, theirs = some_name(), str(uuid.uuid4())
    node = tree(name)
    scheduler.sync({name: node})
    device = child(node, "0000:01:00.0")
    body = {"uuid": theirs, "name": device.name, "parent_provider_uuid": node.root.uuid}
    assert backend.other.write("POST", "/resource_providers", body).fine
    another = {"uuid": str(uuid.uuid4()), "name": f"{name}_another", "parent_provider_uuid": node.root.uuid}
    assert backend.other.write("POST", "/resource_providers", another).fine
    full = with_children(node, device)
    agreed(scheduler.sync({name: full})[name])
    there = found(scheduler, node.root.uuid)
    assert there.keys() == {name, device.name, f"{name}_another"}
    assert there[device.name].uuid == theirs
    assert there[device.name].inventories.keys() == {"CUSTOM_PCI_10DE_1DB6"}
    requests = scheduler.requests
    assert agreed(scheduler.sync({name: full})[name]).writes == 0
    assert scheduler.requests - requests == 1


def test_given_the_name_is_anothers_when_synced_then_only_that_node_fails_and_says_what_to_do(
    scheduler: Scheduler,
) -> None:
    taken, free = some_name(), some_name()
    first = tree(taken)
    scheduler.sync({taken: first})
    answers = scheduler.sync({"second": tree(taken), "free": tree(free)})
    error = answers["second"]
    assert isinstance(error, PlacementError)
    assert first.root.uuid in error.what
    assert "compute_id" in error.remedy
    agreed(answers["free"])


def test_given_a_renamed_node_when_synced_then_its_provider_is_renamed(scheduler: Scheduler) -> None:
    before, after = some_name(), some_name()
    node = tree(before)
    scheduler.sync({"n": with_children(node, child(node, "0000:01:00.0"))})
    renamed = with_root(node, name=after)
    agreed(scheduler.sync({"n": with_children(renamed, child(renamed, "0000:01:00.0"))})["n"])
    assert found(scheduler, node.root.uuid).keys() == {after, f"{after}_0000:01:00.0"}


def test_given_a_provider_deleted_and_made_anew_when_read_back_then_it_is_filled_again(
    backend: Backend, scheduler: Scheduler
) -> None:
    name = some_name()
    node = tree(name)
    assert scheduler.is_as_agreed(node.root.uuid)
    scheduler.sync({name: node})
    assert backend.other.write("DELETE", f"/resource_providers/{node.root.uuid}").fine
    assert backend.other.write("POST", "/resource_providers", {"uuid": node.root.uuid, "name": name}).fine
    for _ in range(2):
        # Its generation becomes what it was before, as if nothing had happened.
        body = {"resource_provider_generation": backend.generation(node.root.uuid), "inventories": {}}
        backend.put(f"/resource_providers/{node.root.uuid}/inventories", body)
    assert agreed(scheduler.sync({name: node})[name]).writes == 0
    assert not scheduler.is_as_agreed(node.root.uuid)
    assert agreed(scheduler.sync({name: node})[name]).writes == 2
    assert scheduler.is_as_agreed(node.root.uuid)
    assert found(scheduler, node.root.uuid)[name].inventories.keys() == {"VCPU", "MEMORY_MB"}


def test_given_a_deleted_provider_when_synced_then_it_is_made_again(backend: Backend, scheduler: Scheduler) -> None:
    trees = {name: tree(name) for name in (some_name(), some_name())}
    scheduler.sync(trees)
    victim, other = trees
    assert backend.other.write("DELETE", f"/resource_providers/{trees[victim].root.uuid}").fine
    answers = scheduler.sync(trees)
    assert (agreed(answers[victim]).writes, agreed(answers[other]).writes) == (3, 0)


def test_given_allocations_when_a_tree_is_deleted_then_they_go_with_it_and_only_they(
    backend: Backend, scheduler: Scheduler
) -> None:
    name, other_name = some_name(), some_name()
    node, other = tree(name), tree(other_name)
    device = child(node, "0000:01:00.0")
    scheduler.sync({name: with_children(node, device), other_name: other})
    both, only = str(uuid.uuid4()), str(uuid.uuid4())
    backend.allocate(both, {device.uuid: {"CUSTOM_PCI_10DE_1DB6": 1}, other.root.uuid: {"VCPU": 2}})
    backend.allocate(only, {node.root.uuid: {"VCPU": 1}})
    scheduler.delete_tree(node.root.uuid, EVERYBODY)
    scheduler.delete_tree(node.root.uuid, EVERYBODY)
    assert scheduler.providers(root_uuid=node.root.uuid) == ()
    assert scheduler.allocations(other.root.uuid) == {both: {other.root.uuid: {"VCPU": 2}}}
    assert scheduler.allocations(node.root.uuid) == {}
    body = backend.other.get(f"/allocations/{both}").read(dict[str, object])
    assert (body["consumer_type"], body["project_id"]) == ("INSTANCE", "p")


def test_given_a_node_below_a_rack_when_deleted_then_the_rack_stays(backend: Backend, scheduler: Scheduler) -> None:
    name, rack = some_name(), str(uuid.uuid4())
    node = tree(name)
    scheduler.sync({name: node})
    assert backend.other.write("POST", "/resource_providers", {"uuid": rack, "name": f"rack-{name}"}).fine
    backend.put(f"/resource_providers/{node.root.uuid}", {"name": name, "parent_provider_uuid": rack})
    full = with_children(node, child(node, "0000:01:00.0"))
    for trees in ({name: full}, {name: full, "other": tree(some_name())}):
        agreed(scheduler.sync(trees)[name])
    assert found(scheduler, rack)[name].parent_uuid == rack
    scheduler.delete_tree(node.root.uuid)
    assert found(scheduler, rack).keys() == {f"rack-{name}"}


def test_given_a_placement_when_pinged_then_it_says_its_version(scheduler: Scheduler) -> None:
    assert scheduler.ping() == "1.39"


def test_given_nodes_when_listed_without_contents_then_one_request_tells_names_and_parents(
    scheduler: Scheduler,
) -> None:
    name = some_name()
    node = tree(name)
    scheduler.sync({name: node})
    requests = scheduler.requests
    assert any(there.uuid == node.root.uuid and there.name == name for there in scheduler.providers())
    assert scheduler.requests - requests == 1


def test_given_no_nodes_when_synced_then_nothing_is_asked(scheduler: Scheduler) -> None:
    assert scheduler.sync({}) == {}
    assert scheduler.requests == 0


def test_given_many_new_nodes_when_told_to_stop_then_the_rest_is_left_for_the_next_time(scheduler: Scheduler) -> None:
    trees = {name: tree(name) for name in (some_name() for _ in range(5))}
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 2

    first = scheduler.sync(trees, stop=stop)
    assert list(first) == list(trees)[:2]
    assert list(scheduler.sync(trees)) == list(trees)
