"""What is read of many nodes at once, to find the best of them."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from stocktake.ledger import DatabaseLedger
from stocktake.ledger.nodes import ChangeStamp
from stocktake.model.books import Entry
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from tests.ledger.making import IDS, again, counting, device, entry, node, saved


def test_given_nodes_when_read_at_once_then_each_has_its_own_entries_and_devices(ledger: DatabaseLedger) -> None:
    first = saved(ledger, node("a"), entries=(entry("x"), entry("y")), pci_devices=(device("0000:02:00.0"), device()))
    second = saved(ledger, node("b", host="kvm-2"), entries=(entry("z"),))
    third = saved(ledger, node("c"), entries=(entry("w"),), pci_devices=(device(),))
    unknown = IDS.uuid()
    asked = (first.uuid, second.uuid, unknown)
    assert ledger.all_entries(asked) == {
        first.uuid: (entry("x"), entry("y")),
        second.uuid: (entry("z"),),
        unknown: (),
    }
    assert ledger.devices(asked) == {first.uuid: (device(), device("0000:02:00.0")), second.uuid: (), unknown: ()}
    assert ledger.all_entries((third.uuid,)) == {third.uuid: ledger.entries(third.uuid)}
    assert (ledger.all_entries(()), ledger.devices(())) == ({}, {})


def test_given_unmanaged_guests_and_reserves_when_read_then_they_come_without_what_was_promised(
    ledger: DatabaseLedger,
) -> None:
    kept = replace(entry("host"), kind="reserved")
    orphan, misplaced = replace(entry("a"), kind="orphan"), replace(entry("b"), kind="misplaced")
    promised = replace(entry("c"), kind="instance")
    one = saved(ledger, node("a"), entries=(kept, promised, orphan, misplaced))
    other = saved(ledger, node("b"), entries=(kept, promised))
    both = (one.uuid, other.uuid)
    assert ledger.unmanaged(both) == {one.uuid: (orphan, misplaced)}
    assert ledger.unmanaged(both, reserves=True) == {one.uuid: (kept, orphan, misplaced), other.uuid: (kept,)}


def test_given_nodes_when_some_are_asked_for_then_only_they_come(ledger: DatabaseLedger) -> None:
    names = {name: saved(ledger, node(name)).uuid for name in ("a", "b", "c")}
    found = ledger.nodes_in_brief(uuids=[names["c"], names["a"], IDS.uuid()])
    assert [one.hypervisor_hostname for one in found] == ["a", "c"]
    assert ledger.nodes_in_brief(uuids=[]) == ()


def test_given_changes_when_marks_are_read_then_they_differ_and_else_they_do_not(ledger: DatabaseLedger) -> None:
    one, other = saved(ledger, node("a")), saved(ledger, node("b", host="kvm-2"))
    long_ago = datetime(2000, 1, 1, tzinfo=UTC)
    seen = [ledger.change_stamps(alive_since=long_ago)]
    assert set(seen[0]) == {
        ChangeStamp(each.uuid, each.generation, None, disabled=None, forced_down=None, alive=None)
        for each in (one, other)
    }
    assert set(ledger.change_stamps(alive_since=long_ago)) == set(seen[0])
    changes: list[Callable[[], object]] = [
        lambda: again(ledger, replace(one, vcpus_used=1)),
        lambda: ledger.note_failures({other.uuid: Problem(code="x", about="y", text="no answer")}),
        lambda: ledger.note_failures({other.uuid: Problem(code="x", about="y", text="still no answer")}),
        lambda: ledger.register("kvm-2", version="1"),
        lambda: ledger.heartbeat("kvm-2", version="1"),
        lambda: ledger.set_service("kvm-2", disabled=True, reason="x"),
        lambda: ledger.delete_node(one.uuid),
    ]
    for change in changes:
        change()
        seen.append(ledger.change_stamps(alive_since=long_ago))
    assert len({frozenset(marks) for marks in seen}) == len(seen)
    # A sign of life more changes nothing; none for long enough does.
    ledger.heartbeat("kvm-2", version="1")
    (last,) = ledger.change_stamps(alive_since=long_ago)
    assert seen[-1] == (last,)
    assert (last.uuid, last.disabled, last.forced_down, last.alive) == (other.uuid, True, False, True)
    assert [mark.alive for mark in ledger.change_stamps(alive_since=datetime(9000, 1, 1, tzinfo=UTC))] == [False]


def test_given_a_deleted_node_when_read_then_nothing_of_it_is_there(ledger: DatabaseLedger) -> None:
    gone = saved(ledger, entries=(entry(),), pci_devices=(device(),))
    ledger.delete_node(gone.uuid)
    assert (ledger.all_entries((gone.uuid,)), ledger.devices((gone.uuid,))) == ({gone.uuid: ()}, {gone.uuid: ()})


@pytest.mark.parametrize("count", [1, 40])
def test_given_any_number_of_nodes_when_read_then_the_number_of_queries_is_the_same(
    ledger: DatabaseLedger, count: int
) -> None:
    entries: tuple[Entry, ...] = (entry(),)
    uuids = [
        saved(ledger, node(f"n{number}"), entries=entries, pci_devices=(device(),)).uuid for number in range(count)
    ]
    with counting(ledger) as sent:
        ledger.all_entries(uuids)
        ledger.devices(uuids)
    assert len([statement for statement, _ in sent if statement.lstrip().startswith("SELECT")]) == 3
