"""The real agent with a server's URL instead of a database: it hears of promises at once, and outlives the server."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.ledger import DatabaseLedger
from tests.context import REPORT, a_guest, an_instance
from tests.servers.serve import HOST, Served, secret_of, served
from tests.system.running import Host

NODE = "one.example"
GUEST = "aaaaaaaa-0000-4000-8000-000000000001"
LATE = "bbbbbbbb-0000-4000-8000-000000000002"

pytestmark = pytest.mark.system


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    (tmp_path / "served").mkdir()
    with served(tmp_path / "served") as made:
        yield made


@pytest.fixture
def host(server: Served, tmp_path: Path) -> Host:
    """A host of one node, whose agent looks by itself once an hour."""
    fleet = tmp_path / "fleet.json"
    fleet.write_text(json.dumps({"nodes": [{"name": NODE, "resources": REPORT, "guests": [a_guest(GUEST)]}]}))
    return Host(
        tmp_path / "host",
        {
            "host": HOST,
            "compute_driver": "fake",
            "fake.fleet": fleet,
            "update_resources_interval": 3600,
            "ledger": server.url,
            "server.token": secret_of("agent"),
            "placement.mode": "none",
            # Beside the server's, for the test to look into.
            "database.connection": server.database,
        },
    )


def used(ledger: DatabaseLedger) -> int:
    """Give the node's vCPUs that are used; 0 while there is no node."""
    return sum(node.vcpus_used for node in ledger.nodes())


def test_given_a_promise_when_made_then_an_agent_behind_a_server_counts_it_at_once(host: Host) -> None:
    with host.ledger() as ledger, host.agent() as agent:
        ledger.put_instances([an_instance(GUEST, host=HOST, node=NODE)])
        agent.until(lambda: used(ledger) == 2)
        agent.until(lambda: (row := ledger.service(HOST)) is not None and row.last_seen_up is not None)
        began_s = time.monotonic()
        ledger.put_instances([an_instance(LATE, host=HOST, node=NODE)])
        agent.until(lambda: used(ledger) == 4)
        # An hour is its interval; a minute is Nova's.
        assert time.monotonic() - began_s < 30
        agent.send(signal.SIGTERM)
        assert agent.end() == 0


def test_given_a_server_that_is_away_when_it_is_back_then_the_agent_counts_what_was_promised_meanwhile(
    host: Host, server: Served
) -> None:
    with host.ledger() as ledger, host.agent() as agent:
        ledger.put_instances([an_instance(GUEST, host=HOST, node=NODE)])
        agent.until(lambda: used(ledger) == 2)
        server.stop(signal.SIGKILL)
        ledger.put_instances([an_instance(LATE, host=HOST, node=NODE)])
        server.start()
        agent.until(lambda: used(ledger) == 4, timeout_s=60)
        agent.send(signal.SIGTERM)
        assert agent.end() == 0
