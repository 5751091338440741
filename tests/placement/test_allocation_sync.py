"""Allocations that are not what the ledger says, over both backends: put right, and what is nobody's is left alone."""

import uuid

import pytest

from stocktake.placement import NoScheduler, Scheduler, SyncedAllocations, allocation_sync
from tests.placement.holding import DEVICE, healed, holdings, knowing, on, some_consumer
from tests.placement.making import child, stock, tree, with_children, with_root
from tests.placement.schedulers import EVERYBODY, Backend, agreed, seen, some_name


def test_given_a_new_node_when_healed_then_everybody_holds_what_he_should_and_steady_state_is_two_requests(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    one, other = some_consumer(), some_consumer()
    held = {one: {node.root.uuid: {"VCPU": 2}}, other: {node.root.uuid: {"VCPU": 1, "MEMORY_MB": 8}}}
    first = healed(scheduler, node, held)
    # Two new consumers are one write.
    assert (first.problems, first.writes) == ((), 1)
    assert on(backend, node) == held
    assert healed(scheduler, node, held).writes == 0
    requests, writes = scheduler.requests, scheduler.writes
    assert healed(scheduler, node, held) == SyncedAllocations()
    # One for the providers, one for who holds what of the only one.
    assert (scheduler.requests - requests, scheduler.writes - writes) == (2, 0)


def test_given_everything_right_already_when_a_new_process_heals_then_it_only_reads_and_asks_nobody(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, consumer = tree(some_name()), some_consumer()
    held = {consumer: {node.root.uuid: {"VCPU": 2}}}
    healed(scheduler, node, held)
    other = backend.open()

    def nobody(name: str, unknown: frozenset[str]) -> frozenset[str]:
        raise AssertionError(f"nothing is wrong with {name} and {unknown}")

    assert healed(other, node, held, nobody) == SyncedAllocations()
    assert other.writes == 0
    other.close()


def test_given_allocations_that_others_deleted_when_healed_then_that_pass_says_so_and_writes_them_again(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, kept = tree(some_name()), some_consumer()
    removed = sorted(some_consumer() for _ in range(2))
    held = {consumer: {node.root.uuid: {"VCPU": 2}} for consumer in (kept, *removed)}
    for _ in range(2):
        healed(scheduler, node, held)
    for consumer in removed:
        # The provider's generation does not show it.
        assert backend.other.write("DELETE", f"/allocations/{consumer}").fine
    answer = healed(scheduler, node, held)
    (problem,) = answer.problems
    assert (problem.code, problem.about, problem.severity) == ("allocation-removed", "n", "warning")
    assert problem.text == (f"somebody deleted the allocations of {', '.join(removed)} on it; they are written again")
    assert "nova-manage placement audit --delete" in problem.remedy
    assert (answer.writes, on(backend, node)) == (1, held)
    assert healed(scheduler, node, held).problems == ()


def test_given_one_part_of_what_is_held_when_others_removed_it_then_that_pass_says_so(
    backend: Backend, scheduler: Scheduler
) -> None:
    root = tree(some_name())
    device = child(root, "0000:81:00.0")
    node, consumer = with_children(root, device), some_consumer()
    held = {consumer: {root.root.uuid: {"VCPU": 2}, device.uuid: {DEVICE: 1}}}
    for _ in range(2):
        healed(scheduler, node, held)
    there = seen(backend, consumer)
    body = {
        "allocations": {root.root.uuid: {"resources": {"VCPU": 2}}},
        "project_id": "p",
        "user_id": "u",
        "consumer_generation": there.generation,
        "consumer_type": "INSTANCE",
    }
    backend.put(f"/allocations/{consumer}", body)
    (problem,) = healed(scheduler, node, held).problems
    assert (problem.code, consumer in problem.text) == ("allocation-removed", True)
    assert seen(backend, consumer).resources == held[consumer]
    assert healed(scheduler, node, held).problems == ()


def test_given_a_host_of_many_providers_when_others_deleted_an_allocation_then_the_read_back_finds_it(
    backend: Backend, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(allocation_sync, "LOOKED_AT_MAX", 1)
    nodes = {name: tree(name) for name in (some_name(), some_name())}
    held = {name: {some_consumer(): {node.root.uuid: {"VCPU": 2}}} for name, node in nodes.items()}

    def pass_over() -> dict[str, object]:
        scheduler.sync(nodes)
        return dict(scheduler.sync_allocations({name: holdings(nodes[name], held[name]) for name in nodes}, knowing()))

    for _ in range(2):
        pass_over()
    robbed, other = nodes
    (consumer,) = held[robbed]
    assert backend.other.write("DELETE", f"/allocations/{consumer}").fine
    requests = scheduler.requests
    assert pass_over() == {robbed: SyncedAllocations(), other: SyncedAllocations()}
    assert scheduler.requests - requests == 1
    # Who holds what is read by the next pass; of the provider itself nothing has changed.
    assert scheduler.is_as_agreed(nodes[robbed].root.uuid)
    answers = pass_over()
    answer = answers[robbed]
    assert isinstance(answer, SyncedAllocations)
    assert ([problem.code for problem in answer.problems], answer.writes) == (["allocation-removed"], 1)
    assert answers[other] == SyncedAllocations()
    assert on(backend, nodes[robbed]) == held[robbed]


def test_given_what_was_refused_when_it_is_not_held_then_nobody_is_said_to_have_removed_it(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    one, large = sorted(some_consumer() for _ in range(2))
    held = {one: {node.root.uuid: {"VCPU": 1}}, large: {node.root.uuid: {"MEMORY_MB": 9000}}}
    for _ in range(2):
        healed(scheduler, node, held)
    assert [problem.code for problem in healed(scheduler, node, held).problems] == ["allocation-refused"]
    assert backend.other.write("DELETE", f"/allocations/{one}").fine
    problems = healed(scheduler, node, held).problems
    assert [problem.code for problem in problems] == ["allocation-refused", "allocation-removed"]
    assert one in problems[1].text
    assert large not in problems[1].text


def test_given_an_allocation_that_others_changed_when_healed_then_it_is_as_it_should(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, elsewhere, consumer = tree(some_name()), tree(some_name()), some_consumer()
    scheduler.sync({"e": elsewhere})
    held = {consumer: {node.root.uuid: {"VCPU": 2}}}
    healed(scheduler, node, held)
    body = {
        "allocations": {
            node.root.uuid: {"resources": {"VCPU": 7, "MEMORY_MB": 1}},
            elsewhere.root.uuid: {"resources": {"VCPU": 3}},
        },
        "project_id": "p",
        "user_id": "u",
        "consumer_generation": seen(backend, consumer).generation,
        "consumer_type": "OTHER",
    }
    backend.put(f"/allocations/{consumer}", body)
    assert healed(scheduler, node, held).writes == 1
    # What it holds elsewhere is another node's matter.
    assert seen(backend, consumer).resources == {node.root.uuid: {"VCPU": 2}, elsewhere.root.uuid: {"VCPU": 3}}
    assert seen(backend, consumer).kind == "INSTANCE"


@pytest.mark.parametrize("typed", [True, False])
def test_given_a_consumer_that_the_ledger_knows_and_does_not_have_here_when_healed_then_it_loses_its_part_here_only(
    backend: Backend, scheduler: Scheduler, *, typed: bool
) -> None:
    node, elsewhere, gone, moved = tree(some_name()), tree(some_name()), some_consumer(), some_consumer()
    scheduler.sync({"e": elsewhere, "n": node})
    both = {node.root.uuid: {"VCPU": 2}, elsewhere.root.uuid: {"VCPU": 2}}
    backend.allocate(gone, {node.root.uuid: {"VCPU": 2}})
    if typed:
        backend.allocate(moved, both, "OTHER")
    else:
        body = {
            "allocations": {uuid_: {"resources": amounts} for uuid_, amounts in both.items()},
            "project_id": "p",
            "user_id": "u",
            "consumer_generation": None,
        }
        assert backend.other.write("PUT", f"/allocations/{moved}", body, version=(1, 30)).fine
    assert healed(scheduler, node, {}, knowing(gone, moved)) == SyncedAllocations(writes=2)
    assert on(backend, node) == {}
    there = seen(backend, moved)
    assert there.resources == {elsewhere.root.uuid: {"VCPU": 2}}
    assert (there.kind, there.owner) == ("OTHER" if typed else "unknown", ("p", "u"))


def test_given_consumers_that_nobody_knows_when_healed_then_they_stay_and_the_node_says_so_until_they_are_gone(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, ours = tree(some_name()), some_consumer()
    held = {ours: {node.root.uuid: {"VCPU": 1}}}
    scheduler.sync({"n": node})
    unknown = sorted(some_consumer() for _ in range(7))
    for one in unknown:
        backend.allocate(one, {node.root.uuid: {"VCPU": 1}})
    (problem,) = healed(scheduler, node, held).problems
    assert (problem.code, problem.about) == ("allocation-unknown", "n")
    assert ", ".join(unknown[:5]) + " and 2 more" in problem.text
    assert on(backend, node).keys() == {ours, *unknown}
    healed(scheduler, node, held)
    requests = scheduler.requests
    assert healed(scheduler, node, held).problems == (problem,)
    assert scheduler.requests - requests == 2
    for one in unknown:
        assert backend.other.write("DELETE", f"/allocations/{one}").fine
    scheduler.is_as_agreed(node.root.uuid)
    assert healed(scheduler, node, held).problems == ()


def test_given_no_room_when_healed_then_the_others_have_theirs_and_it_is_given_once_there_is_room(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    one, large, other = sorted(some_consumer() for _ in range(3))
    held = {
        one: {node.root.uuid: {"MEMORY_MB": 200}},
        large: {node.root.uuid: {"MEMORY_MB": 900, "VCPU": 1}},
        other: {node.root.uuid: {"MEMORY_MB": 300}},
    }
    (problem,) = healed(scheduler, node, held).problems
    assert (problem.code, problem.about, problem.severity) == ("allocation-refused", large, "error")
    assert "900 MEMORY_MB wanted, 824 free of 1024" in problem.text
    assert on(backend, node).keys() == {one, other}
    (problem,) = healed(scheduler, node, held).problems
    assert "524 free" in problem.text
    requests = scheduler.requests
    assert healed(scheduler, node, held).problems == (problem,)
    assert scheduler.requests - requests == 2
    more = with_root(node, inventories={**node.root.inventories, "MEMORY_MB": stock(2048)})
    assert healed(scheduler, more, held).problems == ()
    assert on(backend, node) == held


def test_given_too_much_held_when_healed_then_it_is_freed_before_it_is_given_to_others(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    grown, gone, fat = sorted(some_consumer() for _ in range(3))
    scheduler.sync({"n": node})
    backend.allocate(gone, {node.root.uuid: {"MEMORY_MB": 400}})
    backend.allocate(fat, {node.root.uuid: {"MEMORY_MB": 600}})
    held = {grown: {node.root.uuid: {"MEMORY_MB": 700}}, fat: {node.root.uuid: {"MEMORY_MB": 300}}}
    assert healed(scheduler, node, held, knowing(gone)).problems == ()
    assert on(backend, node) == held


def test_given_a_consumer_that_placement_does_not_accept_when_healed_then_the_others_have_theirs(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, fine, odd = tree(some_name()), some_consumer(), "no-uuid"
    share = {node.root.uuid: {"VCPU": 1}}
    (problem,) = healed(scheduler, node, {fine: share, odd: share}).problems
    assert (problem.code, problem.about) == ("allocation-refused", odd)
    assert on(backend, node) == {fine: share}


def test_given_devices_when_healed_then_those_of_which_nothing_should_be_held_are_not_read(
    backend: Backend, scheduler: Scheduler
) -> None:
    node = tree(some_name())
    device, theirs = child(node, "0000:01:00.0"), str(uuid.uuid4())
    adopted = child(node, "0000:02:00.0")
    scheduler.sync({"n": node})
    body = {"uuid": theirs, "name": adopted.name, "parent_provider_uuid": node.root.uuid}
    assert backend.other.write("POST", "/resource_providers", body).fine
    full = with_children(node, device, adopted, *(child(node, f"0000:1{number}:00.0") for number in range(5)))
    one, other = some_consumer(), some_consumer()
    held = {
        one: {node.root.uuid: {"VCPU": 1}, device.uuid: {DEVICE: 1}},
        other: {node.root.uuid: {"VCPU": 1}, adopted.uuid: {DEVICE: 1}},
    }
    for _ in range(2):
        assert healed(scheduler, full, held).problems == ()
    assert seen(backend, other).resources == {node.root.uuid: {"VCPU": 1}, theirs: {DEVICE: 1}}
    requests, writes = scheduler.requests, scheduler.writes
    changed = {**held, one: {node.root.uuid: {"VCPU": 3}, device.uuid: {DEVICE: 1}}}
    assert healed(scheduler, full, changed) == SyncedAllocations(writes=1)
    # The list, the allocations of the root and of two devices, the consumer, and the write.
    assert (scheduler.requests - requests, scheduler.writes - writes) == (6, 1)
    assert seen(backend, one).resources == {node.root.uuid: {"VCPU": 3}, device.uuid: {DEVICE: 1}}


def test_given_a_device_that_is_gone_and_still_held_when_healed_then_it_is_let_go_and_its_provider_goes(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, consumer = tree(some_name()), some_consumer()
    device = child(node, "0000:01:00.0")
    held = {consumer: {node.root.uuid: {"VCPU": 1}, device.uuid: {DEVICE: 1}}}
    for _ in range(2):
        healed(scheduler, with_children(node, device), held)
    assert agreed(scheduler.sync({"n": node}, EVERYBODY)["n"]).problems
    without = {consumer: {node.root.uuid: {"VCPU": 1}}}
    healed(scheduler, node, without)
    assert seen(backend, consumer).resources == without[consumer]
    assert agreed(scheduler.sync({"n": node}, EVERYBODY)["n"]).problems == ()
    assert [there.uuid for there in scheduler.providers(root_uuid=node.root.uuid)] == [node.root.uuid]


def test_given_a_node_that_was_not_synced_when_healed_then_it_is_left_for_the_next_pass(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, other = tree(some_name()), tree(some_name())
    scheduler.sync({"n": node})
    asked = scheduler.sync_allocations({"n": holdings(node, {}), "other": holdings(other, {})}, knowing())
    assert asked == {"n": SyncedAllocations()}


def test_given_a_deleted_node_when_it_comes_back_then_its_allocations_do_too(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, consumer = tree(some_name()), some_consumer()
    held = {consumer: {node.root.uuid: {"VCPU": 1}}}
    for _ in range(2):
        healed(scheduler, node, held)
    scheduler.delete_tree(node.root.uuid, EVERYBODY)
    healed(scheduler, node, held)
    assert on(backend, node) == held


def test_given_no_scheduler_when_healed_then_it_agrees() -> None:
    node = tree("n")
    assert NoScheduler().sync_allocations({"n": holdings(node, {"c": {}})}, knowing()) == {"n": SyncedAllocations()}
