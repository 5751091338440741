"""`nodes` of a fleet of bare metal: filters, pages, sums, and the names that people use."""

import json
from pathlib import Path

import pytest

from tests.cli.program import Program

STATES = ("active", "available", "available", "clean failed")
UUID = "6f1e2a30-0000-4000-8000-{:012}"


def machine(number: int) -> dict[str, object]:
    """A machine as the driver `ironic` reports one."""
    state = STATES[number % len(STATES)]
    stats: dict[str, object] = {"name": f"bm-{number:03}", "provision_state": state, "power_state": "power on"}
    if number == 1:
        stats |= {"maintenance": True}
    report = {
        "uuid": UUID.format(number),
        "hypervisor_type": "ironic",
        "vcpus": 32,
        "memory_mb": 131072,
        "local_gb": 800,
        "vcpus_used": 0,
        "memory_mb_used": 0,
        "local_gb_used": 0,
        "cpu_info": "",
        "numa_topology": None,
        "inventories": {"CUSTOM_GOLD": {"total": 1}},
        "traits": ["CUSTOM_FAST"] if number % 2 else ["CUSTOM_FAST", "CUSTOM_BIG"],
        "stats": stats,
    }
    if number == 3:
        report["vcpus_used"] = -1
    return {"name": UUID.format(number), "resources": report}


@pytest.fixture
def metal(program: Program, tmp_path: Path) -> Program:
    """Eight machines."""
    path = tmp_path / "metal.json"
    path.write_text(json.dumps({"nodes": [machine(number) for number in range(8)]}))
    program.settings["fake.fleet"] = str(path)
    assert program.run("refresh").code == 0
    return program


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ((), range(8)),
        (("--state", "manual"), range(8)),
        (("--state", "up"), ()),
        (("--state", "active"), (0, 4)),
        (("--state", "clean failed", "--state", "active"), (0, 3, 4, 7)),
        (("--state", "maintenance"), (1,)),
        (("--trait", "CUSTOM_FAST", "--trait", "CUSTOM_BIG"), (0, 2, 4, 6)),
        (("--trait", "CUSTOM_FA"), ()),
        (("--problem", "used-negative"), (3,)),
        (("--problem", "*"), (3,)),
        (("--problem", "used"), ()),
        (("--name", "BM-00[12]"), (1, 2)),
        (("--name", UUID.format(5)), (5,)),
        (("--name", "*5"), (5,)),
        (("--limit", "3"), (0, 1, 2)),
        (("--limit", "3", "--marker", "bm-002"), (3, 4, 5)),
        (("--limit", "3", "--marker", "bm-005"), (6, 7)),
        (("--marker", "bm-0055"), (6, 7)),
        (("--state", "available", "--limit", "1", "--marker", "bm-002"), (5,)),
    ],
)
def test_given_a_choice_when_nodes_are_listed_then_they_are_those_that_match(
    metal: Program, words: tuple[str, ...], numbers: tuple[int, ...]
) -> None:
    data = metal.run("nodes", *words, "--json").data
    assert [node["uuid"] for node in data] == [UUID.format(number) for number in numbers]


def test_given_machines_when_listed_then_they_are_called_by_their_names_and_say_what_they_do(metal: Program) -> None:
    lines = metal.run("nodes").out.splitlines()
    assert {"MACHINE", "UUID"} <= set(lines[0].split())
    assert lines[1].split()[:4] == ["bm-000", "compute-1", "manual", "active,"]
    assert "available, on, maintenance" in lines[2]
    assert lines[9].split()[:3] == ["8", "nodes", "0/256"]
    assert lines[10] == "4 available, 2 active, 2 clean failed"


def test_given_a_page_of_machines_when_listed_then_the_sums_are_of_all_and_the_next_page_is_told(
    metal: Program,
) -> None:
    result = metal.run("nodes", "--limit", "2", "--state", "available")
    lines = result.out.splitlines()
    assert lines[3].split()[:5] == ["2", "of", "4", "nodes", "0/128"]
    assert "--marker bm-002" in result.err
    assert "--marker" not in metal.run("nodes", "--limit", "2", "--state", "available", "--marker", "bm-002").err


def test_given_a_choice_that_nothing_matches_when_listed_then_it_is_said_of_how_many(metal: Program) -> None:
    result = metal.run("nodes", "--name", "x*")
    assert (result.code, result.out) == (0, "None of 8 nodes matches.\n")


@pytest.mark.parametrize("command", ["show", "explain"])
def test_given_a_machines_name_when_asked_for_then_it_is_found(metal: Program, command: str) -> None:
    result = metal.run(command, "bm-002", "--json")
    assert result.code == 0
    assert UUID.format(2) in result.out


def test_given_a_name_that_nothing_has_when_asked_for_then_the_nearest_names_are_told(metal: Program) -> None:
    assert "Did you mean bm-00" in metal.run("show", "bm-00").err


def test_given_a_machine_that_changes_when_refreshed_then_it_is_told_by_its_name(metal: Program) -> None:
    path = Path(metal.settings["fake.fleet"])
    described = json.loads(path.read_text())
    described["nodes"][0]["resources"]["stats"] |= {"provision_state": "available", "power_state": "power off"}
    path.write_text(json.dumps({"nodes": described["nodes"][:7]}))
    result = metal.run("refresh")
    assert "bm-000: machine active, on -> available, off" in result.out
    assert "bm-007: deleted, the driver no longer reports it" in result.out
    assert metal.run("refresh", "--node", "bm-001").out.startswith("bm-001: nothing changed")


def test_given_nodes_of_other_kinds_when_listed_then_nothing_is_said_of_machines(fleet: Program) -> None:
    assert not {"MACHINE", "UUID"} & set(fleet.run("nodes").out.splitlines()[0].split())
