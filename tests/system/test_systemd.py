"""The real agent under what systemd gives its services: a notification socket, a watchdog, and signals."""

import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.context import Fleet, a_guest
from tests.servers.placement import PlacementServer, free_port
from tests.servers.systemd import Systemd, listening, status_of
from tests.system.readback import Readback, remote
from tests.system.running import Host

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
# What the unit file says, in microseconds.
WATCHDOG_USEC = "300000000"


@pytest.fixture
def host(tmp_path: Path, fleet: Fleet) -> Host:
    """A host with one fake node, a pass every second, and no scheduler."""
    fleet.has("one", guests=[a_guest(GUEST)])
    settings = {"host": "alpha", "compute_driver": "fake", "fake.fleet": str(fleet.path), "placement.mode": "none"}
    return Host(tmp_path / "state", {**settings, "update_resources_interval": 1, "report_interval": 1})


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with listening(tmp_path) as opened:
        yield opened


def environ(systemd: Systemd, watchdog_usec: str = WATCHDOG_USEC) -> Mapping[str, str]:
    return {"NOTIFY_SOCKET": systemd.address, "WATCHDOG_USEC": watchdog_usec}


def test_given_a_life_from_start_to_end_when_told_then_systemd_hears_of_each_step_in_order(
    host: Host, systemd: Systemd
) -> None:
    with host.agent(environ=environ(systemd)) as agent:
        ready = systemd.until("READY=1")
        # Its guest has no instance.
        assert status_of(ready).startswith("1 node, 1 problem; the last pass took")
        assert [row["vcpus_used"] for row in host.ask("nodes")] == [2], "ready means that the first pass is saved"
        assert not any("WATCHDOG=1" in message for message in systemd.messages)
        for _ in range(3):
            systemd.until("WATCHDOG=1")

        host.set(reserved_host_memory_mb=300)
        agent.send(signal.SIGHUP)
        begun = systemd.until("RELOADING=1")
        (stamp,) = [line for line in begun if line.startswith("MONOTONIC_USEC=")]
        assert abs(int(stamp.partition("=")[2]) / 1e6 - time.monotonic()) < 30
        systemd.until("READY=1")
        agent.until(lambda: host.ask("nodes")[0]["memory_mb_used"] == 300 + 1024)

        agent.send(signal.SIGTERM)
        assert status_of(systemd.until("STOPPING=1"))
        assert agent.end() == 0, agent.text


def test_given_wrong_settings_when_reloaded_then_systemd_hears_of_the_end_of_the_reload_too(
    host: Host, systemd: Systemd
) -> None:
    with host.agent(environ=environ(systemd)) as agent:
        systemd.until("READY=1")
        host.file.write_text("nonsense = 1\n")
        agent.send(signal.SIGHUP)
        systemd.until("RELOADING=1")
        systemd.until("READY=1")
        agent.until_said("the settings stay as they were")


def test_given_passes_that_fail_in_order_when_time_goes_by_then_signs_of_life_go_on_and_the_status_says_why(
    host: Host, fleet: Fleet, systemd: Systemd
) -> None:
    fleet.listing = {"raise": "DriverUnreachable", "text": "nobody home"}
    fleet.write()
    with host.agent(environ=environ(systemd)):
        assert "Trying again" in status_of(systemd.until("READY=1"))
        for _ in range(3):
            assert "nobody home" in status_of(systemd.until("STATUS="))
            systemd.until("WATCHDOG=1")


def test_given_a_pass_that_hangs_when_time_goes_by_then_no_sign_is_given_and_the_watchdogs_signal_shows_where(
    host: Host, fleet: Fleet, systemd: Systemd
) -> None:
    host.set(driver_timeout_s=60)
    with host.agent(environ=environ(systemd)) as agent:
        systemd.until("WATCHDOG=1")
        fleet.has("one", fault={"hang_s": 120})
        # The pass that is due within a second hangs; before it there were signs every second.
        assert not systemd.none_for("WATCHDOG=1", 1.5)
        systemd.none_for("nothing", 1.5)
        assert systemd.none_for("WATCHDOG=1", 4.0)
        agent.send(signal.SIGABRT)
        assert agent.end() == -signal.SIGABRT
        assert "Fatal Python error: Aborted" in agent.text
        assert "in survey" in agent.text, "where the driver hangs is in the log"


def test_given_a_watchdog_that_is_too_short_when_the_agent_starts_then_it_asks_for_a_longer_one(
    host: Host, systemd: Systemd
) -> None:
    with host.agent(environ=environ(systemd, "5000000")) as agent:
        assert systemd.until("WATCHDOG_USEC=") == ["WATCHDOG_USEC=120000000"]
        agent.until_said("WatchdogSec is 5 s")


def test_given_a_ledger_that_is_away_at_the_start_when_waited_for_then_systemd_is_asked_for_time_and_not_ready(
    host: Host, systemd: Systemd
) -> None:
    host.set(database__connection=f"postgresql://nobody@127.0.0.1:{free_port()}/none")
    with host.agent(environ=environ(systemd)) as agent:
        for _ in range(3):
            assert status_of(systemd.until("EXTEND_TIMEOUT_USEC=")).startswith("Waiting: ")
        assert not any("READY=1" in message for message in systemd.messages)
        agent.send(signal.SIGTERM)
        assert agent.end() == 0, agent.text


def test_given_a_long_pass_when_it_gets_a_term_then_it_ends_between_two_nodes_and_the_next_pass_does_the_rest(
    host: Host, fleet: Fleet, server: PlacementServer, there: Readback, systemd: Systemd
) -> None:
    for number in range(600):
        fleet.nodes[f"n{number:03}"] = dict(fleet.nodes["one"])
    fleet.loses("one")
    host.set(**{f"placement__{name}": value for name, value in remote(server).items()})
    with host.agent(environ=environ(systemd)) as agent:
        agent.until(lambda: server.counts().get("PUT", 0) > 20)
        agent.send(signal.SIGTERM)
        systemd.until("STOPPING=1")
        assert agent.end() == 0, agent.text
    done = len(there.providers())
    assert 0 < done < 600
    # A pass with so many requests gave signs of life while it went on.
    assert sum("EXTEND_TIMEOUT_USEC=" in message[0] for message in systemd.messages) >= 1
    assert len(host.ask("nodes")) == 600


@pytest.mark.parametrize(
    ("fault", "code"),
    [(None, 0), ({"raise": "DriverError", "text": "it burns"}, 3), ({"lie": {"memory_mb": -5}}, 3)],
)
def test_given_one_pass_that_is_asked_for_when_it_is_over_then_the_program_ends_with_its_code(
    host: Host, fleet: Fleet, fault: Mapping[str, object] | None, code: int
) -> None:
    if fault:
        fleet.has("one", fault=fault)
    with host.agent("--once", "-v") as agent:
        assert agent.end() == code, agent.text
        assert agent.count("hypervisor resource view") == (0 if fault and "raise" in fault else 1)
        assert agent.count("metrics are served") == 0
    assert host.ask("services")[0]["last_seen_up"]
