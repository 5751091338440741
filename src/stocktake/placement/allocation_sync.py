"""
Step 7b: make what consumers hold of nodes what the ledger says. Invariant: who is unknown is left alone, and so is what
anybody holds elsewhere.

What was agreed on is remembered with the providers' generations. A use that ended does not show in these: `forget`
lets all be read again.
"""

from collections.abc import Callable, Collection, Mapping
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

    def forget(self, root: str | None = None) -> None:
        """Remember nothing of one node, or of any."""
        if root is None:
            self._agreed.clear()
        else:
            self._agreed.pop(root, None)

    def sync_allocations(
        self, nodes: Mapping[str, NodeAllocations], ask: Ask, *, stop: Callable[[], bool]
    ) -> dict[str, SyncedAllocations | StocktakeError]:
        """Make the allocations on nodes what they should be; see `Scheduler`."""
        changed = {name: self._changed(node) for name, node in nodes.items()}
        result: dict[str, SyncedAllocations | StocktakeError] = {
            name: SyncedAllocations(problems=_problems(name, self._agreed[node.root]))
            for name, node in nodes.items()
            if not changed[name]
        }
        rest = [name for name in nodes if changed[name]]
        failures = 0
        for name in rest:
            if stop():
                break
            try:
                synced = self._sync(name, nodes[name], changed[name], ask)
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

    def _sync(
        self, name: str, node: NodeAllocations, changed: Mapping[str, _State], ask: Ask
    ) -> SyncedAllocations | None:
        """Put one node's changed providers right; None if its books changed since they were read."""
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
        return SyncedAllocations(problems=(*_problems(name, agreed), *retryable), writes=self._session.writes - writes)

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


def _within(allocation: Allocation, providers: Collection[str]) -> Allocation:
    resources = {uuid: amounts for uuid, amounts in allocation.resources.items() if uuid in providers}
    return replace(allocation, resources=resources)


def _problems(name: str, agreed: _Agreed) -> tuple[Problem, ...]:
    """Make the problems that stay as long as nothing changes."""
    unknown = sorted(frozenset().union(*agreed.unknown.values()))
    if not unknown:
        return agreed.refused
    more = f" and {len(unknown) - _NAMED_MAX} more" if len(unknown) > _NAMED_MAX else ""
    problem = Problem(
        code="allocation-unknown",
        about=name,
        text=f"consumers that the ledger does not know hold something of it: {', '.join(unknown[:_NAMED_MAX])}{more}",
        remedy=(
            "They are left alone. If nobody needs them, delete them (openstack resource provider allocation delete "
            "UUID) and refresh with --full."
        ),
    )
    return (problem, *agreed.refused)


def _refused(consumer: str, why: str) -> Problem:
    return Problem(
        code="allocation-refused",
        about=consumer,
        text=f"the scheduler does not give {consumer} what it holds here: {why}",
        remedy="Make room on the node, or raise its allocation ratio; it is tried again once something changes.",
        severity="error",
    )
