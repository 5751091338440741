"""An agent behind a server hears of its host's promises, and of no others."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.client import RemoteLedger, Transport
from stocktake.clock import SystemClock
from stocktake.errors import AccessDenied
from tests.ledger.behind import a_server, connected_to
from tests.ledger.making import instance
from tests.servers.postgres import postgres, postgres_url
from tests.servers.serve import HOST, OTHER_HOST, secret_of, served
from tests.wakes import Wakes

__all__ = ["postgres", "postgres_url"]


@contextlib.contextmanager
def listening(at: str, host: str, token: str) -> Iterator[tuple[Wakes, RemoteLedger]]:
    """Listen as a host's agent; what is heard first is that somebody listens."""
    wakes = Wakes()
    with contextlib.closing(connected_to(at, token)) as agent:
        agent.watch(host, wakes.wake)
        wakes.until(1)
        yield wakes, agent


def test_given_promises_of_two_hosts_when_they_change_then_each_agent_hears_of_its_own(
    postgres_url: str, tmp_path: Path
) -> None:
    with (
        a_server(postgres_url, tmp_path) as (at, ledger),
        listening(at, HOST, "agent") as (mine, agent),
        listening(at, OTHER_HOST, "other") as (theirs, _),
    ):
        one = instance(host=HOST)
        ledger.put_instances([one])
        mine.until(2)
        ledger.put_instances([instance(host=OTHER_HOST)])
        theirs.until(2)
        ledger.delete_instances([one.uuid])
        mine.until(3)
        assert (mine.count, theirs.count) == (3, 2)
        agent.close()
        ledger.put_instances([instance(host=HOST), instance(host=OTHER_HOST)])
        theirs.until(3)
        assert mine.count == 3


def test_given_another_hosts_token_when_it_listens_then_it_hears_nothing(tmp_path: Path) -> None:
    with a_server(f"sqlite:///{tmp_path / 'ledger.db'}", tmp_path) as (at, _):
        transport = Transport(at, token=secret_of("other"), cafile=None, clock=SystemClock())
        with (
            contextlib.closing(transport),
            pytest.raises(AccessDenied, match=f"for host '{OTHER_HOST}' only"),
            transport.stream(f"/v1/ledger/changes?host={HOST}", silence_s=5),
        ):
            pass


def test_given_a_server_that_is_started_again_when_it_is_heard_anew_then_whoever_listens_is_woken(
    tmp_path: Path,
) -> None:
    with served(tmp_path) as server, listening(server.url, HOST, "agent") as (wakes, _):
        server.stop()
        before = wakes.count
        server.start()
        wakes.until(before + 1, timeout_s=40.0)
