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
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.context import Fleet, a_guest, an_instance, dump
from tests.servers.placement import PlacementServer
from tests.system.conftest import NAMES, used
from tests.system.readback import Readback, writes
from tests.system.running import WAIT_S

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
GONE = "bbbbbbbb-0000-4000-8000-000000000002"
FOREIGN = "bbbbbbbb-0000-4000-8000-000000000003"


def failures(context: Context) -> dict[str, str]:
    return {row.hypervisor_hostname: row.failure.code for row in context.ledger.nodes() if row.failure}


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
    fleet: Fleet, context: Context, there: Readback, fault: dict[str, object]
) -> None:
    for name in NAMES:
        fleet.has(name, report={"vcpus": 8}, guests=[a_guest(GUEST)])
    fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)], fault=fault)
    result = refresh(context)
    assert result.failed.keys() == {"one"}
    assert used(context) == {"one": 0, "two": 2, "three": 2}
    assert failures(context).keys() == {"one"}
    assert result.deleted == []
    totals = {name: there.inventories(name)["VCPU"]["total"] for name in NAMES}
    assert totals == {"one": 16, "two": 8, "three": 8}
    fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)])
    assert refresh(context).fine
    assert used(context) == dict.fromkeys(NAMES, 2)
    assert failures(context) == {}
    assert there.inventories("one")["VCPU"]["total"] == 8


def test_given_a_node_that_calls_itself_as_another_when_refreshed_then_both_keep_their_names_and_records(
    fleet: Fleet, context: Context
) -> None:
    fleet.has("one", guests=[a_guest(GUEST)], fault={"lie": {"hypervisor_hostname": "two"}})
    result = refresh(context)
    assert (result.fine, result.deleted) == (True, [])
    assert used(context) == {"one": 2, "two": 0, "three": 0}
    assert [problem.code for problem in context.ledger.node("one").problems] == ["node-name-differs"]
    assert refresh(context).deleted == []


def test_given_a_driver_that_hangs_when_refreshed_then_it_is_given_up_in_time_and_all_is_right_once_it_answers(
    fleet: Fleet, context: Context, there: Readback
) -> None:
    before = there.everything()
    fleet.has("one", guests=[a_guest(GUEST)], fault={"hang_s": 1.5})
    threads = threading.active_count()
    result = refresh(context)
    # It is the call that hangs still, and not the pass.
    assert threading.active_count() > threads
    assert {type(error) for error in result.failed.values()} == {DriverUnreachable}
    assert failures(context) == dict.fromkeys(NAMES, "DriverUnreachable")
    assert "0.3 s" in result.failed["one"].what
    fleet.has("one", guests=[a_guest(GUEST)])
    # The call that hangs can't be ended: until it is, the others are refused at once and threads don't pile up.
    tries, until_s = 0, time.monotonic() + WAIT_S
    while True:
        with contextlib.suppress(DriverUnreachable):
            if refresh(context).fine:
                break
        tries += 1
        assert time.monotonic() < until_s
    assert tries > 1
    assert threading.active_count() < threads + 3
    assert (used(context)["one"], failures(context)) == (2, {})
    assert there.everything() == before


@pytest.mark.parametrize(
    "listing", [{"raise": "DriverUnreachable"}, {"raise": "DriverError"}, {"raise": "LedgerError"}, {"hang_s": 1}]
)
def test_given_a_driver_that_can_not_list_when_refreshed_then_nothing_is_deleted_or_told(
    fleet: Fleet, context: Context, server: PlacementServer, there: Readback, listing: dict[str, object]
) -> None:
    before, told = there.everything(), writes(server)
    fleet.listing = listing
    fleet.loses("two", "three")
    for _ in range(3):
        with pytest.raises(StocktakeError):
            refresh(context)
    assert failures(context).keys() == set(NAMES)
    assert used(context) == dict.fromkeys(NAMES, 0)
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


def test_given_a_driver_with_a_bug_when_refreshed_then_it_is_a_driver_error_and_no_crash(context: Context) -> None:
    result = refresh(replace(context, driver=Broken()))
    assert {name: type(error) for name, error in result.failed.items()} == dict.fromkeys(NAMES, DriverError)
    assert "ZeroDivisionError" in result.failed["one"].what
    with pytest.raises(DriverError, match="KeyError"):
        refresh(replace(context, driver=Broken(listing=True)))
    assert failures(context) == dict.fromkeys(NAMES, "DriverError")
    assert refresh(context).fine


def test_given_a_monitor_with_a_bug_when_refreshed_then_it_costs_the_metrics_and_not_the_node(context: Context) -> None:
    result = refresh(replace(context, monitors=(Broken(),)))
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
    fleet: Fleet, context: Context, server: PlacementServer, there: Readback, how: str
) -> None:
    misbehaviours()[how](server, there.providers()["one"]["uuid"])
    fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)])
    result = refresh(context)
    assert "one" in result.unsynced
    assert result.failed == {}
    assert used(context)["one"] == 2
    codes = [problem.code for problem in context.ledger.node("one").problems]
    assert codes == ["placement-unreachable" if how in ("500", "hang", "close") else "placement-refused"]
    lines = dump(context.ledger)
    assert "one" in refresh(context).unsynced
    assert dump(context.ledger) == lines, "what is said already is not written again"
    server.behave()
    assert refresh(context).fine
    assert context.ledger.node("one").problems == ()
    assert there.inventories("one")["VCPU"]["total"] == 8
    again = refresh(context)
    assert (again.writes, again.changed) == (0, set())


def test_given_a_placement_that_is_gone_when_refreshed_then_the_books_go_on_and_it_learns_all_when_it_is_back(
    fleet: Fleet, context: Context, server: PlacementServer, there: Readback
) -> None:
    server.stop()
    try:
        fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)]).has("four")
        result = refresh(context)
        assert result.unsynced.keys() == {*NAMES, "four"}
        assert used(context) == {"one": 2, "two": 0, "three": 0, "four": 0}
        fleet.loses("three")
        assert refresh(context).deleted == ["three"]
    finally:
        server.start()
    assert refresh(context).fine
    assert there.providers().keys() == {"one", "two", "four"}
    assert there.inventories("one")["VCPU"]["total"] == 8
    assert all(row.problems == () for row in context.ledger.nodes())


@pytest.mark.parametrize("context", ["own"], indirect=True)
def test_given_instances_that_are_deleted_when_refreshed_then_their_allocations_go_and_all_others_stay(
    context: Context, server: PlacementServer, there: Readback
) -> None:
    context.ledger.put_instances([an_instance(uuid, host="alpha", node="one") for uuid in (GUEST, GONE)])
    for consumer in (GUEST, FOREIGN):
        there.allocate(consumer, {"one": {"VCPU": 2}})
    there.allocate(GONE, {"one": {"VCPU": 2, "MEMORY_MB": 64}, "two": {"VCPU": 1}})
    refresh(context)
    # What it holds elsewhere is another node's to say; that node has no such promise.
    assert there.held("one") == {
        GUEST: {"VCPU": 2, "MEMORY_MB": 2048, "DISK_GB": 20},
        GONE: {"VCPU": 2, "MEMORY_MB": 2048, "DISK_GB": 20},
        FOREIGN: {"VCPU": 2},
    }
    assert there.consumers("two") == set()
    context.ledger.delete_instances([GONE])
    server.misbehave("PUT", f"/allocations/{GONE}", status=500)
    assert refresh(context).unsynced.keys() == {"one"}
    assert there.consumers("one") == {GUEST, GONE, FOREIGN}
    server.behave()
    assert refresh(context).fine
    assert there.consumers("one") == {GUEST, FOREIGN}
    assert [problem.code for problem in context.ledger.node("one").problems] == ["placement-allocation-unknown"]
    told = writes(server)
    assert refresh(context).writes == 0
    assert writes(server) == told


def test_given_allocations_of_others_when_refreshed_then_no_request_is_about_them(
    context: Context, server: PlacementServer, there: Readback
) -> None:
    context.ledger.put_instances([an_instance(uuid, host="alpha", node="one") for uuid in (GUEST, GONE)])
    for consumer in (GONE, FOREIGN):
        there.allocate(consumer, {"one": {"VCPU": 2}})
    before = there.held("one")
    server.misbehave("*", "allocations", status=500)
    assert refresh(context).fine
    context.ledger.delete_instances([GONE])
    assert refresh(context).fine
    server.behave()
    assert there.held("one") == before
