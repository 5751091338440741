"""
A route, a call of it, and its answer. Invariant: a handler's signature is what is checked, and what is documented.
"""

import asyncio
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Final, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from anyio import CapacityLimiter, to_thread
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from stocktake.errors import StocktakeError
from stocktake.model.access import Role
from stocktake.model.value import Value, encode
from stocktake.web.auth import Caller
from stocktake.web.context import Web

Q = TypeVar("Q")
B = TypeVar("B")
T = TypeVar("T")
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
Roles = frozenset[Role]

# Nobody has to sign in.
ANYBODY: Roles | None = None


# Text that somebody typed: a name, a uuid, a code.
Text = Annotated[str, Meta(pattern="^[^\\u0000]+$", max_length=255)]


class Query(Value, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of what stands behind the `?`: text, numbers, `true` and `false`, or tuples of them for several."""


@dataclass(frozen=True, slots=True)
class Stage:
    """What all calls of one application share: the threads, and the event that is set when it is to end."""

    limiter: CapacityLimiter
    stopping: asyncio.Event


@dataclass(frozen=True, slots=True)
class Call(Generic[Q, B]):
    """
    One request, read and checked.

    Attributes:
        path: the parts of the path by name.
        query, body: as the handler's signature says.
        request: starlette's, for what is not in the others.
        stopping: set when the server is to end; a stream ends then.
    """

    web: Web
    caller: Caller
    path: Mapping[str, str]
    query: Q
    body: B
    request: Request
    stage: Stage

    @property
    def stopping(self) -> asyncio.Event:
        """Set when the server is to end."""
        return self.stage.stopping

    async def blocking(self, work: Callable[..., T], *arguments: Any) -> T:
        """Do something that may block, in a thread."""
        return await to_thread.run_sync(work, *arguments, limiter=self.stage.limiter)


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """An answer with a status or headers of its own."""

    value: T
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


Errors = Callable[[int, StocktakeError, Request], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """
    One thing that can be asked.

    Attributes:
        roles: who may; None is anybody, not signed in.
        query, body, answer: types; None without one, and for an answer that is a `Response`.
        media: the answer's media type.
        hidden: not in the OpenAPI document.
        errors: writes errors in another form than problem+json.
        checked: unknown fields of the body are refused; off for the bulk of machines that speak to each other.
        writes: it changes something, and is written to the audit log.
    """

    method: Method
    path: str
    handler: Callable[[Any], Any]
    roles: Roles | None
    query: type[Query] | None
    body: Any
    answer: Any
    status: int
    media: str
    hidden: bool
    errors: Errors | None
    checked: bool
    writes: bool

    @property
    def name(self) -> str:
        """A stable name, `nodes.listed`."""
        return f"{self.handler.__module__.rpartition('.')[2]}.{self.handler.__name__.strip('_')}"

    @property
    def summary(self) -> str:
        """The first line of the handler's docstring."""
        return " ".join((inspect.getdoc(self.handler) or "").partition("\n\n")[0].split())

    @property
    def description(self) -> str:
        """The rest of it."""
        return (inspect.getdoc(self.handler) or "").partition("\n\n")[2]


def route(
    method: Method,
    path: str,
    handler: Callable[[Any], Any],
    roles: Roles | None,
    *,
    status: int = 200,
    media: str = "application/json",
    hidden: bool = False,
    errors: Errors | None = None,
    checked: bool = True,
    writes: bool | None = None,
) -> Route:
    """Make a route of a handler, whose signature says what it takes and gives."""
    hints = get_type_hints(handler, include_extras=True)
    answer = hints.pop("return")
    (asked,) = hints.values()
    query, body = get_args(asked)
    if get_origin(answer) is Reply:
        (answer,) = get_args(answer)
    raw = isinstance(answer, type) and issubclass(answer, Response)
    return Route(
        method=method,
        path=path,
        handler=handler,
        roles=roles,
        query=None if query is type(None) else query,
        body=None if body is type(None) else body,
        answer=None if raw or answer is type(None) else answer,
        status=status,
        media=media,
        hidden=hidden,
        errors=errors,
        checked=checked,
        writes=method != "GET" if writes is None else writes,
    )


_ENCODER = msgspec.json.Encoder(order="deterministic")


def encoded(value: object) -> bytes:
    """Write a value as JSON so that equal values give equal text."""
    try:
        return _ENCODER.encode(value)
    except TypeError:
        # A mapping whose keys are numbers, such as the pinning of a guest's CPUs: slower, and the same text.
        return encode(value).encode()


# Answers that go on, server-sent events: a stream ends when the server does, and says at times that it lives.
STREAM_MEDIA: Final = "text/event-stream"
ALIVE: Final = ": alive\n\n"
ALIVE_S: Final = 15.0
STREAM_HEADERS: Final = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}


async def either(one: asyncio.Event, other: asyncio.Event) -> bool:
    """Wait for one of two; False after a while of neither."""
    waits = {asyncio.create_task(event.wait()) for event in (one, other)}
    try:
        done, _ = await asyncio.wait(waits, timeout=ALIVE_S, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()
