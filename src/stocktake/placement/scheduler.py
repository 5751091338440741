"""
Step 7b: the scheduler, as the rest of the program sees it. Law: where nothing changed, one request and no write.

What was read and written is remembered with its generation, so that only providers that somebody else changed are read
again. Generations don't show everything (a provider deleted and made anew, a usage that ended): `full` reads all.
"""

import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeVar

from stocktake.errors import PlacementConflict, PlacementUnreachable, StocktakeError
from stocktake.model.problem import Problem
from stocktake.model.provider import Found, ProviderTree
from stocktake.model.value import Value

if TYPE_CHECKING:
    from stocktake.placement.read import Listed
    from stocktake.placement.session import Session

# After so many nodes in a row that got 5xx, the others are not asked.
FAILURES_MAX = 3
_BACKOFF_S = 0.1
_BACKOFF_MAX_S = 2.0

T = TypeVar("T")
Allocations = dict[str, dict[str, dict[str, int]]]


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Synced(Value, frozen=True, kw_only=True):
    """
    One node that the scheduler agrees with.

    Attributes:
        problems: what the scheduler could not be told, such as a class that is in use and was to go.
        writes: how many writes it took.
        kept_classes: classes of ours that are still there though not wanted, as they are in use: they stay ours.
    """

    problems: tuple[Problem, ...] = ()
    writes: int = 0
    kept_classes: frozenset[str] = frozenset()


class Scheduler(Protocol):
    """
    What step 7 needs of a scheduler.

    Attributes:
        requests, writes: how many were sent since it was opened; a write is anything but a GET.
    """

    @property
    def requests(self) -> int: ...

    @property
    def writes(self) -> int: ...

    def sync(
        self, trees: Mapping[str, ProviderTree], *, full: bool = False, stop: Callable[[], bool] = never
    ) -> dict[str, Synced | StocktakeError]:
        """
        Make the scheduler agree; keyed like the input. One node's failure is its own value.

        Args:
            full: read everything back, whatever its generation.
            stop: asked after each node; once it says yes, those that are left are not in the answer.
        """
        ...

    def delete_tree(self, root_uuid: str) -> None:
        """
        Delete a node's providers and the allocations on them; gone already is fine.

        Raises:
            PlacementUnreachable, PlacementError, PlacementConflict: not, or not all; may be repeated.
        """
        ...

    def allocations(self, provider_uuid: str) -> Allocations:
        """Read who holds what of a provider: consumer, provider, class, amount."""
        ...

    def release(self, consumers: Collection[str], provider_uuids: Collection[str]) -> frozenset[str]:
        """
        Remove what consumers hold of these providers, and only of these.

        Returns:
            The consumers that hold nothing of them any more; one whose allocations others keep changing is not in it.

        Raises:
            PlacementUnreachable, PlacementError: the first trouble that is not a conflict; may be repeated.
        """
        ...

    def providers(self, *, root_uuid: str | None = None, contents: bool = False) -> tuple[Found, ...]:
        """Read back the providers, all or one tree's; with inventories and traits if `contents`."""
        ...

    def ping(self) -> str:
        """Ask for the microversion in use, such as `1.39`; `none` if there is no scheduler."""
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class NoScheduler:
    """Mode `none`: nobody is told anything."""

    requests = 0
    writes = 0

    def sync(
        self, trees: Mapping[str, ProviderTree], *, full: bool = False, stop: Callable[[], bool] = never
    ) -> dict[str, Synced | StocktakeError]:
        """Agree with everything."""
        del full, stop
        return dict.fromkeys(trees, Synced())

    def delete_tree(self, root_uuid: str) -> None:
        """There is nothing to delete."""

    def allocations(self, provider_uuid: str) -> Allocations:
        """Nobody holds anything."""
        del provider_uuid
        return {}

    def release(self, consumers: Collection[str], provider_uuids: Collection[str]) -> frozenset[str]:
        """Nobody holds anything."""
        del provider_uuids
        return frozenset(consumers)

    def providers(self, *, root_uuid: str | None = None, contents: bool = False) -> tuple[Found, ...]:
        """There are none."""
        del root_uuid, contents
        return ()

    def ping(self) -> str:
        """Say that there is none."""
        return "none"

    def close(self) -> None:
        """There is nothing to close."""


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
        retries_max: how often a conflict is read and planned again.
        sleep, jitter: waits so many seconds; gives a number from 0 up to 1.
    """

    def __init__(
        self, session: "Session", *, retries_max: int, sleep: Callable[[float], object], jitter: Callable[[], float]
    ) -> None:
        self._session = session
        self._retries_max = retries_max
        self._sleep = sleep
        self._jitter = jitter
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

    def delete_tree(self, root_uuid: str) -> None:
        """Delete a tree with its allocations."""
        from stocktake.placement.allocations import delete_tree

        self._persist(partial(delete_tree, self._session, root_uuid))
        with self._mutex:
            self._settled.pop(root_uuid, None)
            gone = [uuid for uuid, seen in self._seen.items() if root_uuid in (uuid, seen.parent_uuid)]
            for uuid in gone:
                del self._seen[uuid]

    def allocations(self, provider_uuid: str) -> Allocations:
        """Read a provider's allocations."""
        from stocktake.placement.allocations import read_allocations

        return read_allocations(self._session, provider_uuid)

    def release(self, consumers: Collection[str], provider_uuids: Collection[str]) -> frozenset[str]:
        """Remove the consumers' allocations on these providers."""
        from stocktake.placement.allocations import release_one

        clean: set[str] = set()
        uuids = frozenset(provider_uuids)
        for consumer in sorted(consumers):
            try:
                self._persist(partial(release_one, self._session, consumer, uuids))
            except PlacementConflict:
                # The next refresh tries it again.
                continue
            clean.add(consumer)
        return frozenset(clean)

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

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _synced(
        self, trees: Mapping[str, ProviderTree], *, full: bool, stop: Callable[[], bool]
    ) -> dict[str, Synced | StocktakeError]:
        if not trees:
            return {}
        if full:
            self._seen.clear()
            self._settled.clear()
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
        answer = Synced(
            problems=agreed.problems, writes=self._session.writes - before, kept_classes=agreed.kept_classes
        )
        self._settled[tree.root.uuid] = _Settled(wanted=tree, stamp=_stamp(after.values()), answer=answer)
        return answer

    def _content(self, listed: "Listed") -> Found | None:
        """Give a provider's content: the remembered one if its generation is the same, else read."""
        from stocktake.placement.read import read_found

        seen = self._seen.get(listed.uuid)
        if seen is not None and _bare(listed) == _bare_of(seen):
            return seen
        return read_found(self._session, listed)

    def _pause(self, wait_s: float) -> None:
        self._sleep(wait_s)

    def _persist(self, attempt: Callable[[], T]) -> T:
        """Do something again while it meets a conflict, a bounded number of times, with growing, jittered waits."""
        import tenacity

        def wait_s(state: tenacity.RetryCallState) -> float:
            longest_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** (state.attempt_number - 1))
            return longest_s * (0.5 + self._jitter() / 2)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PlacementConflict),
            stop=tenacity.stop_after_attempt(self._retries_max + 1),
            wait=wait_s,
            sleep=self._pause,
            reraise=True,
        )
        return retrying(attempt)


def _bare(listed: "Listed") -> Found:
    return Found(
        uuid=listed.uuid, name=listed.name, parent_uuid=listed.parent_provider_uuid, generation=listed.generation
    )


def _bare_of(found: Found) -> Found:
    return Found(uuid=found.uuid, name=found.name, parent_uuid=found.parent_uuid, generation=found.generation)


def _stamp(found: Iterable[Found]) -> frozenset[tuple[str, str, str | None, int]]:
    return frozenset((there.uuid, there.name, there.parent_uuid, there.generation) for there in found)
