"""The real agent: when it passes, what it says of itself, and what signals and companions do to it."""

import json
import signal
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from stocktake import __version__
from tests.context import Fleet, a_guest
from tests.servers.libvirtd import GuestSpec, private_libvirtd
from tests.servers.placement import PlacementServer
from tests.system.readback import Readback, remote
from tests.system.running import WAIT_S, Agent, Host

pytestmark = pytest.mark.system

GUESTS = tuple(f"bbbbbbbb-0000-4000-8000-{number:012}" for number in range(1, 10))


@pytest.fixture
def host(tmp_path: Path, fleet: Fleet) -> Host:
    """A host with one fake node, a pass every second, and no scheduler."""
    fleet.has("one")
    settings = {"host": "alpha", "compute_driver": "fake", "fake.fleet": str(fleet.path), "placement.mode": "none"}
    return Host(tmp_path / "state", {**settings, "update_resources_interval": 1, "report_interval": 1})


def reports_to(host: Host, server: PlacementServer, **more: object) -> Host:
    host.set(**{f"placement__{name}": value for name, value in remote(server, **more).items()})
    return host


def vcpus_used(host: Host, node: str = "one") -> int | None:
    with host.ledger() as ledger:
        return next((row.vcpus_used for row in ledger.nodes() if row.hypervisor_hostname == node), None)


def memory_mb_used(host: Host) -> int:
    with host.ledger() as ledger:
        return ledger.node("one").memory_mb_used


def ended_well(agent: Agent) -> None:
    """Stop an agent as systemd does, which kills it after 90 seconds."""
    agent.send(signal.SIGTERM)
    assert agent.end(timeout_s=90) == 0, agent.text
    assert "Traceback" not in agent.text


def test_given_an_interval_when_it_runs_then_it_passes_at_it_and_sees_what_changed(host: Host, fleet: Fleet) -> None:
    with host.agent("-vv") as agent:
        agent.until_said("hypervisor resource view", times=5)
        passes_s = agent.times_s("hypervisor resource view")
        # The second pass comes sooner: a fleet must not beat in step. How late they may be: tests/agent/test_loop.py.
        gaps_s = [later - sooner for sooner, later in pairwise(passes_s)]
        assert sum(gaps_s[1:]) > 0.7 * len(gaps_s[1:]), gaps_s
        fleet.has("one", guests=[a_guest(GUESTS[0])])
        agent.until(lambda: vcpus_used(host) == 2)
        ended_well(agent)


def test_given_it_runs_when_seconds_pass_then_its_row_has_heartbeat_and_version_and_it_is_down_once_it_is_killed(
    host: Host,
) -> None:
    host.set(service_down_time=2)
    with host.agent() as agent:
        (first,) = agent.until(lambda: [one for one in host.ask("services") if one["last_seen_up"]])
        assert (first["host"], first["version"], first["state"]) == ("alpha", __version__, "up")
        agent.until(lambda: host.ask("services")[0]["last_seen_up"] > first["last_seen_up"])
        assert [one["state"] for one in host.ask("nodes")] == ["up"]
    until_s = time.monotonic() + WAIT_S
    while host.ask("nodes")[0]["state"] == "up":
        assert time.monotonic() < until_s
    (row,) = host.ask("nodes")
    assert row["state"] == "down"
    assert "has not reported" in row["state_reason"]


def test_given_a_service_that_is_disabled_when_the_agent_passes_then_the_scheduler_knows(
    host: Host, server: PlacementServer, there: Readback
) -> None:
    with reports_to(host, server).agent() as agent:
        agent.until(lambda: "one" in there.providers() and "COMPUTE_NODE" in there.traits("one"))
        there.write("PUT", "/traits/CUSTOM_THEIRS")
        give_trait(there, "one", "CUSTOM_THEIRS")
        host.ask("services", "disable", "alpha", "--reason", "new memory")
        agent.until(lambda: "COMPUTE_STATUS_DISABLED" in there.traits("one"))
        (service,) = host.ask("services")
        assert (service["disabled"], service["disabled_reason"]) == (True, "new memory")
        host.ask("services", "enable", "alpha")
        agent.until(lambda: "COMPUTE_STATUS_DISABLED" not in there.traits("one"))
        assert there.traits("one") == {"COMPUTE_NODE", "CUSTOM_THEIRS"}
        ended_well(agent)


def give_trait(there: Readback, name: str, trait: str) -> None:
    """Put a trait on a provider, as an operator does."""
    path = f"/resource_providers/{there.providers()[name]['uuid']}/traits"
    answer = there.get(path)
    generation = answer["resource_provider_generation"]
    body = {"traits": sorted({*answer["traits"], trait}), "resource_provider_generation": generation}
    there.write("PUT", path, body)


def test_given_new_settings_when_it_gets_a_hangup_then_they_hold_and_wrong_ones_change_nothing(host: Host) -> None:
    # Without a periodic pass, only the signal makes it look.
    host.set(update_resources_interval=-1, reserved_host_memory_mb=100)
    with host.agent() as agent:
        agent.until(lambda: vcpus_used(host) == 0)
        assert memory_mb_used(host) == 100
        host.set(reserved_host_memory_mb=200)
        agent.send(signal.SIGHUP)
        agent.until(lambda: memory_mb_used(host) == 200)

        for wrong in ('reserved_host_memory_mb = "many"\n', "no such setting = 1\n", "reserved_host_memory_md = 7\n"):
            said = agent.count("the settings stay as they were")
            host.file.write_text(wrong)
            agent.send(signal.SIGHUP)
            agent.until_said("the settings stay as they were", times=said + 1)
        assert "reserved_host_memory_mb" in agent.text
        assert memory_mb_used(host) == 200

        host.set(reserved_host_memory_mb=300)
        agent.send(signal.SIGHUP)
        agent.until(lambda: memory_mb_used(host) == 300)
        ended_well(agent)


@pytest.mark.parametrize("where", ["idle", "driver", "placement"])
def test_given_a_term_when_it_is_anywhere_then_it_ends_well_within_seconds(
    host: Host, fleet: Fleet, server: PlacementServer, where: str
) -> None:
    host.set(driver_timeout_s=4)
    reports_to(host, server, timeout_s=3)
    if where == "placement":
        server.misbehave("PUT", "/inventories", how="hang")
    before = server.counts().get("PUT", 0)
    with host.agent() as agent:
        if where == "idle":
            agent.until_said("final resource view")
        if where == "driver":
            agent.until_said("final resource view")
            fleet.has("one", fault={"hang_s": 600})
            in_mid_pass(agent)
        if where == "placement":
            agent.until(lambda: server.counts().get("PUT", 0) > before)
        ended_well(agent)


def in_mid_pass(agent: Agent) -> None:
    """Wait until a pass must have begun, one being due every second, and hangs in the driver, which nobody can see."""
    due_s = time.monotonic() + 1.5
    agent.until(lambda: time.monotonic() > due_s)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/resource_providers"), ("POST", "/resource_providers"), ("PUT", "/inventories"), ("PUT", "/traits")],
)
def test_given_a_kill_while_placement_hangs_when_the_next_pass_ran_then_everything_is_right(
    host: Host, fleet: Fleet, server: PlacementServer, method: str, path: str
) -> None:
    fleet.has("one", guests=[a_guest(GUESTS[0])])
    there = Readback(server.url)
    before = server.counts().get(method, 0)
    server.misbehave(method, path, how="hang")
    with reports_to(host, server).agent() as agent:
        agent.until(lambda: server.counts().get(method, 0) > before)
    # The hanging request comes through now, after its sender's death: that is what late writes do.
    server.behave()
    refreshed(host)
    assert {name: one["parent_provider_uuid"] for name, one in there.providers().items()} == {"one": None}
    totals = {name: one["total"] for name, one in there.inventories("one").items()}
    assert totals == {"VCPU": 16, "MEMORY_MB": 65536, "DISK_GB": 500}
    assert there.traits("one") == {"COMPUTE_NODE"}
    (node,) = host.ask("nodes")
    # The host's guest is no instance's, and nothing else is wrong.
    problems = [(problem["code"], problem["about"]) for problem in node["problems"]]
    assert (node["vcpus_used"], problems, node["failure"]) == (2, [("orphan", GUESTS[0])], None)
    assert node["uuid"] == there.providers()["one"]["uuid"]


def test_given_a_kill_while_the_driver_hangs_when_the_next_pass_ran_then_everything_is_right(
    host: Host, fleet: Fleet
) -> None:
    with host.agent() as agent:
        agent.until_said("final resource view")
        fleet.has("one", guests=[a_guest(GUESTS[0])], fault={"hang_s": 60})
        in_mid_pass(agent)
    fleet.has("one", guests=[a_guest(GUESTS[0])])
    (node,) = refreshed(host)["nodes"]
    assert (node["vcpus_used"], node["failure"]) == (2, None)


def refreshed(host: Host) -> Any:
    """Refresh, once more if a late write came in between."""
    first = host.run("refresh", "--json")
    return first.data if first.code == 0 else host.ask("refresh")


def test_given_kills_at_any_moment_when_the_next_pass_ran_then_the_books_are_those_of_an_undisturbed_host(
    tmp_path: Path, host: Host, fleet: Fleet, server: PlacementServer
) -> None:
    names = [f"n{number:03}" for number in range(80)]
    for name in names:
        fleet.nodes[name] = {"resources": fleet.nodes["one"]["resources"], "guests": [a_guest(GUESTS[0])]}
    fleet.loses("one")
    reports_to(host, server)
    # A start takes more than half a second; what comes after is reading, saving, and 240 writes to Placement.
    for late_s in (0.6, 0.75, 0.9, 1.2):
        with host.agent() as agent:
            due_s = time.monotonic() + late_s
            agent.until(lambda due_s=due_s: time.monotonic() > due_s)  # type: ignore[misc]
    refreshed(host)
    undisturbed = Host(tmp_path / "other", {**host.settings, "placement.mode": "none"})
    undisturbed.ask("refresh")
    assert figures(host) == figures(undisturbed)
    there = Readback(server.url)
    assert {name: one["uuid"] for name, one in there.providers().items()} == {
        one["hypervisor_hostname"]: one["uuid"] for one in host.ask("nodes")
    }
    assert all(there.inventories(name)["VCPU"]["total"] == 16 for name in names)
    assert all(there.traits(name) == {"COMPUTE_NODE"} for name in names)


def figures(host: Host) -> Sequence[object]:
    """What a host's books say, without ids and times."""
    fields = ("hypervisor_hostname", "vcpus", "vcpus_used", "memory_mb_used", "local_gb_used", "problems", "failure")
    return [[one[field] for field in fields] for one in host.ask("nodes")]


@pytest.mark.parametrize("placement", ["embedded", "remote"])
def test_given_two_agents_for_one_host_when_they_run_at_once_then_both_stop_and_nothing_is_doubled(
    host: Host, fleet: Fleet, server: PlacementServer, placement: str
) -> None:
    if placement == "remote":
        reports_to(host, server)
    else:
        host.set(placement__mode="embedded")
    for name in ("one", "two", "three"):
        fleet.has(name, guests=[a_guest(uuid) for uuid in GUESTS[:4]])
    with host.agent() as one, host.agent() as two:
        for agent in (one, two):
            assert agent.end() == 2, agent.text
            assert "another agent lives as host 'alpha'" in agent.text
            codes = {line.partition("code=")[2] for line in agent.lines if line.startswith("error")}
            assert codes <= {"LedgerError", "LedgerUnreachable", "PlacementConflict", "PlacementUnreachable"}, codes
    last = host.ask("refresh")
    assert [(node["vcpus_used"], node["problems"], node["failure"]) for node in last["nodes"]] == [(8, [], None)] * 3
    assert [service["host"] for service in host.ask("services")] == ["alpha"]
    rows = [json.loads(line) for line in host.dump().splitlines()]
    assert Counter(row["table"] for row in rows)["compute_nodes"] == 3
    assert host.ask("explain", "two")["agrees"] is True
    again = host.ask("refresh")
    assert (again["placement_writes"], [node["changed"] for node in again["nodes"]]) == (0, [False] * 3)


def test_given_a_hypervisor_that_dies_and_comes_back_when_the_agent_runs_then_its_node_is_stale_and_then_fresh(
    tmp_path: Path,
) -> None:
    with private_libvirtd() as libvirtd:
        libvirtd.start(GuestSpec(name="first", vcpus=2))
        settings = {"compute_driver": "libvirt", "libvirt.connection_uri": libvirtd.uri, "placement.mode": "none"}
        host = Host(tmp_path / "state", {**settings, "libvirt.instances_path": str(libvirtd.images)})
        host.set(update_resources_interval=1, report_interval=1, driver_timeout_s=5)
        with host.agent() as agent:
            (node,) = agent.until(lambda: host.ask("nodes"))
            assert (node["vcpus_used"], node["failure"]) == (2, None)
            libvirtd.kill()
            agent.until(lambda: host.ask("nodes")[0]["state"] == "stale")
            before = agent.count("")
            (stale,) = host.ask("nodes")
            assert stale["failure"]["code"] == "DriverUnreachable"
            assert stale["state_reason"]
            assert (stale["vcpus_used"], stale["memory_mb_used"]) == (2, node["memory_mb_used"])
            assert "stale" in host.run("nodes").out
            # Passes go on, and say nothing new.
            heart = host.ask("services")[0]["last_seen_up"]
            agent.until(lambda: host.ask("services")[0]["last_seen_up"] > heart)
            assert agent.count("DriverUnreachable") == 1, agent.text
            assert before >= 1

            libvirtd.start_daemon()
            libvirtd.start(GuestSpec(name="second", vcpus=1))
            agent.until(lambda: host.ask("nodes")[0]["vcpus_used"] == 3)
            (fresh,) = host.ask("nodes")
            assert (fresh["state"], fresh["failure"], fresh["uuid"]) == ("up", None, node["uuid"])
            assert agent.count("fine again") == 1, agent.text
            ended_well(agent)
