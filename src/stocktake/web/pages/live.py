"""
`/live`: which nodes changed, as server-sent events. Invariant: the ledger is asked once a second, however many listen.

It is not asked at all while nobody listens. A listener hears uuids, and asks for what it shows; one that was away hears
nothing of what it missed, and asks for the whole page when it comes back. A stream ends after a while so that a token
that was revoked is noticed; browsers open it anew by themselves.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus

from anyio import to_thread
from starlette.responses import Response, StreamingResponse

from stocktake.errors import StocktakeError
from stocktake.model.access import READERS
from stocktake.model.value import encode
from stocktake.web.calls import ALIVE, STREAM_HEADERS, STREAM_MEDIA, Call, Stage, either, route
from stocktake.web.context import Web
from stocktake.web.pages.fleet import TILES_MAX
from stocktake.web.status import NotServed

LOG = logging.getLogger(__name__)
EVERY_S = 1.0
# After the ledger did not answer.
RETRY_PAUSE_S = 5.0
STREAM_S = 300.0
LISTENERS_MAX = 500


@dataclass(eq=False, slots=True)
class Listener:
    """
    One stream.

    Attributes:
        nodes: what it has not told of yet: no more than there are.
        ready: from now on it hears of every change.
    """

    nodes: set[str] = field(default_factory=set)
    called: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)


class Watch:
    """Asks the ledger for all listeners of one application; runs while there are any."""

    def __init__(self, web: Web, stage: Stage) -> None:
        self._web = web
        self._stage = stage
        self._listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[Listener]:
        """Hear of changes from now on."""
        listener = Listener()
        self._listeners.add(listener)
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        try:
            yield listener
        finally:
            self._listeners.discard(listener)
            if not self._listeners and self._task is not None:
                self._task.cancel()
                self._task = None

    @property
    def runs(self) -> bool:
        """It asks the ledger."""
        return self._task is not None

    @property
    def full(self) -> bool:
        """As many listen as may."""
        return len(self._listeners) >= LISTENERS_MAX

    async def _run(self) -> None:
        before: Mapping[str, object] | None = None
        while True:
            pause_s = EVERY_S
            try:
                now = await to_thread.run_sync(signs, self._web, limiter=self._stage.limiter)
            except StocktakeError as error:
                LOG.warning("can't see what changes: %s", error, extra={"code": error.code})
                pause_s = RETRY_PAUSE_S
            else:
                self._tell(differing(before, now) if before is not None else frozenset())
                before = now
            await asyncio.sleep(pause_s)

    def _tell(self, nodes: frozenset[str]) -> None:
        for listener in self._listeners:
            listener.ready.set()
            if nodes:
                listener.nodes |= nodes
                listener.called.set()


def signs(web: Web) -> Mapping[str, object]:
    """Read of each node, by uuid, what differs once it is shown differently."""
    alive_since = web.clock.now() - timedelta(seconds=web.settings.service_down_time)
    return {mark.uuid: mark for mark in web.ledger.change_stamps(alive_since=alive_since)}


def differing(before: Mapping[str, object], after: Mapping[str, object]) -> frozenset[str]:
    """Say which came, went or changed."""
    return frozenset(uuid for uuid in before.keys() | after.keys() if before.get(uuid) != after.get(uuid))


async def live(call: Call[None, None]) -> Response:
    """Tell which nodes change, until the client goes or the stream has lasted long enough."""
    state = call.request.app.state
    if not hasattr(state, "watch"):
        state.watch = Watch(call.web, call.stage)
    watch: Watch = state.watch
    if watch.full:
        raise NotServed(HTTPStatus.SERVICE_UNAVAILABLE, "too many pages are open", remedy="Close some.")
    return StreamingResponse(_stream(watch, call.stopping), media_type=STREAM_MEDIA, headers=STREAM_HEADERS)


async def _stream(watch: Watch, stopping: asyncio.Event) -> AsyncIterator[str]:
    clock = asyncio.get_running_loop()
    until_s = clock.time() + STREAM_S
    with watch.listening() as listener:
        yield "retry: 2000\n\n"
        # What is asked for before that may be too old to know of a change that nobody will tell of.
        await either(listener.ready, stopping)
        yield "event: ready\ndata: {}\n\n"
        while not stopping.is_set() and clock.time() < until_s:
            if not await either(listener.called, stopping):
                yield ALIVE
                continue
            nodes = sorted(listener.nodes)
            listener.nodes.clear()
            listener.called.clear()
            if nodes:
                yield f"data: {encode(nodes if len(nodes) <= TILES_MAX else 'many')}\n\n"


ROUTES = (route("GET", "/live", live, READERS, media=STREAM_MEDIA, hidden=True),)
