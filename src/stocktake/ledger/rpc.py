"""
The ledger's calls as they travel. Invariant: what a call takes and gives is read off `Ledger`, and written nowhere
else.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, get_type_hints

import msgspec

from stocktake.ledger.nouns import Snapshot
from stocktake.ledger.protocol import AnyOwners, Ledger
from stocktake.model.value import Value

ROOT: Final = "/v1/ledger"


@dataclass(frozen=True, slots=True)
class Wire:
    """
    One call.

    Attributes:
        arguments: what it takes, by the names of its parameters.
        answer: the type of what it gives.
        writes: it changes something.
        again: it may be sent again by somebody who does not know whether it was done.
        people: only operators may make it, no agent.
    """

    name: str
    arguments: type[msgspec.Struct]
    answer: Any
    writes: bool
    again: bool
    people: bool

    @property
    def path(self) -> str:
        """Where it is sent."""
        return f"{ROOT}/{self.name.replace('_', '-').replace('.', '/')}"


class SnapshotAsked(Value, frozen=True, kw_only=True):
    """
    What a pass wants to read.

    Attributes:
        known: the digest of what it has; None if it has nothing.
        strangers: guests that were not on the host when it read that.
    """

    host: str
    nodes: tuple[str, ...]
    guests: Mapping[str, frozenset[str]]
    known: str | None = None
    strangers: frozenset[str] = frozenset()


class SnapshotSaid(Value, frozen=True, kw_only=True):
    """What it reads; None if that is what it has."""

    digest: str
    standing: Snapshot | None = None


def _wire(name: str, *, writes: bool = False, again: bool = True, people: bool = False, owners: bool = False) -> Wire:
    method = getattr(AnyOwners if owners else Ledger, name)
    hints = get_type_hints(method)
    given = list(inspect.signature(method).parameters.values())[1:]
    fields: list[Any] = [
        (one.name, hints[one.name])
        if one.default is inspect.Parameter.empty
        else (one.name, hints[one.name], one.default)
        for one in given
    ]
    arguments = msgspec.defstruct(f"{name}_arguments", fields, kw_only=True, frozen=True)
    return Wire(
        name=f"owners.{name}" if owners else name,
        arguments=arguments,
        answer=hints["return"],
        writes=writes,
        again=again,
        people=people,
    )


# What is done twice by a call that is sent again: a save is refused then, and the node is read anew.
CALLS: Final[Mapping[str, Wire]] = {
    one.name: one
    for one in (
        *(
            _wire(name)
            for name in (
                "nodes",
                "nodes_in_brief",
                "node",
                "deleted_nodes",
                "entries",
                "all_entries",
                "devices",
                "unmanaged",
                "service",
                "services",
                "work",
                "instances",
                "instances_page",
                "migrations",
                "known_consumers",
                "history",
            )
        ),
        *(
            _wire(name, writes=True)
            for name in (
                "register",
                "heartbeat",
                "save",
                "note_failures",
                "note_released",
                "note_provider_deleted",
                "change_instances",
                "thin_history",
            )
        ),
        *(
            _wire(name, writes=True, again=False)
            for name in ("delete_node", "put_instances", "delete_instances", "put_migrations")
        ),
        _wire("set_service", writes=True, people=True),
        _wire("read", owners=True),
        _wire("join", writes=True, owners=True),
        _wire("take", writes=True, people=True, owners=True),
        _wire("give", writes=True, people=True, owners=True),
    )
}
