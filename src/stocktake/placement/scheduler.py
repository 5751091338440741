"""
Step 7b: the scheduler, as the rest of the program sees it. Invariant: one node's failure is a value, and no other's.

The mode `none` is here; the real one is in `client`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from stocktake.errors import StocktakeError
from stocktake.model.fitting import NoRoom
from stocktake.model.problem import Problem
from stocktake.model.provider import Allocation, Found, Holdings, ProviderTree
from stocktake.model.value import Value

# After so many nodes in a row that got 5xx, the others are not asked.
FAILURES_MAX = 3

# Asked with a node's name and the consumers that hold something of it and should not, before anything of them is
# written: which of these does the ledger know? None if the node's books changed since they were read.
Ask = Callable[[str, frozenset[str]], frozenset[str] | None]
Allocations = dict[str, dict[str, dict[str, int]]]


def never() -> bool:
    """Nobody asks to stop."""
    return False


def _nobody(_: frozenset[str]) -> frozenset[str]:
    return frozenset()


@dataclass(frozen=True, slots=True)
class Guard:
    """
    Tells which providers are ours to write; asked where one that exists is to be written or deleted.

    Attributes:
        known: says which of these consumers the ledger knows; nobody unless told.
        forced: the uuid of a node's provider that an operator typed out: its tree is written whoever has it.
    """

    known: Callable[[frozenset[str]], frozenset[str]] = _nobody
    forced: str | None = None


STRICT = Guard()


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


class SyncedAllocations(Value, frozen=True, kw_only=True):
    """
    One node whose allocations are what the ledger says, but for the problems.

    Attributes:
        problems: consumers that nobody knows, and allocations that the scheduler refuses.
        writes: how many writes it took.
    """

    problems: tuple[Problem, ...] = ()
    writes: int = 0


class Reached(Value, frozen=True, kw_only=True):
    """A scheduler that answered: the microversion in use, such as `1.39`, or `none`; and where it is, if anywhere."""

    version: str
    url: str = ""


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
        self,
        trees: Mapping[str, ProviderTree],
        guard: Guard = STRICT,
        *,
        full: bool = False,
        stop: Callable[[], bool] = never,
    ) -> dict[str, Synced | StocktakeError]:
        """
        Make the scheduler agree; keyed like the input. One node's failure is its own value.

        A node with a provider that is not ours gets ProviderNotOurs, and nothing of it is written.

        Args:
            guard: tells what is ours.
            full: read everything back, whatever its generation.
            stop: asked after each node; once it says yes, those that are left are not in the answer.
        """
        ...

    def sync_allocations(
        self, nodes: Mapping[str, Holdings], ask: Ask, *, stop: Callable[[], bool] = never
    ) -> dict[str, SyncedAllocations | StocktakeError]:
        """
        Make the allocations on nodes what they should be; keyed like the input. One node's failure is its own value.

        Only for nodes that `sync` agreed on just before. What consumers hold of other nodes is never touched. One that
        holds something and should not loses it if the ledger knows it; else it is left alone, and the node is told.

        Args:
            ask: called for a node where something is to be written.
            stop: asked after each node; once it says yes, those that are left are not in the answer, nor are those
                whose books changed meanwhile.
        """
        ...

    def is_as_agreed(self, root_uuid: str) -> bool:
        """
        Read a node's providers back, whatever their generations say; the next `sync` does the rest.

        Returns:
            Whether they are what was agreed on; what nothing was agreed on is.

        Raises:
            PlacementUnreachable, PlacementError: nobody knows.
        """
        ...

    def allocate(self, allocations: Sequence[Allocation]) -> tuple[NoRoom, ...]:
        """
        Make consumers hold exactly this, wherever, instead of all that they hold: all of them, or none.

        Returns:
            What the scheduler has too little of, every class of every provider; nothing if it is done.

        Raises:
            PlacementUnreachable: perhaps it is done, perhaps not; may be repeated.
            PlacementError, PlacementConflict: refused for another reason, or others keep writing; nothing is done.
        """
        ...

    def delete_tree(self, root_uuid: str, guard: Guard = STRICT) -> None:
        """
        Delete a node's providers and the allocations on them; gone already is fine.

        Raises:
            ProviderNotOurs: one of them is Nova's, or held by somebody unknown; nothing was deleted.
            PlacementUnreachable, PlacementError, PlacementConflict: not, or not all; may be repeated.
        """
        ...

    def allocations(self, provider_uuid: str) -> Allocations:
        """Read who holds what of a provider: consumer, provider, class, amount."""
        ...

    def providers(self, *, root_uuid: str | None = None, contents: bool = False) -> tuple[Found, ...]:
        """Read back the providers, all or one tree's; with inventories and traits if `contents`."""
        ...

    def ping(self) -> str:
        """Ask for the microversion in use, such as `1.39`; `none` if there is no scheduler."""
        ...

    def check(self, name: str) -> Reached:
        """
        Ask for something that takes the roles that we need: the provider of this name, be it there or not.

        Raises:
            PlacementUnreachable, PlacementError: why not, with what to do.
        """
        ...

    def close(self) -> None:
        """Close the connections."""
        ...


class NoScheduler:
    """Mode `none`: nobody is told anything."""

    requests = 0
    writes = 0

    def sync(
        self,
        trees: Mapping[str, ProviderTree],
        guard: Guard = STRICT,
        *,
        full: bool = False,
        stop: Callable[[], bool] = never,
    ) -> dict[str, Synced | StocktakeError]:
        """Agree with everything."""
        del guard, full, stop
        return dict.fromkeys(trees, Synced())

    def sync_allocations(
        self, nodes: Mapping[str, Holdings], ask: Ask, *, stop: Callable[[], bool] = never
    ) -> dict[str, SyncedAllocations | StocktakeError]:
        """Agree with everything."""
        del ask, stop
        return dict.fromkeys(nodes, SyncedAllocations())

    def is_as_agreed(self, root_uuid: str) -> bool:  # noqa: ARG002
        """Say yes."""
        return True

    def allocate(self, allocations: Sequence[Allocation]) -> tuple[NoRoom, ...]:
        """Agree with everything."""
        del allocations
        return ()

    def delete_tree(self, root_uuid: str, guard: Guard = STRICT) -> None:
        """There is nothing to delete."""

    def allocations(self, provider_uuid: str) -> Allocations:
        """Nobody holds anything."""
        del provider_uuid
        return {}

    def providers(self, *, root_uuid: str | None = None, contents: bool = False) -> tuple[Found, ...]:
        """There are none."""
        del root_uuid, contents
        return ()

    def ping(self) -> str:
        """Say that there is none."""
        return "none"

    def check(self, name: str) -> Reached:
        """Say that there is none."""
        del name
        return Reached(version="none")

    def close(self) -> None:
        """There is nothing to close."""
