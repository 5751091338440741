"""No client of ours waits longer, reads more, or goes elsewhere than it may; its peer is a real socket that tries."""

import contextlib
import signal
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from stocktake.client import Transport
from stocktake.clock import SystemClock
from stocktake.drivers.ironic.api import Api, Deadline
from stocktake.errors import OutcomeUnknown, StocktakeError, Unreachable
from stocktake.exchange.adapter import BYTES_MAX, REDIRECTS_MAX, read_lines
from stocktake.placement.opening import open_scheduler
from stocktake.settings import IronicSection
from tests.cli.program import Program, clean_environ
from tests.placement.making import Section
from tests.servers.dripping import dripping

# What is endless ends for nobody who waits for it: this is far from that, on a slow machine too.
PATIENCE_S = 40.0
SECRET = "canary-7f3a"
CLOCK = SystemClock()
SLOW = ["head", "continue", "body", "chunks", "nothing"]
ANSWERS_MAX = 8 * 1024 * 1024


def ask_placement(url: str, timeout_s: float) -> None:
    section = Section(
        mode="remote", url=url, auth_type="admin_token", auth={"token": SECRET}, timeout_s=timeout_s, retries_max=0
    )
    with contextlib.closing(open_scheduler(section, CLOCK)) as scheduler:
        scheduler.ping()


def ask_keystone(url: str, timeout_s: float) -> None:
    who = {"username": "u", "password": SECRET, "project_name": "p", "user_domain_id": "d", "project_domain_id": "d"}
    section = Section(
        mode="remote", auth_type="v3password", auth={"auth_url": f"{url}/v3", **who}, timeout_s=timeout_s, retries_max=0
    )
    with contextlib.closing(open_scheduler(section, CLOCK)) as scheduler:
        scheduler.ping()


def ask_ironic(url: str, timeout_s: float) -> None:
    section = IronicSection(
        endpoint_override=url,
        auth_type="admin_token",
        auth={"token": SECRET},
        timeout_s=timeout_s,
        api_max_retries=0,
    )
    with contextlib.closing(Api(section, CLOCK, threading.Event())) as api:
        api.nodes(Deadline(CLOCK, PATIENCE_S))


def ask_server(url: str, timeout_s: float) -> None:
    with contextlib.closing(Transport(url, token=SECRET, cafile=None, clock=CLOCK, answer_s=timeout_s)) as transport:
        transport.ask("POST", "/v1/x", {}, None, retryable=False)


CLIENTS = [ask_placement, ask_keystone, ask_ironic, ask_server]
Ask = Callable[[str, float], None]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of ours may answer with more than a test should hold in memory."""
    monkeypatch.setattr("stocktake.client.transport.ANSWER_BYTES_MAX", ANSWERS_MAX)


@pytest.mark.parametrize("how", SLOW)
@pytest.mark.parametrize("ask", CLIENTS)
def test_given_a_peer_that_drips_when_asked_then_the_time_is_that_of_the_whole_answer(ask: Ask, how: str) -> None:
    with dripping(how) as peer:
        began_s = time.monotonic()
        with pytest.raises(Unreachable, match="no complete answer within 1 s"):
            ask(peer.url, 1)
        assert time.monotonic() - began_s < PATIENCE_S
        assert len(peer.asked) == 1


@pytest.mark.parametrize("how", ["endless", "bomb"])
@pytest.mark.parametrize("ask", CLIENTS)
def test_given_an_answer_without_end_when_asked_then_no_more_than_the_limit_is_kept(ask: Ask, how: str) -> None:
    with dripping(how) as peer:
        tracemalloc.start()
        try:
            with pytest.raises(StocktakeError, match="the answer has more than"):
                ask(peer.url, PATIENCE_S)
            assert tracemalloc.get_traced_memory()[1] < 3 * BYTES_MAX
        finally:
            tracemalloc.stop()
        # What is under way when the client hangs up.
        assert peer.sent < BYTES_MAX + 32 * 1024 * 1024


@pytest.mark.parametrize("how", ["cut", "cut packed", "packed otherwise", "no gzip"])
@pytest.mark.parametrize("ask", CLIENTS)
def test_given_an_answer_that_is_not_whole_when_asked_then_it_is_none(ask: Ask, how: str) -> None:
    with dripping(how) as peer, pytest.raises(Unreachable):
        ask(peer.url, PATIENCE_S)


@pytest.mark.parametrize("ask", CLIENTS)
def test_given_a_redirect_to_another_place_when_asked_then_nothing_is_sent_there_and_both_are_named(ask: Ask) -> None:
    with dripping("nothing") as other, dripping(f"{other.url}/elsewhere") as peer:
        with pytest.raises(StocktakeError) as caught:
            ask(peer.url, PATIENCE_S)
        assert other.asked == []
    assert peer.url in str(caught.value)
    assert f"{other.url}/elsewhere" in str(caught.value)
    assert SECRET not in str(caught.value)


def test_given_a_lost_answer_when_a_change_was_sent_then_nobody_says_that_nothing_was_done() -> None:
    with dripping("nothing") as peer, pytest.raises(OutcomeUnknown) as caught:
        ask_server(peer.url, 1)
    assert "may have been done" in caught.value.remedy


def test_given_redirects_at_home_when_read_then_they_are_followed_a_few_times_and_none_of_a_change() -> None:
    with dripping("/again") as peer:
        with pytest.raises(StocktakeError, match="more than 3 redirects"):
            ask_placement(peer.url, PATIENCE_S)
        assert len(peer.asked) == REDIRECTS_MAX + 1
    with dripping("/again") as peer:
        with pytest.raises(StocktakeError, match="says to ask"):
            ask_server(peer.url, PATIENCE_S)
        assert len(peer.asked) == 1


@pytest.mark.parametrize(("how", "said"), [("event", "timed out"), ("endless line", "line of the stream has more")])
def test_given_a_stream_whose_line_does_not_end_when_read_then_it_is_given_up(how: str, said: str) -> None:
    transport = Transport("http://x", token=None, cafile=None, clock=CLOCK)
    with dripping(how) as peer, contextlib.closing(transport):
        transport.url = peer.url
        with (
            pytest.raises(requests.RequestException, match=said),
            transport.stream("/v1/ledger/changes", silence_s=1) as answer,
        ):
            list(read_lines(answer, bytes_max=4096))


def test_given_an_agent_that_waits_for_a_peer_that_drips_when_it_is_told_to_end_then_it_ends(tmp_path: Path) -> None:
    with dripping("body") as peer:
        program = Program(tmp_path)
        program.settings = {
            "placement.mode": "remote",
            "placement.url": peer.url,
            "placement.auth_type": "none",
            "placement.timeout_s": "600",
            "metrics.listen": "",
        }
        agent = subprocess.Popen(
            [*program.command, "agent"], env=clean_environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert peer.waiting.wait(PATIENCE_S)
            agent.send_signal(signal.SIGTERM)
            assert agent.wait(PATIENCE_S) == 0
        finally:
            agent.kill()
            agent.communicate()
