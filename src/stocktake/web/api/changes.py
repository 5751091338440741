"""
`/v1/ledger/changes`: an agent hears that promises on its host changed. Invariant: the ledger is watched once, however
many listen.

What is said is "read again", and nothing else. A stream ends after a while so that a token that was revoked is noticed;
whoever opens one anew may have missed something, and reads again.
"""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from http import HTTPStatus
from typing import Annotated, Final

from msgspec import Meta
from starlette.responses import Response, StreamingResponse

from stocktake.ledger import EVERYONE, DatabaseLedger
from stocktake.model.access import AGENTS
from stocktake.web.calls import ALIVE, STREAM_HEADERS, STREAM_MEDIA, Call, Query, either, route
from stocktake.web.status import NotServed

STREAM_S: Final = 600.0
LISTENERS_MAX: Final = 10_000


class ChangesQuery(Query, frozen=True, kw_only=True):
    """Whose promises."""

    host: Annotated[str, Meta(min_length=1, max_length=255, description="The agent's host.")]


class ChangeListeners:
    """Hears of the ledger's changes for all listeners of one application."""

    def __init__(self, ledger: DatabaseLedger) -> None:
        self._ledger = ledger
        self._loop = asyncio.get_running_loop()
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)

    def open(self) -> None:
        """Begin to hear; it may take as long as connecting to the database does."""
        self._ledger.hear(self._heard)

    @contextlib.contextmanager
    def listening(self, host: str) -> Iterator[asyncio.Event]:
        """Give what is set when promises on a host changed."""
        called = asyncio.Event()
        self._listeners[host].add(called)
        try:
            yield called
        finally:
            self._listeners[host].discard(called)
            if not self._listeners[host]:
                del self._listeners[host]

    @property
    def full(self) -> bool:
        """As many listen as may."""
        return sum(map(len, self._listeners.values())) >= LISTENERS_MAX

    def _heard(self, hosts: frozenset[str]) -> None:
        # The loop may have ended before the ledger was closed.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._tell, hosts)

    def _tell(self, hosts: frozenset[str]) -> None:
        for host in self._listeners.keys() if EVERYONE in hosts else hosts & self._listeners.keys():
            for called in self._listeners[host]:
                called.set()


async def changes(call: Call[ChangesQuery, None]) -> Response:
    """Say when promises on a host change, until the client goes or the stream has lasted long enough."""
    call.caller.must_own(call.query.host)
    state = call.request.app.state
    if not hasattr(state, "change_listeners"):
        # Nobody runs between the two lines, so that there is one.
        state.change_listeners = ChangeListeners(call.web.ledger)
        state.change_listeners_open = asyncio.create_task(call.blocking(state.change_listeners.open))
    await asyncio.shield(state.change_listeners_open)
    listeners: ChangeListeners = state.change_listeners
    if listeners.full:
        raise NotServed(HTTPStatus.SERVICE_UNAVAILABLE, "too many agents are connected", remedy="Run another server.")
    return StreamingResponse(
        _stream(listeners, call.query.host, call.stopping), media_type=STREAM_MEDIA, headers=STREAM_HEADERS
    )


async def _stream(listeners: ChangeListeners, host: str, stopping: asyncio.Event) -> AsyncIterator[str]:
    clock = asyncio.get_running_loop()
    until_s = clock.time() + STREAM_S
    with listeners.listening(host) as called:
        yield "data: ready\n\n"
        while not stopping.is_set() and clock.time() < until_s:
            if not await either(called, stopping):
                yield ALIVE
            elif called.is_set():
                called.clear()
                yield "data: changed\n\n"


ROUTES = (route("GET", "/v1/ledger/changes", changes, AGENTS, media=STREAM_MEDIA, hidden=True),)
