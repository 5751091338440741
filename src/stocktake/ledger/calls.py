"""
Step 7a, how a call of the ledger is declared. Invariant: what a call takes and gives, whose rows it touches and who may
make it is said once, at its body.

A database runs a call, `stocktake serve` checks and runs it, a client sends it; each is one method, `carry`. A call
that is not declared for agents can't be made by one.
"""

import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, wraps
from typing import Any, Concatenate, Final, NamedTuple, ParamSpec, TypeVar, get_type_hints

import msgspec
from sqlalchemy import Connection

from stocktake.clock import Ids
from stocktake.model.access import Role
from stocktake.model.history import Ages

P = ParamSpec("P")
R = TypeVar("R")

ROOT: Final = "/v1/ledger"
# No call declares this as its answer.
_NOTHING_SAID: Final = object()


class Rows(NamedTuple):
    """
    Whose rows a call touches, besides those of the host that its argument `host` names.

    Attributes:
        hosts: of rows that are written; None is no host.
        nodes, deleted_nodes, instances, deleted_instances: uuids.
        moving: uuids of instances that are on the host, or that a migration in play takes there or away from there.
        migrations: ids; one end on the host is enough.
    """

    hosts: Iterable[str | None] = ()
    nodes: Collection[str] = ()
    deleted_nodes: Collection[str] = ()
    instances: Collection[str] = ()
    deleted_instances: Collection[str] = ()
    moving: Collection[str] = ()
    migrations: Collection[int] = ()


@dataclass(frozen=True)
class LedgerCall:
    """
    One call, as `ledger_call` declares it.

    Attributes:
        roles: who may make it from afar.
        rows: whose rows its arguments name.
        writes: it changes something.
        retryable: it may be sent again by somebody who does not know whether it was done.
        routine: agents make it all the time, about their own host; the audit log need not say so.
        empty: the answer if its first argument is empty, for which nobody is asked.
        first: a short look that may give the answer, in which case no transaction is opened.
    """

    name: str
    body: Callable[..., Any]
    roles: frozenset[Role]
    rows: Callable[[Any], Rows]
    writes: bool
    retryable: bool
    routine: bool
    empty: object
    first: Callable[[Any, Any], Any] | None

    @property
    def path(self) -> str:
        """Where it is sent."""
        return f"{ROOT}/{self.name.replace('_', '-')}"

    @cached_property
    def answer(self) -> Any:
        """The type of what it gives."""
        return self._hints["return"]

    @cached_property
    def arguments(self) -> type[msgspec.Struct]:
        """What it takes, by the names of its parameters."""
        given = list(inspect.signature(self.body).parameters.values())[1:]
        fields: list[Any] = [
            (one.name, self._hints[one.name])
            if one.default is inspect.Parameter.empty
            else (one.name, self._hints[one.name], one.default)
            for one in given
        ]
        return msgspec.defstruct(f"{self.name}_arguments", fields, kw_only=True, frozen=True)

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return get_type_hints(self.body, include_extras=True)

    def run(self, tx: "Calls", arguments: msgspec.Struct) -> Any:
        """Run its body in a transaction."""
        return self.body(tx, **{name: getattr(arguments, name) for name in arguments.__struct_fields__})


# By name; those of other rooms are here once their modules are imported.
CALLS: Final[dict[str, LedgerCall]] = {}


class Calls:
    """
    The base of what has calls. Their bodies run in a `Transaction`, which has the attributes.

    Attributes:
        connection: the database's.
        now: the time that all of it happens at.
        ids: makes new uuids.
        ages: how much history is kept.
    """

    connection: Connection
    now: datetime
    ids: Ids
    ages: Ages

    def carry(self, call: LedgerCall, arguments: msgspec.Struct) -> Any:
        """Have a call done, wherever its body runs, and give its answer."""
        raise NotImplementedError


def no_rows(_: object) -> Rows:
    """Say that a call touches no rows, or may look at those of every host."""
    return Rows()


def ledger_call(
    *,
    roles: frozenset[Role],
    rows: Callable[[Any], Rows] | None = None,
    writes: bool = False,
    retryable: bool = True,
    routine: bool = False,
    empty: object = _NOTHING_SAID,
    first: Callable[[Any, Any], Any] | None = None,
) -> Callable[[Callable[Concatenate[Any, P], R]], Callable[Concatenate[Any, P], R]]:
    """
    Declare a call; see `LedgerCall`. Its body is given the transaction first.

    The rows of the host that its argument `host` names are touched too. If that may be None, all hosts, an agent's call
    is about its own host.
    """

    def declared(body: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
        name = body.__name__
        assert name not in CALLS, f"{name} is declared twice"
        assert not (writes and "viewer" in roles), f"{name} lets a viewer write"
        # What names no host and no rows would be open to every agent by mistake.
        said = rows is not None or "agent" not in roles or "host" in inspect.signature(body).parameters
        assert said, f"{name} does not say whose rows it touches"
        call = LedgerCall(name, body, roles, rows or no_rows, writes, retryable, routine, empty, first)
        CALLS[name] = call

        @wraps(body)
        def made(ledger: Any, /, *given: P.args, **named: P.kwargs) -> R:
            names = call.arguments.__struct_fields__
            arguments = call.arguments(**dict(zip(names, given, strict=False)), **named)
            if call.empty is not _NOTHING_SAID and not getattr(arguments, names[0]):
                return call.empty  # type: ignore[return-value]
            answer: R = ledger.carry(call, arguments)
            return answer

        return made

    return declared
