"""
Step 7b: make what consumers hold of nodes what the ledger says. Invariant: who is unknown is left alone, and so is what
anybody holds elsewhere.

What was agreed on is remembered with the providers' generations. An allocation that others deleted does not show in
these: of few providers it is read in each pass, of many after `doubt`.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

import msgspec

from stocktake.errors import PlacementConflict, PlacementError, PlacementUnreachable, StocktakeError
from stocktake.model.fitting import NoRoom
from stocktake.model.problem import Problem
from stocktake.model.provider import Allocation
from stocktake.model.value import replace
from stocktake.placement.allocations import giving, read_held, release_one
from stocktake.placement.scheduler import FAILURES_MAX, Ask, SyncedAllocations
from stocktake.placement.session import PlacementSession, RetryPolicy

# So many new consumers are written at once: more saves nothing, and keeps other writers waiting.
TOGETHER_MAX = 20
# Of so many providers of a host, it is read in each pass whether what was agreed on is still held: 6 ms each.
LOOKED_AT_MAX = 32
_NAMED_MAX = 5
_ENCODER = msgspec.json.Encoder(order="deterministic")


@dataclass(frozen=True, slots=True)
class NodeAllocations:
    """One node: its root, its providers with their generations, and what should be held of them, by consumer."""

    root: str
    generations: Mapping[str, int]
    allocations: Mapping[str, Allocation]


@dataclass(frozen=True, slots=True)
class _State:
    """A provider's generation, and a digest of what should be held of it: as long as both stay, it is held."""

    generation: int
    wanted: bytes


@dataclass(frozen=True, slots=True)
class _Agreed:
    """What a node was like, by provider, the consumers that nobody knows, by provider, and what was refused."""

    states: Mapping[str, _State]
    unknown: Mapping[str, frozenset[str]]
    refused: tuple[Problem, ...]


_NOTHING = _Agreed({}, {}, ())
# No provider has this generation.
_NEVER = -1


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What was refused, and whether to try again though nothing changed."""

    problem: Problem
    retryable: bool


class AllocationSync:
    """The allocations on nodes, and what was agreed on."""

    def __init__(self, session: PlacementSession, retry: RetryPolicy) -> None:
        self._session = session
        self._retry = retry
        self._agreed: dict[str, _Agreed] = {}

    def forget(self, root: str) -> None:
        """Remember nothing of a node."""
        self._agreed.pop(root, None)

    def doubt(self, root: str | None = None) -> None:
        """Let all be read again that is held of one node, or of any."""
        for uuid in self._agreed if root is None else self._agreed.keys() & {root}:
            agreed = self._agreed[uuid]
            states = {provider: _State(_NEVER, state.wanted) for provider, state in agreed.states.items()}
            self._agreed[uuid] = _Agreed(states, agreed.unknown, agreed.refused)

    def sync_allocations(
        self, nodes: Mapping[str, NodeAllocations], ask: Ask, *, stop: Callable[[], bool]
    ) -> dict[str, SyncedAllocations | StocktakeError]:
        """Make the allocations on nodes what they should be; see `Scheduler`."""
        changed = {name: self._changed(node) for name, node in nodes.items()}
        looked_at = _looked_at(nodes)
        rest = dict.fromkeys(name for name in nodes if changed[name] or looked_at.get(name))
        result: dict[str, SyncedAllocations | StocktakeError] = {
            name: SyncedAllocations(problems=_problems(name, self._agreed[node.root]))
            for name, node in nodes.items()
            if name not in rest
        }
        failures = 0
        for name in rest:
            if stop():
                break
            try:
                others = [uuid for uuid in looked_at.get(name, ()) if uuid not in changed[name]]
                now = {**changed[name], **self._lacking(nodes[name], others)}
                synced = self._sync(name, nodes[name], now, ask)
            except PlacementUnreachable as error:
                failures += 1
                result[name] = error
                if not self._session.answered or failures >= FAILURES_MAX:
                    # Thousands of nodes must not wait for thousands of timeouts.
                    return {**dict.fromkeys(rest, error), **result}
            except (PlacementError, PlacementConflict) as error:
                result[name] = error
            else:
                failures = 0
                if synced is not None:
                    result[name] = synced
        return result

    def _changed(self, node: NodeAllocations) -> Mapping[str, _State]:
        """Give the providers that are not as they were; all of them if any is and something was refused."""
        now = _states(node)
        before = self._agreed.get(node.root, _NOTHING)
        changed = {uuid: state for uuid, state in now.items() if before.states.get(uuid) != state}
        return now if changed and before.refused else changed

    def _lacking(self, node: NodeAllocations, uuids: Collection[str]) -> Mapping[str, _State]:
        """Give the providers that lack something that was agreed on: a deleted allocation changes no generation."""
        before = self._agreed.get(node.root, _NOTHING)
        states = {uuid: before.states[uuid] for uuid in uuids}
        held, _ = read_held(self._session, uuids)
        return {uuid: states[uuid] for _, uuid in _removed(node, before, states, held)}

    def _sync(
        self, name: str, node: NodeAllocations, changed: Mapping[str, _State], ask: Ask
    ) -> SyncedAllocations | None:
        """Put one node's changed providers right; None if its books changed since they were read."""
        if not changed:
            return SyncedAllocations(problems=_problems(name, self._agreed[node.root]))
        writes = self._session.writes
        held, generations = read_held(self._session, sorted(changed))
        desired = {consumer: _within(allocation, changed) for consumer, allocation in node.allocations.items()}
        wrong = {
            consumer: allocation
            for consumer, allocation in desired.items()
            if allocation.resources != held.get(consumer, {})
        }
        unexpected = frozenset(held.keys() - desired.keys())
        known: frozenset[str] = frozenset()
        if wrong or unexpected:
            # Asked after reading: what a claim had written by then was in the ledger before. What is written later
            # changes a generation.
            answer = ask(name, unexpected)
            if answer is None:
                return None
            known = unexpected & answer
        before = self._agreed.pop(node.root, _NOTHING)
        removed = sorted({consumer for consumer, _ in _removed(node, before, changed, held)})
        for consumer in sorted(known):
            release_one(self._session, consumer, changed.keys(), generation=generations[consumer])
        refused, retryable = self._give(wrong, generations, changed.keys())
        unknown = {uuid: frozenset(who for who in unexpected - known if uuid in held[who]) for uuid in changed}
        agreed = _Agreed(
            states={uuid: changed[uuid] if uuid in changed else before.states[uuid] for uuid in node.generations},
            unknown={uuid: unknown[uuid] if uuid in unknown else before.unknown[uuid] for uuid in node.generations},
            refused=tuple(refused),
        )
        if not retryable:
            self._agreed[node.root] = agreed
        told = (*_problems(name, agreed), *retryable, *([_removal(name, removed)] if removed else []))
        return SyncedAllocations(problems=told, writes=self._session.writes - writes)

    def _give(
        self, wrong: Mapping[str, Allocation], generations: Mapping[str, int], within: Collection[str]
    ) -> tuple[list[Problem], list[Problem]]:
        """
        Write what is wrong; who holds something already comes first: he may hold too much.

        Returns:
            What is refused for want of room, and what went wrong otherwise and is to be tried again.
        """
        refusals: list[_Refusal | None] = []
        for consumer in sorted(wrong.keys() & generations.keys()):
            give = giving(self._session, [wrong[consumer]], within=within, generation=generations[consumer])
            refusals.append(_given(consumer, give))
        new = [wrong[consumer] for consumer in sorted(wrong.keys() - generations.keys())]
        for first in range(0, len(new), TOGETHER_MAX):
            several = new[first : first + TOGETHER_MAX]
            fresh = [allocation.consumer for allocation in several]
            # All at once takes a third of the time. If one is in the way nobody is given anything: then one by one.
            if len(several) > 1 and _given("", giving(self._session, several, fresh=fresh, within=within)) is None:
                continue
            for allocation in several:
                give = giving(self._session, [allocation], fresh=fresh, within=within)
                refusals.append(_given(allocation.consumer, partial(self._retry, give)))
        refused = [refusal.problem for refusal in refusals if refusal and not refusal.retryable]
        return refused, [refusal.problem for refusal in refusals if refusal and refusal.retryable]


def _given(consumer: str, give: Callable[[], tuple[NoRoom, ...]]) -> _Refusal | None:
    """Give something, and say why it can't be given."""
    try:
        missing = give()
    except (PlacementError, PlacementConflict) as error:
        return _Refusal(_refused(consumer, error.what), retryable=True)
    return _Refusal(_refused(consumer, "; ".join(lack.text for lack in missing)), retryable=False) if missing else None


def _states(node: NodeAllocations) -> dict[str, _State]:
    """Say what each provider is like now."""
    wanted: dict[str, dict[str, Mapping[str, int]]] = {uuid: {} for uuid in node.generations}
    for consumer, allocation in node.allocations.items():
        for uuid, amounts in allocation.resources.items():
            wanted[uuid][consumer] = amounts
    return {
        uuid: _State(generation, blake2b(_ENCODER.encode(wanted[uuid]), digest_size=16).digest())
        for uuid, generation in node.generations.items()
    }


def _looked_at(nodes: Mapping[str, NodeAllocations]) -> dict[str, tuple[str, ...]]:
    """Give the providers of which something should be held, by node; none if there are too many to read each pass."""
    if len(nodes) > LOOKED_AT_MAX:
        return {}
    desired = {
        name: tuple(sorted({uuid for allocation in node.allocations.values() for uuid in allocation.resources}))
        for name, node in nodes.items()
    }
    return desired if sum(map(len, desired.values())) <= LOOKED_AT_MAX else {}


def _removed(
    node: NodeAllocations, before: _Agreed, now: Mapping[str, _State], held: Mapping[str, Mapping[str, object]]
) -> list[tuple[str, str]]:
    """Give who lost all that he held of a provider, and of which, where the same is desired as was agreed on."""
    refused = {problem.about for problem in before.refused}
    same = {uuid for uuid, state in now.items() if uuid in before.states and before.states[uuid].wanted == state.wanted}
    return [
        (consumer, uuid)
        for consumer, allocation in node.allocations.items()
        for uuid in allocation.resources
        if uuid in same and consumer not in refused and uuid not in held.get(consumer, {})
    ]


def _within(allocation: Allocation, providers: Collection[str]) -> Allocation:
    resources = {uuid: amounts for uuid, amounts in allocation.resources.items() if uuid in providers}
    return replace(allocation, resources=resources)


def _problems(name: str, agreed: _Agreed) -> tuple[Problem, ...]:
    """Make the problems that stay as long as nothing changes."""
    unknown = sorted(frozenset().union(*agreed.unknown.values()))
    if not unknown:
        return agreed.refused
    problem = Problem(
        code="allocation-unknown",
        about=name,
        text=f"consumers that the ledger does not know hold something of it: {_named(unknown)}",
        remedy=(
            "They are left alone. If they are not needed, delete them (openstack resource provider allocation delete "
            "UUID) and refresh with --full."
        ),
    )
    return (problem, *agreed.refused)


def _removal(name: str, removed: Sequence[str]) -> Problem:
    return Problem(
        code="allocation-removed",
        about=name,
        text=f"somebody deleted the allocations of {_named(removed)} on it; they are written again",
        remedy=(
            "Find out who: `nova-manage placement audit --delete`, for one, takes for leaked whatever no instance of "
            "Nova's holds. Keep it from this Placement, or give stocktake one of its own."
        ),
    )


def _named(consumers: Sequence[str]) -> str:
    more = f" and {len(consumers) - _NAMED_MAX} more" if len(consumers) > _NAMED_MAX else ""
    return f"{', '.join(consumers[:_NAMED_MAX])}{more}"


def _refused(consumer: str, why: str) -> Problem:
    return Problem(
        code="allocation-refused",
        about=consumer,
        text=f"the scheduler refuses the allocation of {consumer} here: {why}",
        remedy="Make room on the node, or raise its allocation ratio; it is tried again once something changes.",
        severity="error",
    )
