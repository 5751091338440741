"""Step 2: one pass; one node's trouble is its own, and what vanished goes only when it is sure."""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stocktake.drivers.host import open_driver as open_host
from stocktake.errors import (
    DriverError,
    DriverUnreachable,
    IdentityError,
    LedgerUnreachable,
    NodeNotFound,
    ReportRefused,
)
from stocktake.model.problem import ordered
from stocktake.model.value import replace as changed
from stocktake.refresh.context import Context, Pass
from stocktake.refresh.run import refresh
from tests.context import Fleet, a_guest, an_instance, context_of, dump

FIRST = "aaaaaaaa-0000-4000-8000-000000000001"
SECOND = "aaaaaaaa-0000-4000-8000-000000000002"
THIRD = "aaaaaaaa-0000-4000-8000-000000000003"
GUEST = "bbbbbbbb-0000-4000-8000-000000000001"


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet.json")


@pytest.fixture
def context(tmp_path: Path, fleet: Fleet) -> Iterator[Context]:
    with context_of(tmp_path) as opened:
        yield opened


def test_given_a_new_node_when_refreshed_then_its_record_is_whole(fleet: Fleet, context: Context) -> None:
    fleet.has("one", guests=[a_guest(GUEST)])
    result = refresh(context)
    assert result.fine
    (node,) = context.ledger.nodes()
    assert result.nodes == {"one": node}
    assert (node.host, node.host_ip, node.vcpus, node.vcpus_used) == ("alpha", "192.0.2.7", 16, 2)
    assert (node.memory_mb_used, node.local_gb_used, node.free_ram_mb) == (512 + 1024, 10, 65536 - 1536)
    assert [entry.kind for entry in context.ledger.entries(node.uuid)] == ["reserved", "orphan"]
    assert context.ledger.services()[0].host == "alpha"
    assert set(result.seconds) == {"read", "list", "audit", "verify", "tally", "save", "report"}


def test_given_nothing_changed_when_refreshed_again_then_nothing_is_written(fleet: Fleet, context: Context) -> None:
    fleet.has("one", guests=[a_guest(GUEST)]).has("two")
    refresh(context)
    before = dump(context.ledger)
    result = refresh(context)
    assert (result.changed, result.writes) == (set(), 0)
    assert dump(context.ledger) == before


def test_given_any_pass_when_it_ran_then_it_tells_what_it_was_made_of(fleet: Fleet, context: Context) -> None:
    sleeper = a_guest(FIRST, state="shutoff", active=False)
    fleet.has("one", guests=[a_guest(GUEST), sleeper]).has("two", guests=[]).has("unsaid")
    first = refresh(context)
    assert (first.known, first.saves, first.conflicts) == ((), 3, 0)
    second = refresh(context)
    assert [row.hypervisor_hostname for row in second.known] == ["one", "two", "unsaid"]
    assert (second.saves, second.guests) == (0, {"one": 1, "two": 0})
    assert [entry.kind for entry in second.entries["one"]] == ["reserved", "orphan", "orphan"]


def test_given_a_pass_that_raises_when_it_was_given_what_to_fill_then_that_has_what_it_knew(
    fleet: Fleet, context: Context
) -> None:
    fleet.has("one")
    refresh(context)
    fleet.listing = {"raise": "DriverUnreachable", "text": "gone"}
    fleet.write()
    told = Pass()
    with pytest.raises(DriverUnreachable):
        refresh(context, into=told)
    assert [row.hypervisor_hostname for row in told.known] == ["one"]
    assert set(told.seconds) == {"read"}


def test_given_one_node_in_trouble_when_refreshed_then_the_others_are_fresh_and_it_says_why(
    fleet: Fleet, context: Context
) -> None:
    fleet.has("raises").has("lies").has("lacks").has("well")
    refresh(context)
    fleet.has("raises", fault={"raise": "DriverError", "text": "it burns"})
    fleet.has("lies", fault={"lie": {"memory_mb": -5, "vcpus": "many"}})
    fleet.has("lacks", fault={"omit": ["local_gb", "numa_topology"]})
    fleet.has("well", guests=[a_guest(GUEST)])
    result = refresh(context)
    assert {name: type(error) for name, error in result.failed.items()} == {
        "raises": DriverError,
        "lies": ReportRefused,
        "lacks": ReportRefused,
    }
    rows = {row.hypervisor_hostname: row for row in context.ledger.nodes()}
    assert rows["well"].vcpus_used == 2
    assert rows["well"].failure is None
    assert rows["raises"].failure is not None
    assert "it burns" in rows["raises"].failure.text
    assert rows["lacks"].failure is not None
    assert "local_gb is missing; numa_topology is missing" in rows["lacks"].failure.text
    assert rows["lies"].memory_mb == 65536


def test_given_a_node_that_recovers_when_refreshed_then_its_failure_is_gone(fleet: Fleet, context: Context) -> None:
    fleet.has("one")
    refresh(context)
    fleet.has("one", fault={"raise": "DriverError"})
    refresh(context)
    before = dump(context.ledger)
    refresh(context)
    assert dump(context.ledger) == before
    fleet.has("one")
    assert refresh(context).fine
    assert context.ledger.node("one").failure is None


def test_given_a_driver_that_can_not_list_when_refreshed_then_nothing_is_deleted_and_all_carry_it(
    fleet: Fleet, context: Context
) -> None:
    fleet.has("one").has("two")
    refresh(context)
    fleet.listing = {"raise": "DriverUnreachable", "text": "no answer"}
    fleet.write()
    with pytest.raises(DriverUnreachable):
        refresh(context)
    rows = context.ledger.nodes()
    assert [row.failure.code for row in rows if row.failure] == ["DriverUnreachable", "DriverUnreachable"]


def test_given_only_one_node_asked_for_when_refreshed_then_no_other_is_touched(fleet: Fleet, context: Context) -> None:
    fleet.has("one").has("two")
    refresh(context)
    fleet.loses("two").has("one", guests=[a_guest(GUEST)]).has("three")
    result = refresh(context, only="one")
    assert result.nodes.keys() == {"one"}
    assert {row.hypervisor_hostname for row in context.ledger.nodes()} == {"one", "two"}
    with pytest.raises(NodeNotFound, match="nowhere"):
        refresh(context, only="nowhere")


def test_given_a_vanished_node_when_refreshed_then_it_is_deleted(fleet: Fleet, context: Context) -> None:
    fleet.has("one").has("two").has("three")
    refresh(context)
    fleet.loses("two")
    result = refresh(context)
    assert result.deleted == ["two"]
    assert {row.hypervisor_hostname for row in context.ledger.nodes()} == {"one", "three"}
    assert context.ledger.deleted_nodes("alpha") == ()


@pytest.mark.parametrize("reason", ["instances", "still exists"])
def test_given_a_vanished_node_that_may_not_go_when_refreshed_then_it_stays_and_says_why(
    fleet: Fleet, context: Context, reason: str
) -> None:
    fleet.has("one").has("two").has("three")
    refresh(context)
    if reason == "instances":
        context.ledger.put_instances([an_instance(GUEST, host="alpha", node="two")])
        fleet.loses("two")
    else:
        fleet.has("two", listed=False)
    result = refresh(context)
    assert result.deleted == []
    assert reason in result.kept["two"]
    failure = context.ledger.node("two").failure
    assert failure is not None
    assert failure.code == "orphan-node"
    before = dump(context.ledger)
    refresh(context)
    assert dump(context.ledger) == before


def test_given_many_vanish_at_once_when_refreshed_then_they_go_only_once_a_second_pass_agrees(
    fleet: Fleet, context: Context
) -> None:
    fleet.has("one").has("two").has("three")
    refresh(context)
    fleet.loses("two", "three")
    assert refresh(context).deleted == []
    assert sorted(refresh(context).deleted) == ["three", "two"]


@pytest.mark.parametrize("asked", range(12))
def test_given_a_stop_at_any_question_when_the_next_pass_ran_then_what_vanished_is_gone(
    fleet: Fleet, context: Context, asked: int
) -> None:
    fleet.has("one").has("two").has("three")
    refresh(context)
    fleet.loses("two", "three")
    refresh(context)
    questions = itertools.count()
    refresh(context, stop=lambda: next(questions) >= asked)
    assert refresh(context).fine
    assert refresh(context).fine
    assert [row.hypervisor_hostname for row in context.ledger.nodes()] == ["one"]
    assert context.ledger.deleted_nodes("alpha") == ()


def test_given_many_vanish_and_come_back_when_they_vanish_again_then_it_counts_anew(
    fleet: Fleet, context: Context
) -> None:
    fleet.has("one").has("two").has("three")
    refresh(context)
    fleet.loses("two", "three")
    refresh(context)
    fleet.has("two").has("three")
    refresh(context)
    fleet.loses("two", "three")
    assert refresh(context).deleted == []


def test_given_another_hosts_node_when_it_vanishes_here_then_it_is_left_alone(
    tmp_path: Path, fleet: Fleet, context: Context
) -> None:
    fleet.has("one", report={"uuid": FIRST}).has("two", report={"uuid": SECOND}).has("three", report={"uuid": THIRD})
    refresh(context)
    other = tmp_path / "beta"
    other.mkdir()
    theirs = Fleet(other / "fleet.json").has("two", report={"uuid": SECOND})
    assert theirs.nodes
    with context_of(other, host="beta", database={"connection": context.settings.database.connection}) as beta:
        moved = refresh(beta)
        assert moved.moved == {"two": "alpha"}
        fleet.loses("two")
        assert refresh(context).deleted == []
        assert beta.ledger.node("two").host == "beta"
        assert beta.ledger.node("two").uuid == SECOND


def test_given_a_driver_that_renumbers_a_node_when_refreshed_then_only_that_node_stops(
    fleet: Fleet, context: Context
) -> None:
    fleet.has("one", report={"uuid": FIRST}).has("two", report={"uuid": SECOND})
    refresh(context)
    fleet.has("one", report={"uuid": THIRD})
    result = refresh(context)
    assert isinstance(result.failed["one"], IdentityError)
    assert context.ledger.node("one").uuid == FIRST
    assert "two" in result.nodes


def test_given_another_name_when_refreshed_then_nothing_is_written(
    tmp_path: Path, fleet: Fleet, context: Context
) -> None:
    fleet.has("one")
    refresh(context)
    before = dump(context.ledger)
    with (
        context_of(tmp_path, host="omega", ledger=context.ledger) as renamed,
        pytest.raises(IdentityError, match="alpha"),
    ):
        refresh(renamed)
    with context_of(tmp_path) as again:
        assert dump(again.ledger) == before


def test_given_auto_adoption_when_a_guest_appears_then_it_is_an_instance_and_counts_once(
    tmp_path: Path, fleet: Fleet
) -> None:
    fleet.has("one", guests=[a_guest(GUEST), a_guest(FIRST, active=False, state="shutoff")])
    with context_of(tmp_path, adopt="auto") as context:
        result = refresh(context)
        assert result.adopted == [GUEST]
        (instance,) = context.ledger.instances()
        assert (instance.uuid, instance.adopted, instance.node) == (GUEST, True, "one")
        node = context.ledger.node("one")
        assert (node.vcpus_used, node.memory_mb_used, node.local_gb_used, node.running_vms) == (2, 1536, 10, 1)
        assert refresh(context).adopted == []


def test_given_auto_adoption_when_an_adopted_guest_is_undefined_then_its_instance_goes(
    tmp_path: Path, fleet: Fleet
) -> None:
    promised = an_instance(SECOND, host="alpha", node="one")
    fleet.has("one", guests=[a_guest(GUEST)])
    with context_of(tmp_path, adopt="auto") as context:
        context.ledger.put_instances([promised])
        refresh(context)
        fleet.has("one", guests=[])
        refresh(context)
        assert [instance.uuid for instance in context.ledger.instances()] == [SECOND]
        assert context.ledger.node("one").vcpus_used == 2


def test_given_a_ledger_that_is_away_when_refreshed_then_the_pass_is_skipped_and_the_next_is_right(
    tmp_path: Path, fleet: Fleet
) -> None:
    fleet.has("one", guests=[a_guest(GUEST)])
    with context_of(tmp_path) as context:
        refresh(context)
        path = Path(context.settings.database.connection.removeprefix("sqlite:///"))
        context.ledger.close()
        away = path.with_suffix(".away")
        path.rename(away)
        path.mkdir()
        with pytest.raises(LedgerUnreachable):
            refresh(context)
        path.rmdir()
        away.rename(path)
        fleet.has("one")
        assert refresh(context).nodes["one"].vcpus_used == 0


def test_given_a_stop_when_asked_between_steps_then_nothing_is_half_done(fleet: Fleet, context: Context) -> None:
    fleet.has("one")
    result = refresh(context, stop=lambda: True)
    assert result.nodes == {}
    assert context.ledger.nodes() == ()
    assert refresh(context).nodes.keys() == {"one"}


def test_given_auto_and_a_hypervisor_that_is_down_when_refreshed_then_the_host_is_not_taken_for_a_bare_one(
    tmp_path: Path, fleet: Fleet
) -> None:
    fleet.has("one", report={"hypervisor_type": "QEMU"})
    with context_of(tmp_path) as context:
        refresh(context)
        settings = changed(context.settings, compute_driver="auto")
        bare = replace(context, settings=settings, driver=open_host(settings, context.clock))
        with pytest.raises(DriverUnreachable, match="QEMU"):
            refresh(bare)
        node = context.ledger.node("one")
        assert (node.hypervisor_type, node.failure and node.failure.code) == ("QEMU", "DriverUnreachable")


def test_given_a_ledger_that_was_lost_when_refreshed_then_the_new_one_is_not_taken_in_silence(
    tmp_path: Path, fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.has("one")
    with context_of(tmp_path) as context:
        refresh(context)
        refresh(context)
    assert "knows nothing of it" not in caplog.text
    for file in tmp_path.glob("ledger.db*"):
        file.unlink()
    with context_of(tmp_path) as context:
        assert refresh(context).fine
    assert "knows nothing of it" in caplog.text


def test_given_problems_of_the_view_and_of_the_report_when_refreshed_then_they_are_in_the_order_of_every_record(
    tmp_path: Path, fleet: Fleet
) -> None:
    fleet.has("one", report={"memory_mb_used": -1}, guests=[a_guest(GUEST, vcpus=-1)])
    with context_of(tmp_path, reserved_host_memory_mb=99999) as context:
        refresh(context)
        (node,) = context.ledger.nodes()
        assert refresh(context).changed == set()
    assert [problem.code for problem in node.problems] == ["guest-impossible", "reserved-above-total", "used-negative"]
    assert node.problems == ordered(reversed(node.problems))
