"""`nodes`, `show`, `explain`, `instances`, `migrations`, `services`: what the ledger says."""

from datetime import UTC, datetime, timedelta
from threading import Event
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from tests.cli.program import HOST, Program

HEAD = [
    "NODE",
    "HOST",
    "STATE",
    "STATUS",
    "VCPUS",
    "PCPUS",
    "MEMORY",
    "GiB",
    "DISK",
    "GB",
    "VMS",
    "PROBLEMS",
    "CHANGED",
]
SUMMARY = {
    "uuid",
    "hypervisor_hostname",
    "host",
    "host_ip",
    "hypervisor_type",
    "vcpus",
    "vcpus_used",
    "memory_mb",
    "memory_mb_used",
    "free_ram_mb",
    "local_gb",
    "local_gb_used",
    "free_disk_gb",
    "disk_available_least",
    "running_vms",
    "current_workload",
    "cpu_allocation_ratio",
    "ram_allocation_ratio",
    "disk_allocation_ratio",
    "resources",
    "stats",
    "problems",
    "failure",
    "created_at",
    "updated_at",
    "state",
    "state_reason",
    "disabled",
    "disabled_reason",
}


class Later:
    """The machine's clock, some time ahead."""

    def __init__(self, ahead: timedelta) -> None:
        self._ahead = ahead

    def now(self) -> datetime:
        return datetime.now(UTC) + self._ahead

    def monotonic_s(self) -> float:
        return 0.0

    def wait(self, event: Event, timeout_s: float | None) -> bool:
        return event.wait(timeout_s)


def test_given_an_empty_ledger_when_nodes_are_listed_then_the_next_step_is_named(program: Program) -> None:
    result = program.run("nodes")
    assert result.code == 0
    assert "has no nodes yet" in result.out
    assert "stocktake refresh" in result.err
    assert program.run("nodes", "--json").data == []


def test_given_a_fleet_when_nodes_are_listed_then_there_is_a_line_each_and_the_sums(fleet: Program) -> None:
    result = fleet.run("nodes")
    lines = result.out.splitlines()
    assert result.code == 0
    assert lines[0].split() == HEAD
    assert [line.split()[0] for line in lines[1:9]] == [f"node-{number:05}" for number in range(8)]
    data = fleet.run("nodes", "--json").data
    vcpus = [node["resources"]["vcpus"] for node in data]
    allocated, capacity = sum(one["allocated"] for one in vcpus), sum(one["capacity"] for one in vcpus)
    assert lines[9].split()[:3] == ["8", "nodes", f"{allocated}/{capacity}"]


def test_given_a_fleet_when_nodes_are_listed_as_json_then_the_shape_is_the_documented_one(fleet: Program) -> None:
    answer = fleet.run("nodes", "--json").answer
    assert set(answer) == {"command", "exit_code", "error", "data"}
    assert {frozenset(node) for node in answer["data"]} == {frozenset(SUMMARY)}


def test_given_a_host_when_its_nodes_are_listed_then_others_are_not_and_an_unknown_one_is_an_error(
    fleet: Program,
) -> None:
    assert len(fleet.run("nodes", "--host", HOST, "--json").data) == 8
    result = fleet.run("nodes", "--host", "compute-2")
    assert result.code == 2
    assert f"Did you mean {HOST}?" in result.err


def test_given_a_silent_agent_when_nodes_are_listed_then_they_are_down_with_the_reason_told_once(
    fleet: Program,
) -> None:
    fleet.clock = Later(timedelta(minutes=10))
    out = fleet.run("nodes").out
    assert out.count(" down ") == 8
    assert out.count("has not reported for 10 min") == 1
    assert "node-00000, node-00001, node-00002 and 5 more" in out


def test_given_a_node_that_still_has_instances_when_it_is_to_be_deleted_then_it_stays(fleet: Program) -> None:
    result = fleet.run("nodes", "--delete", "node-00000", "--yes", "--force")
    assert result.code == 2
    assert "still has" in result.err
    assert "stocktake instances --node node-00000" in result.err


def test_given_a_node_whose_agent_is_alive_when_it_is_to_be_deleted_then_force_is_asked_for(program: Program) -> None:
    program.run("agent", "--once")
    result = program.run("nodes", "--delete", "node-00000", "--yes")
    assert result.code == 2
    assert "--force" in result.err
    assert program.run("nodes", "--delete", "node-00000", "--yes", "--force").code == 0
    assert program.run("nodes", "--json").data == []


@pytest.mark.parametrize(("answer", "left"), [("n\n", 1), ("", 1), ("y\n", 0)])
def test_given_a_node_to_delete_when_asked_then_only_a_yes_deletes_it(program: Program, answer: str, left: int) -> None:
    program.run("refresh")
    program.clock = Later(timedelta(minutes=10))
    result = program.run("nodes", "--delete", "node-00000", input_=answer)
    assert result.code == (2 if left else 0)
    assert len(program.run("nodes", "--json").data) == left


@pytest.mark.parametrize("command", ["show", "explain"])
def test_given_an_unknown_node_when_asked_for_then_the_nearest_are_named(fleet: Program, command: str) -> None:
    result = fleet.run(command, "node-0000")
    assert result.code == 2
    assert "Did you mean node-0000" in result.err


@pytest.mark.parametrize("command", ["show", "explain"])
def test_given_an_empty_ledger_when_a_node_is_asked_for_then_the_next_step_is_named(
    program: Program, command: str
) -> None:
    result = program.run(command, "a")
    assert (result.code, "stocktake refresh" in result.err) == (2, True)


def test_given_a_node_when_shown_then_its_uuid_its_name_and_the_page_agree(fleet: Program) -> None:
    by_name = fleet.run("show", "node-00003", "--json").data
    assert fleet.run("show", by_name["uuid"], "--json").data["hypervisor_hostname"] == "node-00003"
    vcpus, memory = by_name["resources"]["vcpus"], by_name["resources"]["memory_mb"]
    assert vcpus["capacity"] == int(vcpus["total"] * by_name["cpu_allocation_ratio"])
    assert (vcpus["reserved"], memory["reserved"]) == (0, 512)
    page = fleet.run("show", "node-00003").out
    for told in (by_name["uuid"], "NUMA CELL", "memory MiB", f"{by_name['memory_mb_used'] - 512:,}", "COMPUTE_NODE"):
        assert told in page


def test_given_every_node_of_a_fleet_when_explained_then_everything_adds_up(fleet: Program) -> None:
    for number in range(8):
        answer = fleet.run("explain", f"node-{number:05}", "--json").answer
        assert answer["exit_code"] == 0
        assert answer["data"]["agrees"]
        for figure in answer["data"]["figures"]:
            assert set(figure) == {"field", "unit", "recorded", "sum", "parts", "steps", "whole_unit", "agrees"}
            assert all(set(part) == {"kind", "id", "name", "why", "amount"} for part in figure["parts"])


def test_given_a_field_when_explained_then_its_parts_are_summed_before_the_reader(fleet: Program) -> None:
    figure = fleet.run("explain", "node-00001", "memory_mb_used", "--json").data["figures"][0]
    page = fleet.run("explain", "node-00001", "memory_mb_used").out.splitlines()
    assert page[0] == f"memory_mb_used = {figure['recorded']:,} MiB"
    assert page[-1].split() == [f"{figure['recorded']:,}", "sum"]
    assert len(page) == len(figure["parts"]) + 4


def test_given_every_field_there_is_when_explained_then_each_has_a_page(fleet: Program) -> None:
    fields = [figure["field"] for figure in fleet.run("explain", "node-00003", "--json").data["figures"]]
    for field in fields:
        result = fleet.run("explain", "node-00003", field)
        assert (result.code, result.out.split(" = ")[0]) == (0, field)


def test_given_an_unknown_field_when_explained_then_those_there_are_are_listed(fleet: Program) -> None:
    result = fleet.run("explain", "node-00001", "memory_used")
    assert result.code == 2
    assert "Did you mean memory_mb_used" in result.err
    assert "numa.0.pinned_cpus" in result.err


def test_given_a_record_that_was_tampered_with_when_explained_then_it_is_said_loudly(fleet: Program) -> None:
    engine = create_engine(f"sqlite:///{fleet.state / 'ledger.db'}")
    with engine.begin() as connection:
        connection.execute(text("UPDATE compute_nodes SET memory_mb_used = memory_mb_used + 7"))
    engine.dispose()
    result = fleet.run("explain", "node-00001", "memory_mb_used")
    assert result.code == 1
    assert "memory_mb_used DOES NOT ADD UP" in result.out
    assert fleet.run("explain", "node-00001", "vcpus_used").code == 0
    assert fleet.run("explain", "node-00001", "--json").answer["exit_code"] == 1


def test_given_a_fleet_when_its_promises_are_listed_then_they_are_those_of_the_ledger(fleet: Program) -> None:
    with fleet.ledger() as ledger:
        instances = {instance.uuid for instance in ledger.instances()}
        moves = {migration.id for migration in ledger.migrations(all=True)}
    assert {instance["uuid"] for instance in fleet.run("instances", "--json").data} == instances
    assert {move["id"] for move in fleet.run("migrations", "--all", "--json").data} == moves
    assert len(fleet.run("instances").out.splitlines()) == len(instances) + 1
    here = fleet.run("instances", "--node", "node-00001", "--json").data
    assert {instance["node"] for instance in here} == {"node-00001"}


def test_given_an_instance_when_it_is_deleted_then_its_room_is_free_after_a_refresh(fleet: Program) -> None:
    before = {node["hypervisor_hostname"]: node for node in fleet.run("nodes", "--json").data}
    (instance, *_) = fleet.run("instances", "--node", "node-00001", "--json").data
    wrong = fleet.run("instances", "--delete", instance["uuid"][:-1])
    assert (wrong.code, f"Did you mean {instance['uuid']}?" in wrong.err) == (2, True)
    assert fleet.run("instances", "--delete", instance["uuid"]).code == 0
    fleet.run("refresh")
    after = fleet.run("show", "node-00001", "--json").data
    taken = before["node-00001"]["running_vms"] - after["running_vms"]
    assert taken == 1
    assert instance["uuid"] not in {one["uuid"] for one in fleet.run("instances", "--json").data}


def test_given_nothing_promised_when_listed_then_it_is_said(program: Program) -> None:
    assert program.run("instances").out == "No instances.\n"
    assert program.run("migrations").out == "No migrations in progress.\n"


def test_given_a_service_when_disabled_and_enabled_then_it_is_shown_with_its_reason(fleet: Program) -> None:
    def service() -> dict[str, Any]:
        found: dict[str, Any] = fleet.run("services", "--json").data[0]
        return found

    assert (service()["state"], service()["disabled"]) == ("up", False)
    assert fleet.run("services", "disable", HOST, "--reason", "new memory").code == 0
    assert (service()["disabled"], service()["disabled_reason"]) == (True, "new memory")
    assert "new memory" in fleet.run("services").out
    assert "disabled: new memory" in fleet.run("nodes").out
    assert "disabled" in fleet.run("show", "node-00000").out
    assert fleet.run("services", "enable", HOST).code == 0
    assert (service()["disabled"], service()["disabled_reason"]) == (False, None)


def test_given_an_unknown_service_when_disabled_then_the_nearest_is_named(fleet: Program) -> None:
    result = fleet.run("services", "disable", "compute-11", "--reason", "x")
    assert result.code == 2
    assert f"Did you mean {HOST}?" in result.err
