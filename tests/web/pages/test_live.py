"""Events: who changed is told, to everybody who listens, once a second and not longer than anybody listens."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from anyio import CapacityLimiter

from stocktake.clock import RandomIds
from stocktake.ledger import NodeSave
from stocktake.model.books import Tally
from stocktake.model.value import replace
from stocktake.web.calls import Stage
from stocktake.web.pages.fleet import TILES_MAX
from stocktake.web.pages.live import LISTENERS_MAX, Watch, differing
from tests.servers.serve import Served, served, served_here
from tests.web.pages.fleet import AWAY, DISABLED, DOWN_S, SIZES, books_of

NODE = "compute-1-00002"


class Stream:
    """Reads a stream, event by event."""

    def __init__(self, response: httpx2.Response) -> None:
        self._lines = response.iter_lines()
        self.response = response

    def until(self, wanted: str) -> str:
        """Read on to the line that begins so, and give the rest of it."""
        return next(line for line in self._lines if line.startswith(wanted)).removeprefix(wanted)

    def rest(self) -> list[str]:
        """Read to the end."""
        return list(self._lines)

    def nodes(self) -> Any:
        """Read the next event's nodes."""
        return json.loads(self.until("data: "))


@contextmanager
def listening(server: Served) -> Iterator[list[Stream]]:
    """Two who listen, and hear of every change from now on."""
    with (
        server.client("viewer") as client,
        client.stream("GET", "/live") as one,
        client.stream("GET", "/live") as other,
    ):
        both = [Stream(one), Stream(other)]
        for stream in both:
            assert stream.until("event: ") == "ready"
            assert stream.nodes() == {}
        yield both


@pytest.fixture
def streams(server: Served) -> Iterator[list[Stream]]:
    with listening(server) as both:
        yield both


def test_given_changes_of_all_kinds_when_made_elsewhere_then_everybody_hears_which_nodes(
    server: Served, streams: list[Stream]
) -> None:
    assert streams[0].response.headers["content-type"].startswith("text/event-stream")
    with books_of(server.directory, server.database) as (ledger, _claims):
        node = ledger.node(NODE)
        with ledger.transaction([node.uuid]):
            pass
        assert [stream.nodes() for stream in streams] == [[node.uuid], [node.uuid]]
        ledger.note_failures({node.uuid: AWAY})
        assert [stream.nodes() for stream in streams] == [[node.uuid], [node.uuid]]
        ledger.note_failures({node.uuid: replace(AWAY, text="no answer within 6 s")})
        assert [stream.nodes() for stream in streams] == [[node.uuid], [node.uuid]]
        ledger.set_service(DISABLED, disabled=False, reason=None)
        assert len(streams[0].nodes()) == SIZES[DISABLED]


def test_given_more_changes_than_can_be_named_when_told_then_there_are_many(
    server: Served, streams: list[Stream]
) -> None:
    with books_of(server.directory, server.database) as (ledger, _claims):
        record = ledger.node(NODE)
        names = [f"new-{number:03d}" for number in range(TILES_MAX + 1)]
        new = [replace(record, uuid=RandomIds().uuid(), hypervisor_hostname=name) for name in names]
        ledger.save([NodeSave(tally=Tally(node=one, entries=()), expected_generation=None) for one in new])
        assert [stream.nodes() for stream in streams] == ["many", "many"]
        for one in new:
            ledger.delete_node(one.uuid)


def test_given_listeners_when_the_server_ends_then_their_streams_end_in_order(books: str, tmp_path: Path) -> None:
    with served(tmp_path, books, service_down_time=DOWN_S) as server, listening(server) as streams:
        assert server.stop() == 0
        assert [stream.rest() for stream in streams] == [[""], [""]]


def test_given_too_many_listeners_when_one_more_comes_then_it_is_refused_and_the_ledger_is_left_alone_at_the_end(
    books: str, tmp_path: Path
) -> None:
    with served_here(tmp_path, books, service_down_time=DOWN_S) as here:
        watch = Watch(here.web, Stage(CapacityLimiter(1), asyncio.Event()))
        asyncio.run(_crowd(watch))


async def _crowd(watch: Watch) -> None:
    with ExitStack() as opened:
        for _ in range(LISTENERS_MAX):
            assert not watch.full
            opened.enter_context(watch.listening())
        assert watch.full
        assert watch.runs
    assert not watch.full
    assert not watch.runs


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({}, {}, set()),
        ({"a": 1}, {"a": 1}, set()),
        ({"a": 1}, {"a": 2}, {"a"}),
        ({"a": 1, "b": 1}, {"b": 1}, {"a"}),
        ({"b": 1}, {"a": 1, "b": 1}, {"a"}),
    ],
)
def test_given_two_looks_when_compared_then_who_came_went_or_changed_is_told(
    before: dict[str, object], after: dict[str, object], told: set[str]
) -> None:
    assert differing(before, after) == told
