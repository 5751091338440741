"""Step 5 beside step 7: whatever a driver says and verify believes can be saved, and is read back as it was."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from stocktake.accounting.tally import tally
from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import DatabaseLedger, NodeSave, open_ledger
from stocktake.model.books import Tally
from stocktake.model.hypervisor import Guest, Host, HostView, Refusal
from stocktake.model.pci import DeviceSpec
from stocktake.model.rules import Rules
from stocktake.model.topology import GuestCell, GuestTopology
from stocktake.model.value import decode, encode, replace
from stocktake.model.workload import NodeWork
from stocktake.refresh.run import refresh
from stocktake.verify import verify
from tests.context import Fleet, context_of
from tests.test_verify import CELL, GUEST, NODE, OTHER, REPORT, REPORTS, WORK, believed, cells, codes, refused

RULES = Rules(host="cn", device_specs=(DeviceSpec(),))
DEVICE: Mapping[str, Any] = {"address": "0000:01:00.0", "vendor_id": "8086", "product_id": "1515"}
# A driver in Python may give text that no file and no database can hold.
HALF = "\ud800"


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseLedger]:
    path: Path = tmp_path_factory.mktemp("ledger") / "ledger.db"
    opened = open_ledger(f"sqlite:///{path}", clock=SystemClock(), ids=RandomIds())
    yield opened
    opened.close()


def books_of(host: Host, uuid: str = "u", work: NodeWork = WORK) -> Tally:
    return tally(host, work, RULES, uuid=uuid)


def comes_back(ledger: DatabaseLedger, host: Host) -> None:
    """Save the books of a host, read them, count again, and throw them away."""
    books = books_of(host, RandomIds().uuid())
    ledger.save((NodeSave(tally=books, expected_generation=None),))
    try:
        work = ledger.work(RULES.host, (NODE,), {})[NODE]
        assert work.record is not None
        times = {"generation": 0, "created_at": None, "updated_at": None}
        assert replace(work.record, **times) == books.node
        assert work.pci_devices == books.pci_devices
        assert ledger.entries(books.node.uuid) == books.entries
        again = books_of(host, work=replace(WORK, record=work.record, pci_devices=work.pci_devices))
        assert replace(again.node, **times) == books.node
    finally:
        ledger.delete_node(books.node.uuid)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cpu_info", HALF),
        ("cpu_info", "a\0b"),
        ("cpu_info", '{"model": "\0"}'),
        ("hypervisor_type", HALF),
        ("hypervisor_hostname", f"{NODE}\0"),
        ("supported_instances", [["i686", "kvm"], ["x86_64", HALF]]),
        ("traits", ["HW", HALF]),
        ("stats", {HALF: 1}),
        ("stats", {"m": 1, "n": "\0"}),
        ("stats", {"n": float("nan")}),
        ("stats", {"n": float("inf")}),
        ("capabilities", {HALF: True}),
        ("pci_passthrough_devices", [{**DEVICE, "label": HALF}]),
        ("pci_passthrough_devices", [{**DEVICE, "product_id": "\0"}]),
        ("pci_passthrough_devices", [{**DEVICE, "dev_type": HALF}]),
        ("pci_passthrough_devices", [{**DEVICE, "dev_type": "\0"}]),
        ("uuid", HALF),
        ("booted_at", "2026-01-01T00:00:00"),
        ("booted_at", datetime(2026, 1, 1)),  # noqa: DTZ001 - what a driver may give
        ("booted_at", "0001-01-01T00:00:00+14:00"),
        ("booted_at", "9999-12-31T23:59:59-14:00"),
    ],
)
def test_given_what_no_ledger_can_hold_when_verified_then_it_is_refused_in_words_that_one_can(
    key: str, value: object
) -> None:
    for reason in refused(**{key: value}):
        assert reason.startswith(f"{key}: ")
        assert decode(encode(reason), str, where="") == reason
        assert "\0" not in reason


def test_given_a_cell_that_lists_pages_of_one_size_twice_when_verified_then_it_is_refused() -> None:
    pages = [{"size_kb": 4, "total": 5}, {"size_kb": 2048, "total": 1}, {"size_kb": 4, "total": 7}]
    (reason,) = refused(**cells({**CELL, "mempages": pages}, OTHER))
    assert reason == "numa_topology: cell 0 lists pages of 4 KiB twice"


@pytest.mark.parametrize(
    ("device", "kept", "found"),
    [
        ({"numa_node": 0}, {"numa_node": 0}, []),
        ({"numa_node": -1}, {"numa_node": None}, []),
        ({"numa_node": 2**70}, {"numa_node": None}, ["pci-device-doubtful"]),
        ({"dev_type": "type-VF", "parent_addr": "0000:01:00.7"}, {"parent_addr": "0000:01:00.7"}, []),
        ({"dev_type": "type-VF", "parent_addr": "01:00"}, {"parent_addr": None}, ["pci-device-doubtful"]),
        ({"dev_type": "type-VF", "parent_addr": "y" * 400}, {"parent_addr": None}, ["pci-device-doubtful"]),
        ({"dev_type": "type-VF", "parent_addr": "0000:01:00.0"}, {"parent_addr": None}, ["pci-device-doubtful"]),
    ],
)
def test_given_a_device_that_is_nowhere_when_verified_then_it_is_kept_without_that_and_told(
    device: Mapping[str, object], kept: Mapping[str, object], found: list[str], ledger: DatabaseLedger
) -> None:
    host = believed(pci_passthrough_devices=[{**DEVICE, **device}])
    assert codes(host) == found
    (believed_device,) = host.pci_devices
    assert {name: getattr(believed_device, name) for name in kept} == kept
    comes_back(ledger, host)


@pytest.mark.parametrize(
    ("changes", "kept", "found"),
    [
        ({"memory_mb": 2**70}, {"memory_mb": 0}, ["guest-impossible"]),
        ({"vcpus": -1, "disk_mb": 2**53 + 1}, {"vcpus": 0, "disk_mb": 0}, ["guest-impossible"]),
        ({"disk_mb": 2**53}, {"disk_mb": 2**53}, []),
        ({"name": f"g{HALF}\0"}, {"name": "g\\ud800\\x00"}, ["guest-unreadable"]),
        ({"state": "\udcff"}, {"state": "\\udcff"}, ["guest-unreadable"]),
        ({"trouble": HALF}, {"trouble": "\\ud800"}, ["guest-unreadable"]),
        ({"uuid": f"{HALF}"}, {"uuid": "\\ud800"}, ["guest-unreadable"]),
        (
            {"numa": GuestTopology(cells=(GuestCell(id=0, memory_mb=64), GuestCell(id=1, memory_mb=-1)))},
            {"numa": None},
            ["guest-impossible"],
        ),
        ({"numa": GuestTopology(cells=(GuestCell(id=0, memory_mb=2**70),))}, {"numa": None}, ["guest-impossible"]),
    ],
)
def test_given_a_guest_that_can_not_be_when_verified_then_the_rest_of_it_counts_and_it_is_told(
    changes: Mapping[str, object], kept: Mapping[str, object], found: list[str], ledger: DatabaseLedger
) -> None:
    other = replace(GUEST, uuid="00000000-0000-4000-8000-000000000002", name="other")
    host = believed(guests=(replace(GUEST, **changes), other), **cells(CELL, OTHER))
    assert host.guests is not None
    guest, unchanged = host.guests
    assert {name: getattr(guest, name) for name in kept} == kept
    assert unchanged == other
    assert codes(host) == found
    comes_back(ledger, host)


def test_given_two_guests_that_differ_in_what_no_ledger_can_hold_when_verified_then_both_are_kept(
    ledger: DatabaseLedger,
) -> None:
    guests: tuple[Guest, ...] = (replace(GUEST, uuid="\ud800"), replace(GUEST, uuid="\ud801"))
    host = believed(guests=guests)
    assert [guest.uuid for guest in host.guests or ()] == ["\\ud800", "\\ud801"]
    comes_back(ledger, host)


def test_given_a_node_that_calls_itself_otherwise_when_verified_then_it_keeps_the_name_that_it_is_listed_under() -> (
    None
):
    # By another name the next pass would not find its record, and would delete it as vanished.
    host = believed(hypervisor_hostname="other")
    assert host.hypervisor_hostname == NODE
    assert codes(host) == ["node-name-differs"]
    assert "other" in host.problems[0].text


def test_given_times_of_any_zone_when_verified_then_they_come_back_equal(ledger: DatabaseLedger) -> None:
    host = believed(booted_at="2026-01-01T02:00:00+02:00")
    assert host.booted_at == datetime(2026, 1, 1, tzinfo=UTC)
    comes_back(ledger, host)


@pytest.mark.parametrize("text", ["größer", "\\u0000", "\\", '"', "\x01\x7f", "\U0001f600", "\ufffe"])
def test_given_odd_text_that_a_ledger_can_hold_when_verified_then_it_comes_back_equal(
    text: str, ledger: DatabaseLedger
) -> None:
    comes_back(ledger, believed(cpu_info=text, stats={text: text}, guests=(replace(GUEST, name=text),)))


@given(REPORTS)
def test_given_any_report_that_is_believed_when_counted_then_the_books_read_back_equal(report: dict[str, Any]) -> None:
    host = verify(HostView(node=NODE, report={**REPORT, **report}))
    if isinstance(host, Refusal):
        assert all(decode(encode(reason), str, where="") == reason for reason in host.reasons)
        return
    books = books_of(host)
    text = encode(books)
    assert "\\u0000" not in text.replace("\\\\", "")
    assert decode(text, Tally, where="") == books


@pytest.mark.parametrize(
    "lie", [{"booted_at": "2026-01-01T00:00:00"}, {"cpu_info": "\0"}, {"vcpus": 2**63}, {"stats": {"n": "\0"}}]
)
def test_given_one_node_of_two_that_no_ledger_can_hold_when_refreshed_then_the_other_is_saved(
    lie: Mapping[str, object], tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path / "fleet.json").has("honest").has("liar")
    with context_of(tmp_path) as context:
        refresh(context)
        fleet.has("honest", report={"vcpus": 24}).has("liar", report=lie)
        result = refresh(context)
        assert result.failed.keys() == {"liar"}
        nodes = {node.hypervisor_hostname: node for node in context.ledger.nodes()}
    assert (nodes["honest"].vcpus, nodes["honest"].failure) == (24, None)
    assert nodes["liar"].vcpus == 16
    assert nodes["liar"].failure is not None
    assert nodes["liar"].failure.code == "ReportRefused"


def test_given_a_node_that_calls_itself_otherwise_when_refreshed_again_then_it_is_the_same_and_not_deleted(
    tmp_path: Path,
) -> None:
    Fleet(tmp_path / "fleet.json").has("one", report={"hypervisor_hostname": "other"}).has("two")
    with context_of(tmp_path) as context:
        first = refresh(context)
        second = refresh(context)
        assert [node.hypervisor_hostname for node in context.ledger.nodes()] == ["one", "two"]
    assert (second.changed, second.failed, second.deleted) == (set(), {}, [])
    assert first.nodes == second.nodes
