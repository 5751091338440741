"""
Step 7b: a Placement service, embedded or remote. Invariant: where nothing changed, one request and no write.

What was read and written is remembered with its generation, so that only providers that somebody else changed are read
again. Generations don't show everything (a provider deleted and made anew, a usage that ended): `is_as_agreed` reads
back, and `full` all.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from urllib.parse import quote

from stocktake.errors import PlacementUnreachable, StocktakeError
from stocktake.model.fitting import NoRoom
from stocktake.model.provider import Allocation, Found, Holdings, ProviderTree
from stocktake.model.value import replace
from stocktake.placement import providers
from stocktake.placement.allocation_sync import AllocationSync, NodeAllocations
from stocktake.placement.allocations import giving, read_held
from stocktake.placement.contests import Contests
from stocktake.placement.guard import check_ours, clash, delete_ours
from stocktake.placement.plan import adopted, droppable, ours, plan, undone, written
from stocktake.placement.providers import Listed
from stocktake.placement.scheduler import (
    FAILURES_MAX,
    STRICT,
    Allocations,
    Ask,
    Guard,
    Reached,
    Synced,
    SyncedAllocations,
    never,
)
from stocktake.placement.session import PlacementSession, RetryPolicy


@dataclass(frozen=True, slots=True)
class _Settled:
    """A tree that Placement agreed with: it still does if neither the tree nor any generation changed."""

    wanted: ProviderTree
    stamp: frozenset[tuple[str, str, str | None, int]]
    answer: Synced


class PlacementClient:
    """
    A Placement service, embedded or remote.

    Args:
        retry: how often a conflict is read and planned again.
        now: gives the time of day.
    """

    def __init__(self, session: PlacementSession, retry: RetryPolicy, now: Callable[[], datetime]) -> None:
        self._session = session
        self._retry = retry
        self._allocation_sync = AllocationSync(session, retry)
        self._aliases: dict[str, str] = {}
        self._seen: dict[str, Found] = {}
        # What was last left in Placement, though it may have to be read again.
        self._left: dict[str, Found] = {}
        self._contests = Contests(now)
        self._settled: dict[str, _Settled] = {}
        self._known: set[str] = set()
        self._mutex = threading.Lock()

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return self._session.requests

    @property
    def writes(self) -> int:
        """How many of them were not GETs."""
        return self._session.writes

    def sync(
        self,
        trees: Mapping[str, ProviderTree],
        guard: Guard = STRICT,
        *,
        full: bool = False,
        stop: Callable[[], bool] = never,
    ) -> dict[str, Synced | StocktakeError]:
        """Make Placement agree with these trees."""
        with self._mutex:
            result = self._synced(trees, guard, full=full, stop=stop)
            return {name: self._told(trees[name], answer) for name, answer in result.items()}

    def sync_allocations(
        self, nodes: Mapping[str, Holdings], ask: Ask, *, stop: Callable[[], bool] = never
    ) -> dict[str, SyncedAllocations | StocktakeError]:
        """Make the allocations on nodes what they should be."""
        with self._mutex:
            allocations = {
                name: self._node_allocations(holdings)
                for name, holdings in nodes.items()
                if holdings.tree.root.uuid in self._settled
            }
            return self._allocation_sync.sync_allocations(allocations, ask, stop=stop)

    def is_as_agreed(self, root_uuid: str) -> bool:
        """Read a node's providers back; if anything is not as it was agreed on, all of it is read again."""
        with self._mutex:
            settled = self._settled.get(root_uuid)
            if settled is None:
                return True
            # Who holds what is read again by the next pass, in any case.
            self._allocation_sync.doubt(root_uuid)
            listed = providers.list_tree(self._session, root_uuid)
            ours = [one for one in listed if one.uuid in self._seen]
            # What was in use and could not go may be free by now: no generation tells.
            waits = settled.answer.problems or settled.answer.kept_classes
            same = (
                not waits
                and _stamp(map(_bare, listed)) == settled.stamp
                and all(providers.read_found(self._session, one) == self._seen[one.uuid] for one in ours)
            )
            if not same:
                del self._settled[root_uuid]
                for one in ours:
                    del self._seen[one.uuid]
            return same

    def allocate(self, allocations: Sequence[Allocation]) -> tuple[NoRoom, ...]:
        """Make consumers hold exactly this."""
        fresh = [one.consumer for one in allocations] if len(allocations) == 1 else []

        def give() -> tuple[NoRoom, ...]:
            return self._retry(giving(self._session, [self._real(one) for one in allocations], fresh=fresh))

        missing = give()
        # What has no capacity may be there under another uuid.
        return give() if any(not lack.total for lack in missing) and self._recognize(allocations) else missing

    def delete_tree(self, root_uuid: str, guard: Guard = STRICT) -> None:
        """Delete a tree with its allocations."""
        self._retry(partial(delete_ours, self._session, guard, root_uuid))
        with self._mutex:
            self._settled.pop(root_uuid, None)
            gone = [uuid for uuid, seen in self._seen.items() if root_uuid in (uuid, seen.parent_uuid)]
            for uuid in gone:
                del self._seen[uuid]
                self._left.pop(uuid, None)
            self._contests.forget(root_uuid)
            self._allocation_sync.forget(root_uuid)

    def allocations(self, provider_uuid: str) -> Allocations:
        """Read a provider's allocations."""
        return read_held(self._session, [provider_uuid])[0]

    def providers(self, *, root_uuid: str | None = None, contents: bool = False) -> tuple[Found, ...]:
        """Read providers back from Placement itself, not from memory."""
        listed = (
            providers.list_all(self._session) if root_uuid is None else providers.list_tree(self._session, root_uuid)
        )
        if contents:
            return tuple(there for one in listed if (there := providers.read_found(self._session, one)) is not None)
        return tuple(_bare(one) for one in listed)

    def ping(self) -> str:
        """Ask for the microversion in use."""
        major, minor = self._session.ping()
        return f"{major}.{minor}"

    def check(self, name: str) -> Reached:
        """Ask for something that takes the roles that we need."""
        version = self.ping()
        answer = self._session.get(f"/resource_providers?name={quote(name)}")
        if not answer.fine:
            raise answer.refused()
        return Reached(version=version, url=self._session.url())

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _synced(
        self, trees: Mapping[str, ProviderTree], guard: Guard, *, full: bool, stop: Callable[[], bool]
    ) -> dict[str, Synced | StocktakeError]:
        if not trees:
            return {}
        if full:
            self._forget()
        try:
            listed = self._listed(trees)
        except StocktakeError as error:
            return dict.fromkeys(trees, error)
        result: dict[str, Synced | StocktakeError] = {}
        failures = 0
        for name, tree in trees.items():
            if stop():
                break
            try:
                result[name] = self._agree(tree, listed.get(tree.root.uuid, ()), guard)
            except PlacementUnreachable as error:
                failures += 1
                result[name] = error
                if not self._session.answered or failures >= FAILURES_MAX:
                    # Thousands of nodes must not wait for thousands of timeouts; who has nothing to tell does not.
                    rest = {one: self._agreed(tree, listed.get(tree.root.uuid, ())) for one, tree in trees.items()}
                    return {**{one: agreed or error for one, agreed in rest.items()}, **result}
            except StocktakeError as error:
                result[name] = error
                # A custom name that we made may have been deleted by others.
                self._known.clear()
            else:
                failures = 0
        return result

    def _told(self, tree: ProviderTree, answer: Synced | StocktakeError) -> Synced | StocktakeError:
        """Add that somebody else keeps writing, which what was agreed on does not say."""
        problem = self._contests.problem(tree.root)
        if problem is None or not isinstance(answer, Synced):
            return answer
        return replace(answer, problems=(*answer.problems, problem))

    def _forget(self) -> None:
        """Let everything be read again."""
        self._seen.clear()
        self._settled.clear()
        self._allocation_sync.doubt()

    def _listed(self, trees: Mapping[str, ProviderTree]) -> dict[str, tuple[Listed, ...]]:
        """Read what there is of each tree, by its root's uuid, in one request."""
        if len(trees) == 1:
            uuid = next(iter(trees.values())).root.uuid
            return {uuid: providers.list_tree(self._session, uuid)}
        groups: dict[str, list[Listed]] = {}
        top: dict[str, str] = {}
        for one in providers.list_all(self._session):
            groups.setdefault(one.root_provider_uuid, []).append(one)
            top[one.uuid] = one.root_provider_uuid
        roots = {tree.root.uuid for tree in trees.values()}
        return {uuid: tuple(groups[top[uuid]]) for uuid in roots if uuid in top}

    def _agreed(self, tree: ProviderTree, listed: tuple[Listed, ...]) -> Synced | None:
        """Say what it agreed to, if neither the tree nor anything in Placement changed since; no request."""
        before = self._settled.get(tree.root.uuid)
        if before is None or before.wanted != tree or before.stamp != _stamp(_bare(one) for one in listed):
            return None
        return Synced(problems=before.answer.problems, kept_classes=before.answer.kept_classes)

    def _agree(self, tree: ProviderTree, listed: tuple[Listed, ...], guard: Guard) -> Synced:
        """Bring one node's providers up to date; a conflict is read and planned again."""
        agreed = self._agreed(tree, listed)
        if agreed is not None:
            return agreed
        uuid = tree.root.uuid
        self._settled.pop(uuid, None)
        first = [listed]

        def once() -> Synced:
            return self._once(tree, first.pop() if first else providers.list_tree(self._session, uuid), guard)

        return self._retry(once)

    def _once(self, tree: ProviderTree, listed: tuple[Listed, ...], guard: Guard) -> Synced:
        """Read what is not known, plan, apply, remember."""
        found = {one.uuid: _bare(one) for one in listed}
        by_uuid = {one.uuid: one for one in listed}
        for uuid in ours(tree, found) & by_uuid.keys():
            there = self._content(by_uuid[uuid])
            if there is None:
                found.pop(uuid)
            else:
                found[uuid] = there
        used = {uuid: providers.read_used(self._session, uuid) for uuid in droppable(tree, found)}
        agreed = plan(tree, found, used)
        exist = written(agreed.steps, tree.root.uuid, found)
        if exist:
            check_ours(self._session, guard, tree.root.uuid, exist)
        before = self._session.writes
        try:
            after = providers.apply(self._session, agreed.steps, found, self._known)
        except StocktakeError as error:
            for uuid in found:
                self._seen.pop(uuid, None)
            if isinstance(error, providers.NameTaken):
                raise clash(self._session, guard, error) from error
            raise
        self._contests.note(tree.root.uuid, undone(agreed.steps, self._left, found))
        for uuid in found.keys() - after.keys():
            self._seen.pop(uuid, None)
            self._left.pop(uuid, None)
        agreed_on = {uuid: after[uuid] for uuid in ours(tree, after) & after.keys()}
        self._seen.update(agreed_on)
        self._left.update(agreed_on)
        self._alias(after.values())
        answer = Synced(
            problems=agreed.problems, writes=self._session.writes - before, kept_classes=agreed.kept_classes
        )
        self._settled[tree.root.uuid] = _Settled(wanted=tree, stamp=_stamp(after.values()), answer=answer)
        return answer

    def _node_allocations(self, holdings: Holdings) -> NodeAllocations:
        """
        Say what should be held of a node that was just synced, by its providers' real uuids.

        Of a device that is gone nothing should be held: its provider is there only until nobody does.
        """

        root = holdings.tree.root.uuid
        found = {
            uuid: Found(uuid=uuid, name=name, parent_uuid=parent, generation=generation)
            for uuid, name, parent, generation in self._settled[root].stamp
        }
        return NodeAllocations(
            root=root,
            generations={uuid: found[uuid].generation for uuid in ours(holdings.tree, found)},
            allocations={consumer: self._real(one) for consumer, one in holdings.allocations.items()},
        )

    def _real(self, allocation: Allocation) -> Allocation:
        """Name the providers that others made by the uuids that they have."""
        if not self._aliases.keys() & allocation.resources.keys():
            return allocation
        resources = {self._aliases.get(uuid, uuid): amounts for uuid, amounts in allocation.resources.items()}
        return replace(allocation, resources=resources)

    def _recognize(self, allocations: Sequence[Allocation]) -> bool:
        """Look for providers that have our names and other uuids; say whether one is there that was not known."""
        asked = {uuid for one in allocations for uuid in one.resources}
        before = {uuid: self._aliases.get(uuid) for uuid in asked}
        for uuid in asked:
            self._alias([_bare(one) for one in providers.list_tree(self._session, uuid)])
        return before != {uuid: self._aliases.get(uuid) for uuid in asked}

    def _alias(self, found: Collection[Found]) -> None:
        """Remember the uuids of children that others made under our names."""
        theirs, gone = adopted(found), self._aliases.keys() & {there.uuid for there in found}
        if gone or theirs.items() - self._aliases.items():
            # Not changed in place: other threads read it.
            self._aliases = {uuid: real for uuid, real in self._aliases.items() if uuid not in gone} | theirs

    def _content(self, listed: Listed) -> Found | None:
        """Give a provider's content: the remembered one if its generation is the same, else read."""
        seen = self._seen.get(listed.uuid)
        if seen is not None and _bare(listed) == _bare_of(seen):
            return seen
        return providers.read_found(self._session, listed)


def _bare(listed: Listed) -> Found:
    return Found(
        uuid=listed.uuid, name=listed.name, parent_uuid=listed.parent_provider_uuid, generation=listed.generation
    )


def _bare_of(found: Found) -> Found:
    return Found(uuid=found.uuid, name=found.name, parent_uuid=found.parent_uuid, generation=found.generation)


def _stamp(found: Iterable[Found]) -> frozenset[tuple[str, str, str | None, int]]:
    return frozenset((there.uuid, there.name, there.parent_uuid, there.generation) for there in found)
