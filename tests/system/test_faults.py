"""Whatever driver or scheduler fails, and how: no other node suffers, nothing goes, and afterwards all is right."""

import contextlib
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import replace

import pytest

from stocktake.errors import DriverError, DriverUnreachable, StocktakeError
from stocktake.model.books import Metric
from stocktake.model.hypervisor import Survey
from stocktake.refresh.context import Parts
from stocktake.refresh.run import refresh
from tests.parts import Fleet, a_guest, an_instance, dump
from tests.servers.placement import PlacementServer
from tests.system.conftest import NAMES, used
from tests.system.readback import Readback, writes

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
GONE = "bbbbbbbb-0000-4000-8000-000000000002"
STRANGER = "bbbbbbbb-0000-4000-8000-000000000003"


def failures(parts: Parts) -> dict[str, str]:
    return {row.hypervisor_hostname: row.failure.code for row in parts.ledger.nodes() if row.failure}


# The driver.


@pytest.mark.parametrize(
    "fault",
    [
        {"raise": "DriverError"},
        {"raise": "DriverUnreachable"},
        {"raise": "NodeNotFound"},
        {"raise": "SettingsError"},
        {"raise": "InvalidData"},
        {"lie": {"memory_mb": -1}},
        {"lie": {"vcpus": "many", "local_gb": None}},
        {"lie": {"numa_topology": {"cells": [{"id": "x"}]}}},
        {"omit": ["vcpus", "numa_topology"]},
    ],
    ids=str,
)
def test_given_a_node_that_fails_when_refreshed_then_it_keeps_its_record_and_the_others_are_fresh(
    fleet: Fleet, parts: Parts, there: Readback, fault: dict[str, object]
) -> None:
    for name in NAMES:
        fleet.has(name, report={"vcpus": 8}, guests=[a_guest(GUEST)])
    fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)], fault=fault)
    result = refresh(parts)
    assert result.failed.keys() == {"one"}
    assert used(parts) == {"one": 0, "two": 2, "three": 2}
    assert failures(parts).keys() == {"one"}
    assert result.deleted == []
    totals = {name: there.inventories(name)["VCPU"]["total"] for name in NAMES}
    assert totals == {"one": 16, "two": 8, "three": 8}
    fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)])
    assert refresh(parts).fine
    assert used(parts) == dict.fromkeys(NAMES, 2)
    assert failures(parts) == {}
    assert there.inventories("one")["VCPU"]["total"] == 8


def test_given_a_node_that_calls_itself_as_another_when_refreshed_then_both_keep_their_names_and_records(
    fleet: Fleet, parts: Parts
) -> None:
    fleet.has("one", guests=[a_guest(GUEST)], fault={"lie": {"hypervisor_hostname": "two"}})
    result = refresh(parts)
    assert (result.fine, result.deleted) == (True, [])
    assert used(parts) == {"one": 2, "two": 0, "three": 0}
    assert [problem.code for problem in parts.ledger.node("one").problems] == ["node-name-differs"]
    assert refresh(parts).deleted == []


def test_given_a_driver_that_hangs_when_refreshed_then_it_is_given_up_in_time_and_all_is_right_once_it_answers(
    fleet: Fleet, parts: Parts, there: Readback
) -> None:
    before = there.everything()
    fleet.has("one", guests=[a_guest(GUEST)], fault={"hang_s": 1.5})
    began_s = time.monotonic()
    threads = threading.active_count()
    result = refresh(parts)
    assert time.monotonic() - began_s < 1.2
    assert {type(error) for error in result.failed.values()} == {DriverUnreachable}
    assert failures(parts) == dict.fromkeys(NAMES, "DriverUnreachable")
    assert "0.3 s" in result.failed["one"].what
    fleet.has("one", guests=[a_guest(GUEST)])
    # The call that hangs can't be ended: until it is, the others are refused at once and threads don't pile up.
    tries = 0
    while True:
        with contextlib.suppress(DriverUnreachable):
            if refresh(parts).fine:
                break
        tries += 1
        assert time.monotonic() - began_s < 10
    assert tries > 1
    assert threading.active_count() < threads + 3
    assert (used(parts)["one"], failures(parts)) == (2, {})
    assert there.everything() == before


@pytest.mark.parametrize(
    "listing", [{"raise": "DriverUnreachable"}, {"raise": "DriverError"}, {"raise": "LedgerError"}, {"hang_s": 1}]
)
def test_given_a_driver_that_can_not_list_when_refreshed_then_nothing_is_deleted_or_told(
    fleet: Fleet, parts: Parts, server: PlacementServer, there: Readback, listing: dict[str, object]
) -> None:
    before, told = there.everything(), writes(server)
    fleet.listing = listing
    fleet.loses("two", "three")
    for _ in range(3):
        with pytest.raises(StocktakeError):
            refresh(parts)
    assert failures(parts).keys() == set(NAMES)
    assert used(parts) == dict.fromkeys(NAMES, 0)
    assert (there.everything(), writes(server)) == (before, told)


class Broken:
    """A third party's driver or monitor with a bug."""

    name = "broken"

    def __init__(self, *, listing: bool = False) -> None:
        self._listing = listing

    def node_names(self) -> tuple[str, ...]:
        if self._listing:
            raise KeyError("nodes")
        return NAMES

    def survey(self, _nodes: Collection[str]) -> dict[str, Survey | StocktakeError]:
        raise ZeroDivisionError("division by zero")

    def node_exists(self, _node: str) -> bool:
        return True

    def uptime_s(self) -> float | None:
        return None

    def close(self) -> None:
        return

    def read(self, _node: str) -> tuple[Metric, ...]:
        raise ZeroDivisionError("division by zero")


def test_given_a_driver_with_a_bug_when_refreshed_then_it_is_a_driver_error_and_no_crash(parts: Parts) -> None:
    result = refresh(replace(parts, driver=Broken()))
    assert {name: type(error) for name, error in result.failed.items()} == dict.fromkeys(NAMES, DriverError)
    assert "ZeroDivisionError" in result.failed["one"].what
    with pytest.raises(DriverError, match="KeyError"):
        refresh(replace(parts, driver=Broken(listing=True)))
    assert failures(parts) == dict.fromkeys(NAMES, "DriverError")
    assert refresh(parts).fine


def test_given_a_monitor_with_a_bug_when_refreshed_then_it_costs_the_metrics_and_not_the_node(parts: Parts) -> None:
    result = refresh(replace(parts, monitors=(Broken(),)))
    assert result.fine
    assert [problem.code for problem in result.nodes["one"].problems] == ["monitor-unreadable"]


# The scheduler.


def misbehaviours() -> dict[str, Callable[[PlacementServer, str], None]]:
    """Give the ways in which Placement refuses what is told of one provider."""

    def conflict(server: PlacementServer, uuid: str) -> None:
        server.misbehave("PUT", f"{uuid}/inventories", status=409, code="placement.concurrent_update")

    def refused(server: PlacementServer, uuid: str) -> None:
        server.misbehave("PUT", f"{uuid}/inventories", status=400)

    def error(server: PlacementServer, uuid: str) -> None:
        server.misbehave("PUT", f"{uuid}/inventories", status=500)

    def hang(server: PlacementServer, uuid: str) -> None:
        server.misbehave("PUT", f"{uuid}/inventories", how="hang")

    def close(server: PlacementServer, uuid: str) -> None:
        server.misbehave("PUT", f"{uuid}/inventories", how="close")

    return {"409": conflict, "400": refused, "500": error, "hang": hang, "close": close}


@pytest.mark.parametrize("how", misbehaviours())
def test_given_a_placement_that_refuses_one_node_when_refreshed_then_its_record_is_saved_and_says_so_until_it_agrees(
    fleet: Fleet, parts: Parts, server: PlacementServer, there: Readback, how: str
) -> None:
    misbehaviours()[how](server, there.providers()["one"]["uuid"])
    fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)])
    result = refresh(parts)
    assert "one" in result.unsynced
    assert result.failed == {}
    assert used(parts)["one"] == 2
    codes = [problem.code for problem in parts.ledger.node("one").problems]
    assert codes == ["placement-unreachable" if how in ("500", "hang", "close") else "placement-refused"]
    lines = dump(parts.ledger)
    assert "one" in refresh(parts).unsynced
    assert dump(parts.ledger) == lines, "what is said already is not written again"
    server.behave()
    assert refresh(parts).fine
    assert parts.ledger.node("one").problems == ()
    assert there.inventories("one")["VCPU"]["total"] == 8
    again = refresh(parts)
    assert (again.writes, again.changed) == (0, set())


def test_given_a_placement_that_is_gone_when_refreshed_then_the_books_go_on_and_it_learns_all_when_it_is_back(
    fleet: Fleet, parts: Parts, server: PlacementServer, there: Readback
) -> None:
    server.stop()
    try:
        fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)]).has("four")
        result = refresh(parts)
        assert result.unsynced.keys() == {*NAMES, "four"}
        assert used(parts) == {"one": 2, "two": 0, "three": 0, "four": 0}
        fleet.loses("three")
        assert refresh(parts).deleted == ["three"]
    finally:
        server.start()
    assert refresh(parts).fine
    assert there.providers().keys() == {"one", "two", "four"}
    assert there.inventories("one")["VCPU"]["total"] == 8
    assert all(row.problems == () for row in parts.ledger.nodes())


@pytest.mark.parametrize("parts", ["own"], indirect=True)
def test_given_instances_that_are_deleted_when_refreshed_then_their_allocations_go_and_all_others_stay(
    parts: Parts, server: PlacementServer, there: Readback
) -> None:
    parts.ledger.put_instances([an_instance(uuid, host="alpha", node="one") for uuid in (GUEST, GONE)])
    for consumer in (GUEST, STRANGER):
        there.allocate(consumer, {"one": {"VCPU": 2}})
    there.allocate(GONE, {"one": {"VCPU": 2, "MEMORY_MB": 64}, "two": {"VCPU": 1}})
    refresh(parts)
    # What it holds elsewhere is another node's to say; that node has no such promise.
    assert there.held("one") == {
        GUEST: {"VCPU": 2, "MEMORY_MB": 2048, "DISK_GB": 20},
        GONE: {"VCPU": 2, "MEMORY_MB": 2048, "DISK_GB": 20},
        STRANGER: {"VCPU": 2},
    }
    assert there.consumers("two") == set()
    parts.ledger.delete_instances([GONE])
    server.misbehave("PUT", f"/allocations/{GONE}", status=500)
    assert refresh(parts).unsynced.keys() == {"one"}
    assert there.consumers("one") == {GUEST, GONE, STRANGER}
    server.behave()
    assert refresh(parts).fine
    assert there.consumers("one") == {GUEST, STRANGER}
    assert [problem.code for problem in parts.ledger.node("one").problems] == ["placement-allocation-unknown"]
    told = writes(server)
    assert refresh(parts).writes == 0
    assert writes(server) == told


def test_given_allocations_of_others_when_refreshed_then_no_request_is_about_them(
    parts: Parts, server: PlacementServer, there: Readback
) -> None:
    parts.ledger.put_instances([an_instance(uuid, host="alpha", node="one") for uuid in (GUEST, GONE)])
    for consumer in (GONE, STRANGER):
        there.allocate(consumer, {"one": {"VCPU": 2}})
    before = there.held("one")
    server.misbehave("*", "allocations", status=500)
    assert refresh(parts).fine
    parts.ledger.delete_instances([GONE])
    assert refresh(parts).fine
    server.behave()
    assert there.held("one") == before
