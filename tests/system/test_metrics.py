"""The real agent, scraped and asked for its health while its world changes."""

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from stocktake import __version__
from stocktake.agent.metrics.table import LIBRARY, METRICS
from tests.context import Fleet, a_guest
from tests.servers.placement import PlacementServer, free_port
from tests.system.readback import remote
from tests.system.running import Host
from tests.system.scraping import health, reasons, scrape, url_of

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
MIB, GIB = 1024**2, 1024**3


@pytest.fixture
def host(tmp_path: Path, fleet: Fleet) -> Host:
    """A host with one fake node, a pass every second, no scheduler, and metrics on a free port."""
    fleet.has("one", guests=[a_guest(GUEST)])
    settings = {"host": "alpha", "compute_driver": "fake", "fake.fleet": str(fleet.path), "placement.mode": "none"}
    times = {"update_resources_interval": 1, "report_interval": 1}
    return Host(tmp_path / "state", {**settings, **times, "metrics.listen": "127.0.0.1:0"})


def test_given_an_agent_when_scraped_then_promtool_has_no_complaint_and_it_is_what_the_commands_say(
    host: Host,
) -> None:
    with host.agent() as agent:
        agent.until(lambda: scrape(agent).value("stocktake_passes_total", outcome="fine"))
        there = scrape(agent)
        command = ["promtool", "check", "metrics"]
        checked = subprocess.run(command, input=there.text, capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
        assert there.metrics == METRICS.keys() | LIBRARY.keys()
        (row,) = host.ask("nodes")
        assert row["vcpus_used"] == 2
        for name, value in {
            "vcpus": row["vcpus"],
            "vcpus_allocated": 2,
            "vcpus_capacity": row["vcpus"] * row["cpu_allocation_ratio"],
            "vcpus_free": row["vcpus"] * row["cpu_allocation_ratio"] - 2,
            "vcpus_allocation_ratio": row["cpu_allocation_ratio"],
            "memory_bytes": row["memory_mb"] * MIB,
            "memory_allocated_bytes": (row["memory_mb_used"] - 512) * MIB,
            "memory_reserved_bytes": 512 * MIB,
            "disk_bytes": row["local_gb"] * GIB,
            "disk_allocated_bytes": row["local_gb_used"] * GIB,
            "running_guests": 1,
            "stale": 0,
        }.items():
            assert there.value(f"stocktake_node_{name}", node="one") == value, name
        assert there.value("stocktake_node_holders", node="one", kind="orphan") == 1
        assert there.value("stocktake_pass_interval_seconds") == 1
        assert there.value("stocktake_ledger_saves_total") == 1
        assert there.labels("stocktake_node_info") == [{"node": "one", "uuid": row["uuid"], "hypervisor": ""}]
        assert there.labels("stocktake_build_info")[0]["version"] == __version__


def test_given_a_node_that_fails_and_comes_back_when_scraped_then_it_is_stale_with_its_last_figures_then_fresh(
    host: Host, fleet: Fleet
) -> None:
    fleet.has("two")
    with host.agent() as agent:
        agent.until(lambda: scrape(agent).value("stocktake_node_stale", node="one") == 0)
        fleet.has("one", guests=[], fault={"raise": "DriverError", "text": "it burns"})
        agent.until(lambda: scrape(agent).value("stocktake_node_stale", node="one") == 1)
        there = scrape(agent)
        assert there.value("stocktake_node_vcpus_allocated", node="one") == 2
        assert there.value("stocktake_node_stale", node="two") == 0
        assert (there.value("stocktake_errors_total", code="DriverError") or 0) >= 1
        assert (there.value("stocktake_passes_total", outcome="partial") or 0) >= 1
        assert health(agent)[0] == 200, "one node's trouble is not the agent's"
        fleet.has("one", guests=[])
        agent.until(lambda: scrape(agent).value("stocktake_node_vcpus_allocated", node="one") == 0)
        assert scrape(agent).value("stocktake_node_stale", node="one") == 0


def test_given_a_driver_that_goes_away_when_asked_for_health_then_it_is_503_with_the_reason_until_it_is_back(
    host: Host, fleet: Fleet
) -> None:
    with host.agent() as agent:
        agent.until(lambda: health(agent)[0] == 200)
        fleet.listing = {"raise": "DriverUnreachable", "text": "nobody home"}
        fleet.write()
        agent.until(lambda: health(agent)[0] == 503)
        status, answer = health(agent)
        assert (status, answer["healthy"]) == (503, False)
        assert {reason["code"] for reason in answer["reasons"]} == {"driver-away"}
        assert "nobody home" in answer["parts"]["driver"]
        there = scrape(agent)
        assert (there.value("stocktake_part_up", part="driver"), there.value("stocktake_agent_healthy")) == (0, 0)
        assert there.value("stocktake_node_stale", node="one") == 1
        fleet.listing = None
        fleet.write()
        agent.until(lambda: health(agent)[0] == 200)


def test_given_a_pass_that_hangs_when_asked_then_the_answer_comes_and_says_that_no_pass_completes(
    host: Host, fleet: Fleet
) -> None:
    host.set(metrics__healthy_within_s=2, driver_timeout_s=60)
    with host.agent() as agent:
        agent.until(lambda: health(agent)[0] == 200)
        fleet.has("one", fault={"hang_s": 60})
        agent.until(lambda: reasons(agent) == {"stale-pass"})
        assert scrape(agent).value("stocktake_agent_healthy") == 0


def test_given_a_ledger_that_is_locked_at_the_start_when_asked_for_health_then_that_is_said_before_any_pass(
    host: Host,
) -> None:
    # Of the machine's ports nobody listens on this one.
    host.set(database__connection=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with host.agent() as agent:
        agent.until(lambda: reasons(agent) == {"no-pass", "ledger-away"})
        assert scrape(agent).value("stocktake_part_up", part="ledger") == 0


def test_given_placement_away_when_asked_then_the_part_is_down_requests_are_counted_and_the_agent_is_healthy(
    host: Host, server: PlacementServer
) -> None:
    host.set(**{f"placement__{name}": value for name, value in remote(server).items()})
    with host.agent() as agent:
        agent.until(lambda: scrape(agent).value("stocktake_part_up", part="placement") == 1)
        good = scrape(agent)
        assert (good.value("stocktake_placement_requests_total", outcome="ok") or 0) >= 4
        server.misbehave("*", "/", status=503)
        agent.until(lambda: scrape(agent).value("stocktake_part_up", part="placement") == 0)
        there = scrape(agent)
        assert (there.value("stocktake_placement_requests_total", outcome="unreachable") or 0) >= 1
        assert there.value("stocktake_node_problems", node="one", code="placement-unreachable", severity="error") == 1
        assert health(agent)[0] == 200
        server.behave()
        agent.until(lambda: scrape(agent).value("stocktake_part_up", part="placement") == 1)
        # What stays is the guest that is no instance's; it was there before and while Placement was away.
        orphan = {"node": "one", "code": "orphan", "severity": "warning"}
        assert good.labels("stocktake_node_problems") == [orphan]
        assert scrape(agent).labels("stocktake_node_problems") == [orphan]
        assert scrape(agent).value("stocktake_node_problems", **orphan) == 1


def test_given_a_node_that_is_gone_when_scraped_then_it_is_not_shown_and_its_end_is_counted(
    host: Host, fleet: Fleet
) -> None:
    fleet.has("two").has("three")
    with host.agent() as agent:
        agent.until(lambda: len(scrape(agent).labels("stocktake_node_info")) == 3)
        fleet.loses("three")
        agent.until(lambda: len(scrape(agent).labels("stocktake_node_info")) == 2)
        assert scrape(agent).value("stocktake_nodes_deleted_total") == 1


def test_given_a_port_in_use_when_the_agent_runs_then_it_says_so_once_works_and_listens_when_it_is_free(
    host: Host,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        host.set(metrics__listen=f"127.0.0.1:{other.getsockname()[1]}")
        with host.agent("-v") as agent:
            agent.until_said("hypervisor resource view", times=3)
            assert agent.count("Address already in use") == 1, agent.text
            other.close()
            assert url_of(agent)
            assert health(agent)[0] == 200


def test_given_new_settings_when_it_gets_a_hangup_then_the_metrics_move_and_end_with_the_agent(host: Host) -> None:
    with host.agent() as agent:
        first = url_of(agent)
        host.set(metrics__listen="[::1]:0", update_resources_interval=30)
        agent.send(signal.SIGHUP)
        agent.until_said("metrics are served on", times=2)
        assert url_of(agent) != first
        assert scrape(agent).value("stocktake_pass_interval_seconds") == 30
        host.set(metrics__listen="")
        agent.send(signal.SIGHUP)
        agent.until_said("the settings were read again", times=2)
        agent.send(signal.SIGTERM)
        assert agent.end() == 0, agent.text
