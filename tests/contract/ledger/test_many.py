"""What is read of many nodes at once, to find the best of them."""

import pytest

from stocktake.ledger import Ledger
from stocktake.model.books import Entry
from tests.contract.ledger.making import IDS, counting, device, entry, node, saved


def test_given_nodes_when_read_at_once_then_each_has_its_own_entries_and_devices(ledger: Ledger) -> None:
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


def test_given_a_deleted_node_when_read_then_nothing_of_it_is_there(ledger: Ledger) -> None:
    gone = saved(ledger, entries=(entry(),), pci_devices=(device(),))
    ledger.delete_node(gone.uuid)
    assert (ledger.all_entries((gone.uuid,)), ledger.devices((gone.uuid,))) == ({gone.uuid: ()}, {gone.uuid: ()})


@pytest.mark.parametrize("count", [1, 40])
def test_given_any_number_of_nodes_when_read_then_the_number_of_queries_is_the_same(ledger: Ledger, count: int) -> None:
    entries: tuple[Entry, ...] = (entry(),)
    uuids = [
        saved(ledger, node(f"n{number}"), entries=entries, pci_devices=(device(),)).uuid for number in range(count)
    ]
    with counting(ledger) as sent:
        ledger.all_entries(uuids)
        ledger.devices(uuids)
    assert len([statement for statement, _ in sent if statement.lstrip().startswith("SELECT")]) == 3
