"""The setting `allocations` through a report and a refresh, over both backends: own are kept, foreign untouched."""

import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import DatabaseLedger, NodeSave, SaveOutcome, open_ledger
from stocktake.model.books import ComputeNode, Entry, Tally
from stocktake.model.provider import ProviderTree
from stocktake.model.value import replace
from stocktake.model.workload import Migration, NodeWork
from stocktake.placement import Scheduler
from stocktake.placement.allocations import read_held
from stocktake.placement.desired_allocations import desired_of
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.report.save import Books, Reported, Terms, carried, save, sync
from tests.context import Fleet, an_instance, context_of
from tests.placement.making import tree
from tests.placement.schedulers import Backend, seen, some_name
from tests.refresh.test_identity import a_node

Opened = Callable[..., AbstractContextManager[Context]]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[DatabaseLedger]:
    opened = open_ledger(f"sqlite:///{tmp_path}/ledger.db", clock=SystemClock(), ids=RandomIds())
    yield opened
    opened.close()


@pytest.fixture
def opened(tmp_path: Path, backend: Backend) -> Opened:
    section = backend.section
    placement: dict[str, object] = {"mode": section.mode}
    if section.mode == "embedded":
        placement["connection"] = section.connection
    else:
        placement |= {"url": section.url, "auth_type": section.auth_type, "auth": section.auth}
    return partial(context_of, tmp_path, placement=placement)


def an_entry(consumer: str | None, **fields: object) -> Entry:
    made = Entry(kind="instance", id=consumer or "host", why="", consumer=consumer, vcpus=1, memory_mb=100)
    return replace(made, **fields)


def a_book(ledger: DatabaseLedger, node: ProviderTree, *entries: Entry, **work: Any) -> Books:
    """A node of these entries, read from the ledger and tallied."""
    before = next((one for one in ledger.nodes() if one.uuid == node.root.uuid), None)
    fresh = replace(a_node(), uuid=node.root.uuid, hypervisor_hostname=node.root.name)
    record = carried(before or fresh, node, before)
    done, tally = NodeWork(record=before, **work), Tally(node=record, entries=entries)
    return Books(work=done, tally=tally, tree=node, allocations=desired_of(tally, done, node))


def nobody(_: object) -> NoReturn:
    """Nobody else claims meanwhile."""
    raise AssertionError


def report(
    ledger: DatabaseLedger, scheduler: Scheduler, *books: Books, own: bool = True, full: bool = False
) -> Reported:
    """Save the books and tell the scheduler."""
    named = {book.tree.root.name: book for book in books}
    result = save(ledger, named, lambda names: {name: named[name] for name in names}, nobody)
    sync(ledger, scheduler, result, Terms(own=own, full=full))
    return result


def of_node(node: ProviderTree, result: Reported) -> ComputeNode:
    return result.saved[node.root.name]


def on(backend: Backend, node: ProviderTree) -> dict[str, dict[str, dict[str, int]]]:
    return read_held(backend.other, [node.root.uuid])[0]


def test_given_own_allocations_when_reported_then_they_are_what_the_entries_say_and_it_costs_a_reading(
    backend: Backend, scheduler: Scheduler, ledger: DatabaseLedger
) -> None:
    node, guest = tree(some_name()), str(uuid.uuid4())
    owner = replace(an_instance(guest, host="alpha", node=node.root.name), project_id="blue", user_id="ann")
    books = partial(a_book, ledger, node, an_entry(guest), an_entry(None, kind="reserved"), instances=(owner,))
    result = report(ledger, scheduler, books())
    assert result.unsynced == {}
    assert on(backend, node) == {guest: {node.root.uuid: {"VCPU": 1, "MEMORY_MB": 100}}}
    assert (seen(backend, guest).kind, seen(backend, guest).owner) == ("INSTANCE", ("blue", "ann"))
    assert result.writes == scheduler.writes
    report(ledger, scheduler, books())
    requests, row = scheduler.requests, ledger.node(node.root.uuid)
    assert report(ledger, scheduler, books()).changed == set()
    assert scheduler.requests - requests == 2
    assert ledger.node(node.root.uuid) == row


def test_given_foreign_allocations_when_reported_then_not_one_request_is_about_them(
    backend: Backend, scheduler: Scheduler, ledger: DatabaseLedger
) -> None:
    node, guest, gone, unknown = tree(some_name()), *(str(uuid.uuid4()) for _ in range(3))
    ledger.put_instances([an_instance(gone, host="alpha", node=node.root.name)])
    ledger.delete_instances([gone])
    scheduler.sync({"n": node})
    for consumer in (gone, unknown):
        backend.allocate(consumer, {node.root.uuid: {"VCPU": 1}})
    before = on(backend, node)
    book = partial(a_book, ledger, node, an_entry(guest), deleted_uuids=frozenset({gone}))
    report(ledger, scheduler, book(), own=False)
    requests, writes = scheduler.requests, scheduler.writes
    result = report(ledger, scheduler, book(), own=False)
    # The list of providers.
    assert (scheduler.requests - requests, scheduler.writes - writes) == (1, 0)
    assert on(backend, node) == before
    assert of_node(node, result).problems == ()


def test_given_deleted_instances_and_unknown_consumers_when_reported_then_only_what_the_ledger_knows_goes(
    backend: Backend, scheduler: Scheduler, ledger: DatabaseLedger
) -> None:
    node, elsewhere = tree(some_name()), tree(some_name())
    gone, move, over, unknown = (str(uuid.uuid4()) for _ in range(4))
    ledger.put_instances([an_instance(gone, host="alpha", node=node.root.name)])
    ledger.delete_instances([gone])
    ledger.put_migrations(
        [
            Migration(id=1, uuid=move, instance_uuid=gone, status="confirmed"),
            Migration(id=2, uuid=over, instance_uuid=gone, deleted=True),
        ]
    )
    scheduler.sync({"n": node, "e": elsewhere})
    for consumer in (gone, move, over, unknown):
        backend.allocate(consumer, {node.root.uuid: {"VCPU": 1}, elsewhere.root.uuid: {"VCPU": 1}})
    result = report(ledger, scheduler, a_book(ledger, node, deleted_uuids=frozenset({gone})))
    assert on(backend, node).keys() == {unknown}
    assert on(backend, elsewhere).keys() == {gone, move, over, unknown}
    (problem,) = of_node(node, result).problems
    assert (problem.code, problem.about) == ("placement-allocation-unknown", node.root.name)
    assert unknown in problem.text
    assert ledger.node(node.root.uuid).problems == (problem,)


@pytest.mark.parametrize("own", [True, False])
def test_given_deleted_instances_when_reported_then_they_are_not_looked_at_again(
    tmp_path: Path, opened: Opened, *, own: bool
) -> None:
    name, gone = some_name(), str(uuid.uuid4())
    Fleet(tmp_path / "fleet.json").has(name)
    with opened(allocations="own" if own else "foreign") as context:
        context.ledger.put_instances([an_instance(gone, host="alpha", node=name)])
        context.ledger.delete_instances([gone])
        assert context.ledger.work("alpha", [name], {})[name].deleted_uuids == {gone}
        assert refresh(context).fine
        assert context.ledger.work("alpha", [name], {})[name].deleted_uuids == frozenset()


@pytest.mark.parametrize("own", [True, False])
def test_given_a_deleted_instances_allocation_when_refreshed_then_the_setting_says_whether_it_goes(
    tmp_path: Path, backend: Backend, opened: Opened, *, own: bool
) -> None:
    name, gone = some_name(), str(uuid.uuid4())
    Fleet(tmp_path / "fleet.json").has(name)
    with opened(allocations="own" if own else "foreign") as context:
        refresh(context)
        root = context.ledger.node(name).uuid
        context.ledger.put_instances([an_instance(gone, host="alpha", node=name)])
        backend.allocate(gone, {root: {"VCPU": 2, "MEMORY_MB": 64}})
        context.ledger.delete_instances([gone])
        assert refresh(context).fine
        assert read_held(backend.other, [root])[0].keys() == (set() if own else {gone})


def test_given_no_room_when_reported_then_the_node_carries_it_until_there_is(
    backend: Backend, scheduler: Scheduler, ledger: DatabaseLedger
) -> None:
    node, guest = tree(some_name()), str(uuid.uuid4())
    (problem,) = of_node(
        node, report(ledger, scheduler, a_book(ledger, node, an_entry(guest, memory_mb=4096)))
    ).problems
    assert (problem.code, problem.about) == ("placement-allocation-refused", guest)
    assert "4096 MEMORY_MB wanted, 1024 free of 1024" in problem.text
    assert of_node(node, report(ledger, scheduler, a_book(ledger, node, an_entry(guest)))).problems == ()
    assert on(backend, node).keys() == {guest}


class Claiming(DatabaseLedger):
    """A ledger in which somebody claims at a chosen moment of a pass."""

    claim: Callable[[], object] | None = None
    moment = "save"

    def save(self, saves: Sequence[NodeSave]) -> SaveOutcome:
        self._now("save")
        return super().save(saves)

    def node(self, name_or_uuid: str, *, host: str | None = None) -> ComputeNode:
        self._now("heal")
        return super().node(name_or_uuid, host=host)

    def _now(self, moment: str) -> None:
        claim = self.claim
        if claim is not None and self.moment == moment:
            self.claim = None
            claim()


@pytest.fixture
def claiming(tmp_path: Path) -> Iterator[Claiming]:
    plain = open_ledger(f"sqlite:///{tmp_path}/claims.db", clock=SystemClock(), ids=RandomIds())
    yield Claiming(plain._database, None, SystemClock(), RandomIds())
    plain.close()


def claim(ledger: DatabaseLedger, backend: Backend, node: ProviderTree, guest: str) -> None:
    """Do what a claim does: the ledger first, then Placement."""
    with ledger.transaction([node.root.uuid]) as transaction:
        transaction.put_instances([an_instance(guest, host="alpha", node=node.root.name)])
    backend.allocate(guest, {node.root.uuid: {"VCPU": 1, "MEMORY_MB": 100}})


def test_given_a_claim_after_the_books_were_read_when_reported_then_its_allocation_stays(
    backend: Backend, scheduler: Scheduler, claiming: Claiming
) -> None:
    node, old, new = tree(some_name()), str(uuid.uuid4()), str(uuid.uuid4())
    claiming.put_instances([an_instance(old, host="alpha", node=node.root.name)])
    report(claiming, scheduler, a_book(claiming, node, an_entry(old)))
    stale = a_book(claiming, node, an_entry(old))
    claim(claiming, backend, node, new)
    report(claiming, scheduler, stale)
    assert on(backend, node).keys() == {old, new}
    # The next pass has read it.
    result = report(claiming, scheduler, a_book(claiming, node, an_entry(old), an_entry(new)))
    assert on(backend, node).keys() == {old, new}
    assert of_node(node, result).problems == ()


def test_given_a_claim_just_before_something_is_taken_away_when_reported_then_nothing_is(
    backend: Backend, scheduler: Scheduler, claiming: Claiming
) -> None:
    node, gone, new = tree(some_name()), str(uuid.uuid4()), str(uuid.uuid4())
    claiming.put_instances([an_instance(gone, host="alpha", node=node.root.name)])
    report(claiming, scheduler, a_book(claiming, node, an_entry(gone)))
    claiming.delete_instances([gone])
    claiming.claim, claiming.moment = partial(claim, claiming, backend, node, new), "heal"
    report(claiming, scheduler, a_book(claiming, node))
    assert on(backend, node).keys() == {gone, new}
    report(claiming, scheduler, a_book(claiming, node, an_entry(new)))
    assert on(backend, node).keys() == {new}


def test_given_a_node_that_is_deleted_meanwhile_when_reported_then_nothing_is_written_for_it(
    backend: Backend, scheduler: Scheduler, claiming: Claiming
) -> None:
    node, guest = tree(some_name()), str(uuid.uuid4())
    report(claiming, scheduler, a_book(claiming, node))
    claiming.claim, claiming.moment = partial(claiming.delete_node, node.root.uuid), "heal"
    report(claiming, scheduler, a_book(claiming, node, an_entry(guest)))
    assert on(backend, node) == {}


def test_given_a_claim_while_a_pass_saves_when_it_is_tallied_again_then_the_entries_are_the_new_ones(
    tmp_path: Path, claiming: Claiming
) -> None:
    name, guest = some_name(), str(uuid.uuid4())
    fleet = Fleet(tmp_path / "fleet.json").has(name)
    with context_of(tmp_path, ledger=claiming) as context:
        refresh(context)
        root = claiming.node(name).uuid

        def promise() -> None:
            with claiming.transaction([root]) as transaction:
                transaction.put_instances([an_instance(guest, host="alpha", node=name)])

        fleet.has(name, report={"memory_mb": 32768})
        # What the scheduler says changes the row too: then the entries are written once more.
        claiming.save([with_stale_name(claiming, name)])
        claiming.claim = promise
        refresh(context)
        assert [entry.id for entry in claiming.entries(root)] == ["host", guest]


def with_stale_name(ledger: DatabaseLedger, name: str) -> NodeSave:
    """The node as saved, with a name that the scheduler is said to have and does not."""
    node = ledger.node(name)
    told = replace(node, owned_classes=node.owned_classes | {"CUSTOM_GONE"})
    return NodeSave(tally=Tally(node=told, entries=ledger.entries(node.uuid)), expected_generation=node.generation)
