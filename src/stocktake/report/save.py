"""
Step 7: save the records that changed, then make the scheduler agree. Invariant: nothing unsaved reaches the scheduler.

What the scheduler refuses becomes a problem on the node; the next refresh tries again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Protocol

from stocktake.errors import LedgerError, NotFound, PlacementUnreachable, ProviderNotOurs, StocktakeError
from stocktake.ledger import Ledger, NodeSave, SaveOutcome
from stocktake.model.books import ComputeNode, Tally
from stocktake.model.problem import Problem, ordered
from stocktake.model.provider import Allocation, Holdings, ProviderTree
from stocktake.model.value import replace, shared
from stocktake.model.workload import NodeWork
from stocktake.placement import Guard, Scheduler, Synced, SyncedAllocations

ROUNDS_MAX = 4
_PREFIX = "placement-"
_ALLOCATION = "placement-allocation-"
_NONE = SyncedAllocations()


@dataclass(frozen=True, slots=True)
class Books:
    """
    One node ready to be saved and reported: what it was tallied from, its tally, what the scheduler should hold.

    Attributes:
        allocations: by consumer, where they are ours to write.
    """

    work: NodeWork
    tally: Tally
    tree: ProviderTree
    allocations: Mapping[str, Allocation] = field(default_factory=dict)


@dataclass(slots=True)
class Reported:
    """
    What became of the nodes of one pass, by name.

    Attributes:
        books: what each was saved from.
    """

    books: dict[str, Books] = field(default_factory=dict)
    saved: dict[str, ComputeNode] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    failed: dict[str, StocktakeError] = field(default_factory=dict)
    unsynced: dict[str, StocktakeError] = field(default_factory=dict)
    writes: int = 0
    saves: int = 0
    conflicts: int = 0

    def count(self, outcome: SaveOutcome) -> None:
        """Add up what the ledger said of a save."""
        self.saves += len(outcome.saved)
        self.conflicts += len(outcome.conflicts)


def carried(node: ComputeNode, tree: ProviderTree, before: ComputeNode | None) -> ComputeNode:
    """
    Complete a tallied record with what the scheduler said last, and with the names that will be ours.

    What the scheduler refused stays a problem until it agrees. Names are ours from before they are written until after
    they are taken away, so that a crash between the two forgets none.
    """
    kept = tuple(problem for problem in before.problems if problem.code.startswith(_PREFIX)) if before else ()
    traits, classes = _names(tree)
    return replace(
        node,
        problems=(*node.problems, *kept),
        traits=tree.root.traits,
        owned_traits=shared(node.owned_traits | traits),
        owned_classes=shared(node.owned_classes | classes),
    )


def changed(node: ComputeNode, before: ComputeNode | None) -> bool:
    """Say whether some field other than the times differs from what was last written."""
    return before is None or replace(node, updated_at=before.updated_at, created_at=before.created_at) != before


@dataclass(frozen=True, slots=True)
class Terms:
    """
    How the scheduler is told.

    Attributes:
        own: the allocations on the nodes are ours to write; else they are never touched.
        full: everything is read back, whatever its generation.
        forced: the uuid of a node's provider that an operator typed out, to be written whoever has it.
        saved: called once all is saved, before the scheduler is told.
        stop: asked then, and after each node; once it says yes, the scheduler is told no more.
        progress: told how many nodes are done, and of how many.
    """

    own: bool = False
    full: bool = False
    forced: str | None = None
    saved: Callable[[], object] = lambda: None
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[int, int], object] = lambda _done, _total: None


class Counting(Protocol):
    """What counts nodes that others changed meanwhile; see `save`."""

    def counted_again(self, nodes: Sequence[str]) -> Mapping[str, Books]:
        """Read nodes again and tally them."""
        ...

    def saved_locked(self, nodes: Sequence[str]) -> tuple[Mapping[str, Books], SaveOutcome]:
        """Do the same with the nodes' rows locked, and save them."""
        ...


def report(
    ledger: Ledger,
    scheduler: Scheduler,
    books: Mapping[str, Books],
    counting: Counting,
    terms: Terms,
) -> Reported:
    """Save the nodes that changed, then make the scheduler agree with what was saved; see `save` and `sync`."""
    result = save(ledger, books, counting.counted_again, counting.saved_locked)
    terms.saved()
    if not terms.stop():
        sync(ledger, scheduler, result, terms)
    return result


def save(
    ledger: Ledger,
    books: Mapping[str, Books],
    count_again: Callable[[Sequence[str]], Mapping[str, Books]],
    save_locked: Callable[[Sequence[str]], tuple[Mapping[str, Books], SaveOutcome]],
) -> Reported:
    """
    Save the nodes that changed, in one transaction; those that somebody else changed meanwhile are tallied again.

    On a node where others claim without a pause that would go on for ever: the last round locks the nodes' rows while
    they are read, tallied and saved.

    Args:
        books: by node name.
        count_again: reads these nodes again and tallies them, without asking the hypervisor; it leaves out those that
            other services have now.
        save_locked: the same, with the nodes' rows locked, and saves them.
    """
    result = Reported(books=dict(books))
    pending: Sequence[str] = tuple(books)
    for _ in range(ROUNDS_MAX - 1):
        saves = _saves(result, pending)
        if not saves:
            return result
        pending = _saved(result, saves, ledger.save(tuple(saves.values())))
        fresh = count_again(pending) if pending else {}
        if not fresh:
            return result
        result.books.update(fresh)
        pending = tuple(fresh)
    fresh, outcome = save_locked(pending)
    result.books.update(fresh)
    pending = _saved(result, _saves(result, tuple(fresh)), outcome)
    remedy = "The next refresh tries again."
    for name in pending:
        what = "the node was made or deleted by others meanwhile"
        result.failed[name] = LedgerError(what, where=name, remedy=remedy)
    return result


def _saves(result: Reported, pending: Sequence[str]) -> dict[str, NodeSave]:
    """Pick the nodes that differ from what was read; the others are saved already."""
    saves: dict[str, NodeSave] = {}
    for name in pending:
        book = result.books[name]
        wanted = save_of(book)
        if wanted is not None:
            saves[name] = wanted
        elif book.work.record is not None:
            result.saved[name] = book.work.record
    return saves


def save_of(book: Books) -> NodeSave | None:
    """Give what is to be saved of a node; None if nothing differs from what was read."""
    before = book.work.record
    if changed(book.tally.node, before) or book.tally.stale_migrations or _devices_differ(book):
        return NodeSave(tally=book.tally, expected_generation=before.generation if before else None)
    return None


def _saved(result: Reported, saves: Mapping[str, NodeSave], outcome: SaveOutcome) -> tuple[str, ...]:
    """Note what was saved; give the nodes that somebody else changed."""
    result.count(outcome)
    for name, wanted in saves.items():
        uuid = wanted.tally.node.uuid
        if uuid in outcome.saved:
            result.saved[name] = outcome.saved[uuid]
            result.changed.add(name)
    return tuple(name for name, wanted in saves.items() if wanted.tally.node.uuid in outcome.conflicts)


def sync(ledger: Ledger, scheduler: Scheduler, result: Reported, terms: Terms) -> None:
    """Make the scheduler agree with every saved node until told to stop, and save what it said where that changed."""
    books = result.books
    trees = {name: books[name].tree for name in result.saved}
    done = count()

    def stop_after() -> bool:
        terms.progress(next(done), len(trees))
        return terms.stop()

    guard = Guard(known=ledger.known_consumers, forced=terms.forced)
    outcome = scheduler.sync(trees, guard, full=terms.full, stop=stop_after)
    terms.progress(len(outcome), len(trees))
    synced = {name: books[name] for name, answer in outcome.items() if isinstance(answer, Synced)}
    allocated = (
        _sync_allocations(ledger, scheduler, synced, result, terms.stop) if terms.own else dict.fromkeys(synced, _NONE)
    )
    saves: dict[str, NodeSave] = {}
    for name, answer in outcome.items():
        node, book, consumers = result.saved[name], books[name], allocated.get(name)
        after = node
        if isinstance(answer, Synced):
            traits, classes = _names(book.tree)
            said = (*answer.problems, *_said(node, consumers))
            after = _with_problems(node, said, owned_traits=traits, owned_classes=classes | answer.kept_classes)
            result.writes += answer.writes
        # Foreign allocations of deleted instances are not ours to wait for.
        released = book.work.deleted_uuids if isinstance(consumers, SyncedAllocations) else frozenset()
        result.writes += consumers.writes if isinstance(consumers, SyncedAllocations) else 0
        error = next((said for said in (answer, consumers) if isinstance(said, StocktakeError)), None)
        if error is not None:
            result.unsynced[name] = error
            after = _with_problems(after, (_trouble(error, name),))
        if after != node or released:
            tally = replace(book.tally, node=after, stale_migrations=())
            saves[name] = NodeSave(
                tally=tally, expected_generation=node.generation, released=released, record_only=True
            )
    if saves:
        kept = ledger.save(tuple(saves.values()))
        result.count(kept)
        for name, wanted in saves.items():
            # A conflict here means that somebody claimed meanwhile: the next refresh says it again.
            result.saved[name] = kept.saved.get(wanted.tally.node.uuid, result.saved[name])
            result.changed.add(name)


def _sync_allocations(
    ledger: Ledger, scheduler: Scheduler, books: Mapping[str, Books], result: Reported, stop: Callable[[], bool]
) -> dict[str, SyncedAllocations | StocktakeError]:
    """Make the allocations on these nodes what their entries say."""

    def ask(name: str, unexpected: frozenset[str]) -> frozenset[str] | None:
        node = result.saved[name]
        try:
            now = ledger.node(node.uuid)
        except NotFound:
            return None
        return ledger.known_consumers(unexpected) if now.generation == node.generation else None

    return scheduler.sync_allocations(
        {name: Holdings(tree=book.tree, allocations=book.allocations) for name, book in books.items()}, ask, stop=stop
    )


def _said(node: ComputeNode, consumers: SyncedAllocations | StocktakeError | None) -> Sequence[Problem]:
    """Give what is wrong with a node's allocations; what was, where nobody looked."""
    if isinstance(consumers, SyncedAllocations):
        return consumers.problems
    return [problem for problem in node.problems if problem.code.startswith(_ALLOCATION)]


def _with_problems(node: ComputeNode, said: Sequence[Problem], **names: frozenset[str]) -> ComputeNode:
    """Replace what the scheduler said before by what it says now."""
    ours = [problem for problem in node.problems if not problem.code.startswith(_PREFIX)]
    theirs = [replace(problem, code=_PREFIX + problem.code.removeprefix(_PREFIX)) for problem in said]
    return replace(node, problems=ordered((*ours, *theirs)), **names)


def _trouble(error: StocktakeError, name: str) -> Problem:
    code = "unreachable" if isinstance(error, PlacementUnreachable) else "refused"
    if isinstance(error, ProviderNotOurs):
        code = "provider-not-ours"
    return Problem(
        code=_PREFIX + code,
        about=name,
        text=f"the scheduler does not have these figures: {error.what}",
        remedy=error.remedy or "It is tried again at every refresh.",
        severity="error",
    )


def _names(tree: ProviderTree) -> tuple[frozenset[str], frozenset[str]]:
    """Collect the traits and classes that we put on a node's providers."""
    traits = frozenset().union(*(provider.traits for provider in tree.providers))
    classes = frozenset(name for provider in tree.providers for name in provider.inventories)
    return traits, classes


def _devices_differ(book: Books) -> bool:
    """Say whether a tracked device changed without any figure of the record doing so."""
    before = {record.address: record for record in book.work.pci_devices}
    return before != {record.address: record for record in book.tally.pci_devices}
