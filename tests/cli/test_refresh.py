"""`refresh` and `agent`: what changed, and the exit codes."""

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.program import Program, clean_environ

RESOURCES: Mapping[str, Any] = {
    "vcpus": 8,
    "memory_mb": 16384,
    "local_gb": 100,
    "vcpus_used": 0,
    "memory_mb_used": 0,
    "local_gb_used": 0,
    "cpu_info": "",
    "numa_topology": None,
    "hypervisor_type": "fake",
}
GUEST: Mapping[str, Any] = {
    "uuid": "00000000-0000-4000-8000-00000000000a",
    "name": "by-hand",
    "state": "running",
    "active": True,
    "vcpus": 2,
    "memory_mb": 2048,
    "disk_mb": 10240,
}


def describe(program: Program, *nodes: Mapping[str, Any], **fleet: Any) -> None:
    """Write the fleet that the fake driver reports."""
    path = program.state / "fleet.json"
    path.write_text(json.dumps({"nodes": list(nodes), **fleet}))
    program.settings["fake.fleet"] = str(path)


def node(name: str = "a", **changes: Any) -> dict[str, Any]:
    resources = {**RESOURCES, **changes.pop("resources", {})}
    return {"name": name, "resources": resources, "guests": [], **changes}


def test_given_a_new_machine_when_refreshed_twice_then_it_is_new_and_then_unchanged(program: Program) -> None:
    first = program.run("refresh")
    assert first.code == 0
    assert first.out.startswith("node-00000: new\n")
    assert "Next: `stocktake show node-00000`" in first.err
    second = program.run("refresh")
    assert second.out.startswith("node-00000: nothing changed\n")
    assert "0 writes to Placement" in second.out


def test_given_a_guest_that_appears_when_refreshed_then_what_changed_is_told(program: Program) -> None:
    describe(program, node())
    program.run("refresh")
    describe(program, node(guests=[GUEST]))
    result = program.run("refresh")
    assert "a: vcpus_used 0 -> 2, memory_mb_used 512 -> 2560, local_gb_used 0 -> 10" in result.out
    describe(program, node(guests=[]))
    data = program.run("refresh", "--json").data
    assert data["nodes"][0]["changes"]["vcpus_used"] == [2, 0]
    assert set(data) == {
        "nodes",
        "failed",
        "unsynced",
        "deleted",
        "kept",
        "left",
        "moved",
        "handed_over",
        "adopted",
        "placement_writes",
        "seconds",
    }


def test_given_a_fault_of_one_node_when_refreshed_then_it_is_told_and_the_code_is_3(program: Program) -> None:
    describe(program, node("a"), node("b"))
    assert program.run("refresh").code == 0
    describe(program, node("a"), node("b", fault={"raise": "DriverError", "text": "broken"}))
    result = program.run("refresh")
    assert result.code == 3
    assert result.out.startswith("b: not refreshed: ")
    assert "broken" in result.out
    nodes = program.run("nodes").out
    assert "b failed: broken" in nodes
    failed = program.run("refresh", "--json").data["failed"]
    assert failed["b"]["code"] == "DriverError"


def test_given_a_report_without_sense_when_refreshed_then_every_reason_is_told(program: Program) -> None:
    describe(program, node("a", fault={"omit": ["vcpus", "local_gb"]}))
    result = program.run("refresh")
    assert result.code == 3
    assert "vcpus is missing; local_gb is missing" in result.out


def test_given_a_driver_that_cant_list_when_refreshed_then_it_ends_with_3_and_one_line(program: Program) -> None:
    describe(program, node("a"))
    program.run("refresh")
    describe(program, node("a"), listing={"raise": "DriverUnreachable", "text": "gone"})
    result = program.run("refresh")
    assert result.code == 3
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert "stale" in program.run("nodes").out


def test_given_a_node_that_vanishes_with_instances_when_refreshed_then_it_is_kept_and_the_code_is_1(
    program: Program,
) -> None:
    describe(program, node("a", guests=[GUEST]), node("b"))
    program.run("refresh")
    program.run("orphans", "adopt", "by-hand")
    describe(program, node("b"))
    result = program.run("refresh")
    assert result.code == 1
    assert "a: no longer reported, but kept: it still has 1 instances" in result.out


def test_given_a_node_name_when_refreshed_then_only_it_is_and_an_unknown_one_is_told(program: Program) -> None:
    describe(program, node("a"), node("b"))
    assert [one["hypervisor_hostname"] for one in program.run("refresh", "--node", "b", "--json").data["nodes"]] == [
        "b"
    ]
    result = program.run("refresh", "--node", "c")
    assert "it has a, b" in result.err


def test_given_hundreds_of_nodes_when_refreshed_then_the_answer_is_still_a_page(program: Program) -> None:
    program.nodes = 300
    result = program.run("refresh")
    assert result.code == 0
    assert len(result.out.splitlines()) < 30
    assert "and 280 more" in result.out
    assert len(program.run("nodes").out.splitlines()) == 302


def test_given_embedded_placement_when_refreshed_in_a_process_then_it_has_the_node(program: Program) -> None:
    program.settings["placement.mode"] = "embedded"
    data = program.spawn("refresh", "--json").data
    assert data["placement_writes"] > 0
    assert (program.state / "placement.db").exists() or list(program.state.glob("placement*"))
    uuid = data["nodes"][0]["uuid"]
    doctor = program.spawn("doctor", "--json").data
    assert next(check for check in doctor if check["part"] == "placement")["verdict"] == "ok"
    deleted = program.spawn("nodes", "--delete", "node-00000", "--yes", "--force", "--json")
    assert deleted.data == {"deleted": "node-00000", "uuid": uuid, "provider_left": None}


def test_given_the_agent_when_run_once_then_it_ends_and_the_service_is_up(program: Program) -> None:
    result = program.run("agent", "--once")
    assert (result.code, result.out) == (0, "")
    assert program.run("services", "--json").data[0]["state"] == "up"


def test_given_the_agent_when_told_to_end_then_it_has_refreshed_and_ends_with_0(program: Program) -> None:
    with subprocess.Popen(
        [*program.command, "--verbose", "agent"], stderr=subprocess.PIPE, text=True, env=clean_environ()
    ) as process:
        assert process.stderr is not None
        assert any("final resource view" in line for line in process.stderr)
        process.send_signal(signal.SIGHUP)
        assert any("settings were read again" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert program.run("nodes", "--json").data[0]["hypervisor_hostname"] == "node-00000"


def test_given_a_state_path_copied_from_another_host_when_run_then_it_ends_with_2_and_says_how_to_fix_it(
    program: Program,
) -> None:
    program.settings["compute_driver"] = "host"
    assert program.run("refresh").code == 0
    program.settings["host"] = "compute-2"
    for command in (("refresh",), ("agent", "--once"), ("agent",)):
        result = program.run(*command)
        assert result.code == 2
        assert 'set `host = "compute-1"`' in result.err
    assert next(check for check in program.run("doctor", "--json").data if check["part"] == "identity")["remedy"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write everywhere")
def test_given_no_settings_at_all_when_the_driver_is_host_then_this_machine_is_taken_stock_of(tmp_path: Path) -> None:
    program = Program(tmp_path, settings={"compute_driver": "host", "placement.mode": "none"})
    node = program.run("refresh", "--json").data["nodes"][0]
    assert node["vcpus"] == len(os.sched_getaffinity(0)) or node["vcpus"] > 0
    assert node["memory_mb"] > 0
