"""
Step 7: save the records that changed, then make the scheduler agree. Law: nothing unsaved reaches the scheduler.

What the scheduler refuses becomes a problem on the node; the next refresh tries again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from stocktake.errors import LedgerError, PlacementConflict, PlacementError, PlacementUnreachable, StocktakeError
from stocktake.ledger import Ledger, NodeSave
from stocktake.model.books import ComputeNode, Tally
from stocktake.model.problem import Problem
from stocktake.model.provider import ProviderTree
from stocktake.model.value import replace
from stocktake.model.workload import NodeWork
from stocktake.placement import Scheduler, Synced

ROUNDS_MAX = 4
_PREFIX = "placement-"
_SCHEDULER_ERRORS = (PlacementUnreachable, PlacementError, PlacementConflict)


@dataclass(frozen=True, slots=True)
class Books:
    """One node ready to be saved and reported: what it was tallied from, its tally, what the scheduler should hold."""

    work: NodeWork
    tally: Tally
    tree: ProviderTree


@dataclass(slots=True)
class Reported:
    """What became of the nodes of one pass."""

    saved: dict[str, ComputeNode] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    failed: dict[str, StocktakeError] = field(default_factory=dict)
    unsynced: dict[str, StocktakeError] = field(default_factory=dict)
    writes: int = 0


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
        owned_traits=node.owned_traits | traits,
        owned_classes=node.owned_classes | classes,
    )


def changed(node: ComputeNode, before: ComputeNode | None) -> bool:
    """Say whether some field other than the times differs from what was last written."""
    return before is None or replace(node, updated_at=before.updated_at, created_at=before.created_at) != before


def save(ledger: Ledger, books: Mapping[str, Books], again: Callable[[Sequence[str]], Mapping[str, Books]]) -> Reported:
    """
    Save the nodes that changed, in one transaction; those that somebody else changed meanwhile are tallied again.

    Args:
        books: by node name.
        again: reads the ledger again for these nodes and tallies them, without asking the hypervisor.
    """
    result = Reported()
    pending = dict(books)
    for _ in range(ROUNDS_MAX):
        saves: dict[str, NodeSave] = {}
        for name, book in pending.items():
            before = book.work.record
            if changed(book.tally.node, before) or book.tally.stale_migrations or _devices_differ(book):
                expected = before.generation if before else None
                saves[name] = NodeSave(tally=book.tally, expected_generation=expected)
            elif before is not None:
                result.saved[name] = before
        if not saves:
            return result
        outcome = ledger.save(tuple(saves.values()))
        for name, wanted in saves.items():
            uuid = wanted.tally.node.uuid
            if uuid in outcome.saved:
                result.saved[name] = outcome.saved[uuid]
                result.changed.add(name)
        conflicts = [name for name in saves if saves[name].tally.node.uuid in outcome.conflicts]
        if not conflicts:
            return result
        pending = dict(again(conflicts))
    remedy = "The next refresh tries again."
    for name in pending:
        what = f"the node's row was changed by others {ROUNDS_MAX} times over"
        result.failed[name] = LedgerError(what, where=name, remedy=remedy)
    return result


def sync(
    ledger: Ledger,
    scheduler: Scheduler,
    books: Mapping[str, Books],
    result: Reported,
    *,
    full: bool,
    stop: Callable[[], bool],
) -> None:
    """Make the scheduler agree with every saved node until told to stop, and save what it said where that changed."""
    trees = {name: books[name].tree for name in result.saved if name in books}
    outcome = scheduler.sync(trees, full=full, stop=stop)
    saves: dict[str, NodeSave] = {}
    for name, answer in outcome.items():
        node = result.saved[name]
        released: frozenset[str] = frozenset()
        if isinstance(answer, Synced):
            result.writes += answer.writes
            traits, classes = _names(trees[name])
            owned = classes | answer.kept_classes
            after = _with_problems(node, answer.problems, owned_traits=traits, owned_classes=owned)
            released, error = _release(scheduler, books[name])
        else:
            error = answer
            after = node
        if error is not None:
            result.unsynced[name] = error
            after = _with_problems(after, (_trouble(error, name),))
        if after != node or released:
            tally = replace(books[name].tally, node=after, stale_migrations=())
            saves[name] = NodeSave(tally=tally, expected_generation=node.generation, released=released)
    if saves:
        kept = ledger.save(tuple(saves.values()))
        for name, wanted in saves.items():
            # A conflict here means that somebody claimed meanwhile: the next refresh says it again.
            result.saved[name] = kept.saved.get(wanted.tally.node.uuid, result.saved[name])
            result.changed.add(name)


def _release(scheduler: Scheduler, book: Books) -> tuple[frozenset[str], StocktakeError | None]:
    """Remove what deleted instances still hold on the node's providers."""
    if not book.work.deleted_uuids:
        return frozenset(), None
    try:
        uuids = [provider.uuid for provider in book.tree.providers]
        return scheduler.release(book.work.deleted_uuids, uuids), None
    except _SCHEDULER_ERRORS as error:
        return frozenset(), error


def _with_problems(node: ComputeNode, said: Sequence[Problem], **names: frozenset[str]) -> ComputeNode:
    """Replace what the scheduler said before by what it says now."""
    ours = [problem for problem in node.problems if not problem.code.startswith(_PREFIX)]
    theirs = [replace(problem, code=_PREFIX + problem.code.removeprefix(_PREFIX)) for problem in said]
    problems = (*ours, *sorted(theirs, key=lambda problem: (problem.code, problem.about, problem.text)))
    return replace(node, problems=problems, **names)


def _trouble(error: StocktakeError, name: str) -> Problem:
    code = "unreachable" if isinstance(error, PlacementUnreachable) else "refused"
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
