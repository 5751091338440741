"""
Step 7b: a Placement service, embedded or remote. Invariant: where nothing changed, one request and no write.

What was read and written is remembered with its generation, so that only providers that somebody else changed are read
again. Generations don't show everything (a provider deleted and made anew, a usage that ended): `is_as_agreed` reads
back, and `full` all.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from stocktake.errors import PlacementUnreachable, StocktakeError
from stocktake.model.fitting import NoRoom
from stocktake.model.provider import Allocation, Found, Holdings, ProviderTree
from stocktake.model.value import replace
from stocktake.placement.retry import RetryPolicy
from stocktake.placement.scheduler import FAILURES_MAX, Allocations, Ask, Reached, Synced, SyncedAllocations, never

if TYPE_CHECKING:
    from stocktake.placement.allocation_sync import AllocationSync, Shares
    from stocktake.placement.read import Listed
    from stocktake.placement.session import Session


@dataclass(frozen=True, slots=True)
class _Settled:
    """A tree that Placement agreed with: it still does if neither the tree nor any generation changed."""

    wanted: ProviderTree
    stamp: frozenset[tuple[str, str, str | None, int]]
    answer: Synced


class Placement:
    """
    A Placement service, embedded or remote.

    Args:
        patience: how often a conflict is read and planned again.
    """

    def __init__(self, session: "Session", patience: RetryPolicy) -> None:
        self._session = session
        self._persist = patience
        self._healing: AllocationSync | None = None
        self._aliases: dict[str, str] = {}
        self._seen: dict[str, Found] = {}
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
        self, trees: Mapping[str, ProviderTree], *, full: bool = False, stop: Callable[[], bool] = never
    ) -> dict[str, Synced | StocktakeError]:
        """Make Placement agree with these trees."""
        with self._mutex:
            return self._synced(trees, full=full, stop=stop)

    def sync_allocations(
        self, nodes: Mapping[str, Holdings], ask: Ask, *, stop: Callable[[], bool] = never
    ) -> dict[str, SyncedAllocations | StocktakeError]:
        """Make the allocations on nodes what they should be."""
        from stocktake.placement.allocation_sync import AllocationSync

        with self._mutex:
            if self._healing is None:
                self._healing = AllocationSync(self._session, self._persist)
            shares = {
                name: self._shares(holdings)
                for name, holdings in nodes.items()
                if holdings.tree.root.uuid in self._settled
            }
            return self._healing.sync_allocations(shares, ask, stop=stop)

    def is_as_agreed(self, root_uuid: str) -> bool:
        """Read a node's providers back; if anything is not as it was agreed on, all of it is read again."""
        from stocktake.placement import read

        with self._mutex:
            settled = self._settled.get(root_uuid)
            if settled is None:
                return True
            # Who holds what is read again by the next pass, in any case.
            if self._healing is not None:
                self._healing.forget(root_uuid)
            listed = read.list_tree(self._session, root_uuid)
            ours = [one for one in listed if one.uuid in self._seen]
            # What was in use and could not go may be free by now: no generation tells.
            waits = settled.answer.problems or settled.answer.kept_classes
            same = (
                not waits
                and _stamp(map(_bare, listed)) == settled.stamp
                and all(read.read_found(self._session, one) == self._seen[one.uuid] for one in ours)
            )
            if not same:
                del self._settled[root_uuid]
                for one in ours:
                    del self._seen[one.uuid]
            return same

    def allocate(self, allocations: Sequence[Allocation]) -> tuple[NoRoom, ...]:
        """Make consumers hold exactly this."""
        from stocktake.placement.consumers import giving

        fresh = [one.consumer for one in allocations] if len(allocations) == 1 else []

        def give() -> tuple[NoRoom, ...]:
            return self._persist(giving(self._session, [self._real(one) for one in allocations], fresh=fresh))

        missing = give()
        # What has nothing to sell may be there under another uuid.
        return give() if any(not lack.total for lack in missing) and self._recognize(allocations) else missing

    def delete_tree(self, root_uuid: str) -> None:
        """Delete a tree with its allocations."""
        from stocktake.placement.allocations import delete_tree

        self._persist(partial(delete_tree, self._session, root_uuid))
        with self._mutex:
            self._settled.pop(root_uuid, None)
            gone = [uuid for uuid, seen in self._seen.items() if root_uuid in (uuid, seen.parent_uuid)]
            for uuid in gone:
                del self._seen[uuid]
            if self._healing is not None:
                self._healing.forget(root_uuid)

    def allocations(self, provider_uuid: str) -> Allocations:
        """Read a provider's allocations."""
        from stocktake.placement.allocations import read_held

        return read_held(self._session, [provider_uuid])[0]

    def providers(self, *, root_uuid: str | None = None, contents: bool = False) -> tuple[Found, ...]:
        """Read providers back from Placement itself, not from memory."""
        from stocktake.placement import read

        listed = read.list_all(self._session) if root_uuid is None else read.list_tree(self._session, root_uuid)
        if contents:
            return tuple(there for one in listed if (there := read.read_found(self._session, one)) is not None)
        return tuple(_bare(one) for one in listed)

    def ping(self) -> str:
        """Ask for the microversion in use."""
        major, minor = self._session.ping()
        return f"{major}.{minor}"

    def check(self, name: str) -> Reached:
        """Ask for something that takes the roles that we need."""
        from urllib.parse import quote

        version = self.ping()
        answer = self._session.get(f"/resource_providers?name={quote(name)}")
        if not answer.fine:
            raise answer.refused()
        return Reached(version=version, url=self._session.url())

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _synced(
        self, trees: Mapping[str, ProviderTree], *, full: bool, stop: Callable[[], bool]
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
                result[name] = self._agree(tree, listed.get(tree.root.uuid, ()))
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

    def _forget(self) -> None:
        """Let everything be read again."""
        self._seen.clear()
        self._settled.clear()
        if self._healing is not None:
            self._healing.forget()

    def _listed(self, trees: Mapping[str, ProviderTree]) -> dict[str, "tuple[Listed, ...]"]:
        """Read what there is of each tree, by its root's uuid, in one request."""
        from stocktake.placement import read

        if len(trees) == 1:
            uuid = next(iter(trees.values())).root.uuid
            return {uuid: read.list_tree(self._session, uuid)}
        groups: dict[str, list[Listed]] = {}
        top: dict[str, str] = {}
        for one in read.list_all(self._session):
            groups.setdefault(one.root_provider_uuid, []).append(one)
            top[one.uuid] = one.root_provider_uuid
        roots = {tree.root.uuid for tree in trees.values()}
        return {uuid: tuple(groups[top[uuid]]) for uuid in roots if uuid in top}

    def _agreed(self, tree: ProviderTree, listed: "tuple[Listed, ...]") -> Synced | None:
        """Say what it agreed to, if neither the tree nor anything in Placement changed since; no request."""
        before = self._settled.get(tree.root.uuid)
        if before is None or before.wanted != tree or before.stamp != _stamp(_bare(one) for one in listed):
            return None
        return Synced(problems=before.answer.problems, kept_classes=before.answer.kept_classes)

    def _agree(self, tree: ProviderTree, listed: "tuple[Listed, ...]") -> Synced:
        """Bring one node's providers up to date; a conflict is read and planned again."""
        agreed = self._agreed(tree, listed)
        if agreed is not None:
            return agreed
        uuid = tree.root.uuid
        self._settled.pop(uuid, None)
        first = [listed]

        def once() -> Synced:
            from stocktake.placement import read

            return self._once(tree, first.pop() if first else read.list_tree(self._session, uuid))

        return self._persist(once)

    def _once(self, tree: ProviderTree, listed: "tuple[Listed, ...]") -> Synced:
        """Read what is not known, plan, apply, remember."""
        from stocktake.placement import read
        from stocktake.placement.apply import apply
        from stocktake.placement.plan import droppable, ours, plan

        found = {one.uuid: _bare(one) for one in listed}
        by_uuid = {one.uuid: one for one in listed}
        for uuid in ours(tree, found) & by_uuid.keys():
            there = self._content(by_uuid[uuid])
            if there is None:
                found.pop(uuid)
            else:
                found[uuid] = there
        used = {uuid: read.read_used(self._session, uuid) for uuid in droppable(tree, found)}
        agreed = plan(tree, found, used)
        before = self._session.writes
        try:
            after = apply(self._session, agreed.steps, found, self._known)
        except StocktakeError:
            for uuid in found:
                self._seen.pop(uuid, None)
            raise
        for uuid in found.keys() - after.keys():
            self._seen.pop(uuid, None)
        self._seen.update({uuid: after[uuid] for uuid in ours(tree, after) & after.keys()})
        self._alias(after.values())
        answer = Synced(
            problems=agreed.problems, writes=self._session.writes - before, kept_classes=agreed.kept_classes
        )
        self._settled[tree.root.uuid] = _Settled(wanted=tree, stamp=_stamp(after.values()), answer=answer)
        return answer

    def _shares(self, holdings: Holdings) -> "Shares":
        """
        Say what should be held of a node that was just synced, by its providers' real uuids.

        Of a device that is gone nothing should be held: its provider is there only until nobody does.
        """
        from stocktake.placement.allocation_sync import Shares
        from stocktake.placement.plan import ours

        root = holdings.tree.root.uuid
        found = {
            uuid: Found(uuid=uuid, name=name, parent_uuid=parent, generation=generation)
            for uuid, name, parent, generation in self._settled[root].stamp
        }
        return Shares(
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
        from stocktake.placement import read

        asked = {uuid for one in allocations for uuid in one.resources}
        before = {uuid: self._aliases.get(uuid) for uuid in asked}
        for uuid in asked:
            self._alias([_bare(one) for one in read.list_tree(self._session, uuid)])
        return before != {uuid: self._aliases.get(uuid) for uuid in asked}

    def _alias(self, found: Collection[Found]) -> None:
        """Remember the uuids of children that others made under our names."""
        from stocktake.placement.plan import adopted

        theirs, gone = adopted(found), self._aliases.keys() & {there.uuid for there in found}
        if gone or theirs.items() - self._aliases.items():
            # Not changed in place: other threads read it.
            self._aliases = {uuid: real for uuid, real in self._aliases.items() if uuid not in gone} | theirs

    def _content(self, listed: "Listed") -> Found | None:
        """Give a provider's content: the remembered one if its generation is the same, else read."""
        from stocktake.placement.read import read_found

        seen = self._seen.get(listed.uuid)
        if seen is not None and _bare(listed) == _bare_of(seen):
            return seen
        return read_found(self._session, listed)


def _bare(listed: "Listed") -> Found:
    return Found(
        uuid=listed.uuid, name=listed.name, parent_uuid=listed.parent_provider_uuid, generation=listed.generation
    )


def _bare_of(found: Found) -> Found:
    return Found(uuid=found.uuid, name=found.name, parent_uuid=found.parent_uuid, generation=found.generation)


def _stamp(found: Iterable[Found]) -> frozenset[tuple[str, str, str | None, int]]:
    return frozenset((there.uuid, there.name, there.parent_uuid, there.generation) for there in found)
