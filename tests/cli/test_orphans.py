"""`orphans`: who is listed, who may be adopted, and that all or none are."""

import pytest

from tests.cli.program import Program
from tests.cli.test_refresh import GUEST, describe, node

OFF = {**GUEST, "uuid": "00000000-0000-4000-8000-00000000000b", "name": "off", "state": "shutoff", "active": False}
TWIN = {**GUEST, "uuid": "00000000-0000-4000-8000-00000000000c", "name": "twin"}
OTHER_TWIN = {**TWIN, "uuid": "00000000-0000-4000-8000-00000000000d"}


@pytest.fixture
def host(program: Program) -> Program:
    """A host with a guest that runs, one that is off and two of one name."""
    describe(program, node(guests=[GUEST, OFF, TWIN, OTHER_TWIN]))
    program.run("refresh")
    return program


def test_given_no_orphans_when_listed_then_the_code_is_0(program: Program) -> None:
    describe(program, node())
    program.run("refresh")
    result = program.run("orphans")
    assert (result.code, result.out) == (0, "No orphans: every running guest has an instance.\n")


def test_given_orphans_when_listed_then_the_code_is_1_and_those_off_take_nothing(host: Program) -> None:
    result = host.run("orphans")
    assert result.code == 1
    assert "orphans adopt by-hand" in result.err
    line = next(line for line in result.out.splitlines() if " off " in line)
    assert line.split()[1:6] == ["off", "a", "off", "off", "off"]
    data = {one["name"]: one for one in host.run("orphans", "--json").data}
    assert (data["off"]["active"], data["by-hand"]["active"]) == (False, True)
    assert data["by-hand"]["memory_mb"] == 2048
    assert {"kind", "id", "why", "host", "node", "active"} <= data["off"].keys()


def test_given_a_fleet_with_misplaced_guests_when_listed_then_they_say_where_they_should_be(fleet: Program) -> None:
    found = [one for one in fleet.run("orphans", "--json").data if one["kind"] == "misplaced"]
    assert found
    assert all("the ledger has it on" in one["why"] for one in found)
    result = fleet.run("orphans", "adopt", found[0]["id"])
    assert result.code == 2
    assert "misplaced" in result.err


def test_given_an_orphan_when_adopted_by_uuid_then_it_is_an_instance_and_counts_the_same(host: Program) -> None:
    before = host.run("show", "a", "--json").data
    result = host.run("orphans", "adopt", str(GUEST["uuid"]))
    assert result.code == 0
    assert "Adopted by-hand" in result.out
    after = host.run("show", "a", "--json").data
    assert (after["vcpus_used"], after["memory_mb_used"]) == (before["vcpus_used"], before["memory_mb_used"])
    assert (before["running_vms"], after["running_vms"]) == (0, 1)
    assert host.run("instances", "--json").data[0]["adopted"]
    again = host.run("orphans", "adopt", str(GUEST["uuid"]))
    assert (again.code, "is an instance already" in again.err) == (2, True)


def test_given_two_guests_of_one_name_when_adopted_by_it_then_the_uuids_are_asked_for(host: Program) -> None:
    result = host.run("orphans", "adopt", "twin")
    assert result.code == 2
    assert str(TWIN["uuid"]) in result.err
    assert str(OTHER_TWIN["uuid"]) in result.err


def test_given_one_that_is_not_there_among_several_when_adopted_then_none_is(host: Program) -> None:
    result = host.run("orphans", "adopt", "by-hand", "by-hant")
    assert result.code == 2
    assert "Did you mean by-hand" in result.err
    assert host.run("instances", "--json").data == []


def test_given_all_when_adopted_then_those_that_run_are_and_the_one_that_is_off_stays(host: Program) -> None:
    data = host.run("orphans", "adopt", "--all", "--json").data
    assert sorted(one["name"] for one in data["adopted"]) == ["by-hand", "twin", "twin"]
    assert [one["name"] for one in host.run("orphans", "--json").data] == ["off"]
    assert host.run("orphans", "adopt", "--all").out == "No orphans run on this host.\n"
    assert host.run("orphans", "adopt", "off").code == 0
    assert host.run("orphans").code == 0


def test_given_a_driver_without_guests_when_adopting_then_it_is_said(program: Program) -> None:
    described = node()
    del described["guests"]
    describe(program, described)
    result = program.run("orphans", "adopt", "--all", "--yes")
    assert result.code == 2
    assert "can't list guests" in result.err
