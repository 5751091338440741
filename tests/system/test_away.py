"""
Ledger and Placement both away for a while, and back: the books are right again by themselves, and nothing was lost.

`STOCKTAKE_TEST_AWAY_S` makes it last longer.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.context import Fleet, a_guest
from tests.servers.placement import PlacementServer
from tests.servers.postgres import PrivatePostgres, private_postgres
from tests.system.readback import Readback, remote
from tests.system.running import Host

pytestmark = pytest.mark.system

AWAY_S = float(os.environ.get("STOCKTAKE_TEST_AWAY_S", "3"))
GUESTS = [a_guest(f"bbbbbbbb-0000-4000-8000-{number:012}") for number in range(1, 4)]


@pytest.fixture
def database() -> Iterator[PrivatePostgres]:
    """A PostgreSQL that is stopped and started."""
    with private_postgres() as server:
        yield server


def troubles(host: Host) -> set[str]:
    """Say what is wrong between the nodes and the scheduler."""
    codes = {problem["code"] for node in host.ask("nodes") for problem in node["problems"]}
    return {code for code in codes if code.startswith("placement-")}


@pytest.mark.timeout(AWAY_S + 150)
def test_given_ledger_and_placement_away_for_a_while_when_they_are_back_then_the_books_are_right_by_themselves(
    tmp_path: Path, fleet: Fleet, database: PrivatePostgres, server: PlacementServer, there: Readback
) -> None:
    fleet.has("one", guests=GUESTS[:1])
    fleet.has("two")
    host = Host(tmp_path / "state")
    host.set(host="alpha", compute_driver="fake", fake__fleet=str(fleet.path), placement=remote(server))
    host.set(database__connection=database.create_database(), update_resources_interval=2, report_interval=1)

    def used() -> tuple[int, int]:
        with host.ledger() as ledger:
            one = ledger.node("one")
            return one.vcpus_used, there.inventories("one")["VCPU"]["total"]

    with host.agent("-vv") as agent:
        agent.until_said("passed", times=2)
        vcpus, _total = used()
        before = there.providers()
        database.stop()
        server.stop()
        fleet.has("one", guests=GUESTS, report={"vcpus": 48})
        agent.until_said("LedgerUnreachable")
        back_s = time.monotonic() + AWAY_S
        agent.until(lambda: time.monotonic() > back_s, timeout_s=AWAY_S + 30)
        # The ledger alone is back: what the scheduler does not have is a problem of the node.
        database.start()
        agent.until(lambda: host.ask("nodes")[0]["vcpus_used"] == vcpus + 4 and troubles(host), timeout_s=90)
        server.start()
        agent.until(lambda: not troubles(host), timeout_s=90)
        assert used() == (vcpus + 4, 48)
        assert {name: one["uuid"] for name, one in there.providers().items()} == {
            name: one["uuid"] for name, one in before.items()
        }
        assert agent.count("Traceback") == 0, agent.text
