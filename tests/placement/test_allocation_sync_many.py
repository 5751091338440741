"""Healing while others write, of many at once, and from any state: both backends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stocktake.errors import PlacementConflict, StocktakeError
from stocktake.placement import Scheduler, SyncedAllocations
from stocktake.placement.allocation_sync import TOGETHER_MAX
from tests.placement.holding import healed, holdings, knowing, on, some_consumer
from tests.placement.making import stock, tree, with_root
from tests.placement.schedulers import Backend, embedded_backend, seen, some_name

# How uuids begin that the ledger does not know.
NOBODYS = "dddddddd"


def test_given_books_that_changed_since_they_were_read_when_healed_then_nothing_is_written_until_the_next_pass(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, claimed, stale = tree(some_name()), some_consumer(), some_consumer()
    scheduler.sync({"n": node})
    backend.allocate(claimed, {node.root.uuid: {"VCPU": 1}})
    writes = scheduler.writes
    held = {stale: {node.root.uuid: {"VCPU": 1}}}
    assert scheduler.sync_allocations({"n": holdings(node, held)}, lambda *_: None) == {}
    assert scheduler.writes == writes
    assert on(backend, node).keys() == {claimed}
    new = {claimed: {node.root.uuid: {"VCPU": 1}}}
    assert healed(scheduler, node, new) == SyncedAllocations()


@pytest.mark.parametrize("wanted", [0, 3])
def test_given_a_claim_just_before_the_writing_when_healed_then_what_it_wrote_stays(
    backend: Backend, scheduler: Scheduler, wanted: int
) -> None:
    """By the books that were read the consumer should hold 3 or nothing; the claim gives it 5."""
    node, consumer = tree(some_name()), some_consumer()
    scheduler.sync({"n": node})
    backend.allocate(consumer, {node.root.uuid: {"VCPU": 2}})

    def claim(_: str, unknown: frozenset[str]) -> frozenset[str]:
        body = {"allocations": {node.root.uuid: {"resources": {"VCPU": 5}}}, "project_id": "p", "user_id": "u"}
        generation = seen(backend, consumer).generation
        backend.put(
            f"/allocations/{consumer}", {**body, "consumer_generation": generation, "consumer_type": "INSTANCE"}
        )
        return unknown

    held = {consumer: {node.root.uuid: {"VCPU": wanted}}} if wanted else {}
    answer = scheduler.sync_allocations({"n": holdings(node, held)}, claim)["n"]
    if wanted:
        assert isinstance(answer, SyncedAllocations)
        assert [problem.code for problem in answer.problems] == ["allocation-refused"]
    else:
        assert isinstance(answer, PlacementConflict)
    assert on(backend, node) == {consumer: {node.root.uuid: {"VCPU": 5}}}
    assert healed(scheduler, node, {consumer: {node.root.uuid: {"VCPU": 5}}}) == SyncedAllocations()


def test_given_many_new_consumers_when_healed_then_they_are_written_together(
    backend: Backend, scheduler: Scheduler
) -> None:
    count = TOGETHER_MAX + 10
    node = with_root(tree(some_name()), inventories={"VCPU": stock(count)})
    held = {some_consumer(): {node.root.uuid: {"VCPU": 1}} for _ in range(count)}
    scheduler.sync({"n": node})
    requests = scheduler.requests
    assert scheduler.sync_allocations({"n": holdings(node, held)}, knowing()) == {"n": SyncedAllocations(writes=2)}
    assert scheduler.requests - requests == 3
    assert on(backend, node) == held


def test_given_one_that_holds_something_elsewhere_among_new_ones_when_healed_then_all_have_theirs(
    backend: Backend, scheduler: Scheduler
) -> None:
    node, elsewhere = tree(some_name()), tree(some_name())
    scheduler.sync({"e": elsewhere})
    moving, new = some_consumer(), some_consumer()
    backend.allocate(moving, {elsewhere.root.uuid: {"VCPU": 5}})
    held = {one: {node.root.uuid: {"VCPU": 1}} for one in (moving, new)}
    assert healed(scheduler, node, held).problems == ()
    assert on(backend, node) == held
    assert seen(backend, moving).resources[elsewhere.root.uuid] == {"VCPU": 5}


def test_given_many_nodes_when_told_to_stop_then_the_rest_is_left_for_the_next_pass(scheduler: Scheduler) -> None:
    trees = {name: tree(name) for name in (some_name() for _ in range(4))}
    scheduler.sync(trees)
    consumers = {name: some_consumer() for name in trees}
    nodes = {name: holdings(node, {consumers[name]: {node.root.uuid: {"VCPU": 1}}}) for name, node in trees.items()}
    stops = iter([False, False, True])
    assert list(scheduler.sync_allocations(nodes, knowing(), stop=lambda: next(stops))) == list(trees)[:2]
    answers: dict[str, SyncedAllocations | StocktakeError] = scheduler.sync_allocations(nodes, knowing())
    # Those that were healed are read once more, as our writes have changed their generations: none is remembered yet.
    assert answers.keys() == trees.keys()
    assert {name: answer.writes for name, answer in answers.items() if isinstance(answer, SyncedAllocations)} == {
        name: int(number >= 2) for number, name in enumerate(trees)
    }


AMOUNTS = st.sampled_from((0, 0, 1, 3))
CONSUMERS = st.lists(st.tuples(AMOUNTS, AMOUNTS, AMOUNTS, st.booleans()), max_size=6)


@settings(max_examples=12)
@given(drawn=CONSUMERS)
def test_given_anything_held_when_healed_then_it_is_what_is_wanted_and_what_nobody_knows(
    embedded_connection: str, drawn: list[tuple[int, int, int, bool]]
) -> None:
    """Of each consumer: what it holds here and elsewhere, what it should hold here, and whether the ledger knows it."""
    backend = embedded_backend(embedded_connection)
    scheduler = backend.open()
    node, elsewhere = tree(some_name()), tree(some_name())
    scheduler.sync({"n": node, "e": elsewhere})
    here, there = node.root.uuid, elsewhere.root.uuid
    wanted, right, others = {}, {}, {}
    for held, away, should, known in drawn:
        consumer = some_consumer() if known else f"{NOBODYS}{some_consumer()[8:]}"
        parts = {uuid_: {"VCPU": amount} for uuid_, amount in ((here, held), (there, away)) if amount}
        if parts:
            backend.allocate(consumer, parts)
        if should:
            wanted[consumer] = {here: {"VCPU": should}}
        kept = should or (0 if known else held)
        if kept:
            right[consumer] = {here: {"VCPU": kept}}
        if away:
            others[consumer] = {there: {"VCPU": away}}

    def ask(_: str, unknown: frozenset[str]) -> frozenset[str]:
        return frozenset(one for one in unknown if not one.startswith(NOBODYS))

    healed(scheduler, node, wanted, ask)
    assert (on(backend, node), on(backend, elsewhere)) == (right, others)
    assert healed(scheduler, node, wanted, ask).writes == 0
    scheduler.close()
    backend.other.close()
