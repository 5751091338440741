"""Step 5: believe, doubt or refuse; every reason at once, and never a crash."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.tally import tally
from stocktake.model.books import Metric, Tally
from stocktake.model.hypervisor import Guest, Host, HostView, Refusal
from stocktake.model.pci import DeviceSpec
from stocktake.model.problem import Problem
from stocktake.model.provider import Inventory
from stocktake.model.rules import Rules
from stocktake.model.topology import CPU_MAX, GuestCell, GuestTopology
from stocktake.model.value import LARGEST, decode, encode, replace
from stocktake.model.workload import Flavor, Instance, NodeWork
from stocktake.verify import REQUIRED, verify

NODE = "cn-1"
REPORT: Mapping[str, Any] = {
    "vcpus": 8,
    "memory_mb": 16384,
    "local_gb": 100,
    "vcpus_used": 0,
    "memory_mb_used": 512,
    "local_gb_used": 3,
    "cpu_info": "",
    "numa_topology": None,
}
CELL: Mapping[str, Any] = {
    "id": 0,
    "cpuset": [0, 1, 2, 3],
    "pcpuset": [],
    "memory": 8192,
    "siblings": [[0, 1], [2, 3]],
    "mempages": [{"size_kb": 4, "total": 2097152, "reserved": 0}],
    "socket": 0,
}
OTHER: Mapping[str, Any] = {**CELL, "id": 1, "cpuset": [4, 5, 6, 7], "siblings": []}
GUEST = Guest(uuid="00000000-0000-4000-8000-000000000001", name="g", state="running", active=True, vcpus=1)


def verdict(*, guests: tuple[Guest, ...] | None = None, **changes: object) -> Host | Refusal:
    return verify(HostView(node=NODE, report={**REPORT, **changes}, guests=guests))


def believed(*, guests: tuple[Guest, ...] | None = None, **changes: object) -> Host:
    host = verdict(guests=guests, **changes)
    assert isinstance(host, Host), host
    return host


def refused(**changes: Any) -> tuple[str, ...]:
    refusal = verdict(**changes)
    assert isinstance(refusal, Refusal)
    return refusal.reasons


def codes(host: Host) -> list[str]:
    return [problem.code for problem in host.problems]


def cells(*given_cells: Mapping[str, Any]) -> dict[str, Any]:
    return {"numa_topology": {"cells": list(given_cells)}}


def test_given_a_plain_report_when_verified_then_it_is_a_host_without_problems() -> None:
    assert believed() == Host(
        node=NODE,
        vcpus=8,
        memory_mb=16384,
        local_gb=100,
        vcpus_used=0,
        memory_mb_used=512,
        local_gb_used=3,
        hypervisor_hostname=NODE,
    )


def test_given_a_full_report_when_verified_then_everything_is_in_the_host() -> None:
    device = {"address": "0000:01:00.0", "vendor_id": "8086", "product_id": "1515", "dev_type": "type-PCI"}
    metric = Metric(name="cpu.percent", value=1, timestamp=datetime(2026, 1, 1, tzinfo=UTC), source="cpu")
    seen = Problem(code="monitor-unreadable", about="m", text="t")
    view = HostView(
        node=NODE,
        host_ip="192.0.2.1",
        metrics=(metric,),
        problems=(seen,),
        guests=(GUEST,),
        report={
            **REPORT,
            **cells(CELL, OTHER),
            "pcpus": 0,
            "hypervisor_type": "QEMU",
            "hypervisor_version": 8002000,
            "hypervisor_hostname": NODE,
            "disk_available_least": -3,
            "supported_instances": [["x86_64", "kvm", "hvm"]],
            "pci_passthrough_devices": [device],
            "stats": {"uptime": None, "n": 1},
            "uuid": "00000000-0000-4000-8000-0000000000ff",
            "traits": ["HW_CPU_X86_VMX"],
            "capabilities": {"supports_device_tagging": True},
            "booted_at": "2026-01-01T00:00:00Z",
            "unknown": object(),
        },
    )
    host = verify(view)
    assert isinstance(host, Host)
    assert (host.host_ip, host.metrics, host.problems, host.guests) == ("192.0.2.1", (metric,), (seen,), (GUEST,))
    assert (host.hypervisor_type, host.hypervisor_version, host.disk_available_least) == ("QEMU", 8002000, -3)
    assert (host.supported_instances, host.stats) == ((("x86_64", "kvm", "hvm"),), {"uptime": None, "n": 1})
    assert (host.uuid, set(host.traits)) == ("00000000-0000-4000-8000-0000000000ff", {"HW_CPU_X86_VMX"})
    assert (host.capabilities, host.booted_at) == ({"supports_device_tagging": True}, datetime(2026, 1, 1, tzinfo=UTC))
    assert [device.address for device in host.pci_devices] == ["0000:01:00.0"]
    assert host.numa_topology is not None
    assert [cell.id for cell in host.numa_topology.cells] == [0, 1]


@given(st.sets(st.sampled_from(REQUIRED), min_size=1))
def test_given_keys_that_are_missing_when_verified_then_every_one_is_named(missing: set[str]) -> None:
    report = {key: value for key, value in REPORT.items() if key not in missing}
    refusal = verify(HostView(node=NODE, report=report))
    assert isinstance(refusal, Refusal)
    assert set(refusal.reasons) == {f"{key} is missing" for key in missing}
    assert refusal.node == NODE


def test_given_many_things_wrong_when_verified_then_each_is_a_reason() -> None:
    report = {**REPORT, "vcpus": -1, "memory_mb": "16384", "stats": [], "uuid": "no"}
    del report["local_gb"]
    refusal = verify(HostView(node=NODE, report=report))
    assert isinstance(refusal, Refusal)
    starts = sorted(reason.split(":")[0] for reason in refusal.reasons)
    assert starts == ["local_gb is missing", "memory_mb", "stats", "uuid", "vcpus"]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("vcpus", None),
        ("vcpus", 1.5),
        ("vcpus", True),
        ("vcpus", 2**53 + 1),
        ("vcpus", 2**70),
        ("memory_mb", -1),
        ("local_gb", "12"),
        ("local_gb", float("nan")),
        ("vcpus_used", None),
        ("memory_mb_used", -(2**53) - 1),
        ("cpu_info", None),
        ("cpu_info", {}),
        ("numa_topology", []),
        ("numa_topology", {}),
        ("numa_topology", {"cells": [{"id": 0}]}),
        ("hypervisor_version", "8"),
        ("supported_instances", "x86"),
        ("pci_passthrough_devices", "[]"),
        ("pci_passthrough_devices", [{"address": 1}]),
        ("pcpus", -1),
        ("stats", {"a": [1]}),
        ("uuid", "00000000-0000-4000-8000-0000000000FF"),
        ("uuid", 7),
        ("traits", "HW"),
        ("capabilities", {"a": 1}),
        ("booted_at", "yesterday"),
        ("booted_at", 1e30),
        ("hypervisor_type", object()),
        ("stats", {1, 2}),
        # Half a surrogate pair: no file and no database can hold it.
        ("cpu_info", "\ud800"),
        ("hypervisor_hostname", "\ud800"),
        ("stats", {"\ud800": 1}),
        ("traits", ["\ud800"]),
        ("booted_at", "\ud800"),
        ("stats", {"uptime": None, "n": 1, "text": "a\0b"}),
        ("supported_instances", [["\ud800"]]),
        ("pci_passthrough_devices", [{"address": "\ud800", "vendor_id": "8086", "product_id": "1515"}]),
    ],
)
def test_given_a_wrong_type_or_a_negative_total_when_verified_then_it_is_refused(key: str, value: object) -> None:
    (reason,) = refused(**{key: value})
    assert reason.startswith(f"{key}: ")


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"memory": -1}, "cell 0"),
        ({"memory": 2**54}, "cell 0"),
        ({"cpuset": [-1]}, "cell 0"),
        ({"pcpuset": [-1]}, "cell 0"),
        ({"cpuset": [2**40]}, "cell 0"),
        ({"mempages": [{"size_kb": 0, "total": 1}]}, "cell 0"),
        ({"mempages": [{"size_kb": -4, "total": 1}]}, "cell 0"),
        ({"mempages": [{"size_kb": 4, "total": -1}]}, "cell 0"),
        ({"mempages": [{"size_kb": 4, "total": 1, "reserved": -1}]}, "cell 0"),
    ],
)
def test_given_a_cell_with_impossible_numbers_when_verified_then_it_is_refused(
    cell: Mapping[str, Any], said: str
) -> None:
    (reason,) = refused(**cells({**CELL, **cell}, OTHER))
    assert reason.startswith("numa_topology: ")
    assert said in reason


def test_given_several_cells_with_impossible_numbers_when_verified_then_each_is_a_reason() -> None:
    pages = [{"size_kb": 0, "total": -1}]
    assert len(refused(**cells({**CELL, "memory": -1, "mempages": pages}, {**OTHER, "memory": -1}))) == 4


def test_given_text_that_only_looks_like_nul_when_verified_then_it_is_believed() -> None:
    assert believed(cpu_info="\\u0000").cpu_info == "\\u0000"


@pytest.mark.parametrize("key", sorted({"hypervisor_type", "stats", "traits", "capabilities", "uuid", "booted_at"}))
def test_given_none_for_what_may_be_left_out_when_verified_then_it_is_as_if_left_out(key: str) -> None:
    assert believed(**{key: None}) == believed()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"memory_mb_used": -17152}, ["used-negative"]),
        ({"vcpus_used": -1, "local_gb_used": -1}, ["used-negative", "used-negative"]),
        ({"memory_mb_used": 16385}, ["used-above-total"]),
        ({"local_gb_used": 101}, ["used-above-total"]),
        ({"memory_mb_used": 16384, "local_gb_used": 100}, []),
        ({"vcpus_used": 100}, []),
        ({"disk_available_least": 101}, ["used-above-total"]),
        ({"disk_available_least": 100}, []),
        ({"hypervisor_hostname": "other"}, ["node-name-differs"]),
        ({"hypervisor_hostname": ""}, []),
        (cells(CELL, OTHER), []),
        (cells(), ["cells-differ-from-host", "cells-differ-from-host"]),
        (cells(CELL, {**OTHER, "cpuset": [3, 4, 5, 6, 7]}), ["cells-overlap"]),
        (cells(CELL, {**OTHER, "cpuset": [4, 5, 6]}), ["cells-differ-from-host"]),
        (cells(CELL, {**OTHER, "pcpuset": [8, 9]}), []),
        (cells(CELL, {**OTHER, "cpuset": [4, 5], "pcpuset": [6, 7]}), []),
        (cells({**CELL, "memory": 8028}, {**OTHER, "memory": 8029}), []),
        (cells({**CELL, "memory": 8028}, {**OTHER, "memory": 8027}), ["cells-differ-from-host"]),
        (cells(CELL, {**OTHER, "memory": 8193 + 327}), ["cells-differ-from-host"]),
        # A fiftieth of 16,400 MiB, and more.
        ({"memory_mb": 16400, **cells({**CELL, "memory": 8036}, {**OTHER, "memory": 8036})}, []),
        (
            {"memory_mb": 16400, **cells({**CELL, "memory": 8036}, {**OTHER, "memory": 8035})},
            ["cells-differ-from-host"],
        ),
        (
            cells(CELL, OTHER, {**OTHER, "memory": 1}),
            ["cells-overlap"],
        ),
    ],
)
def test_given_figures_that_contradict_each_other_when_verified_then_the_node_carries_it_and_is_counted(
    changes: Mapping[str, Any], found: list[str]
) -> None:
    host = believed(**changes)
    assert codes(host) == found
    assert all(problem.remedy for problem in host.problems)


def test_given_a_cell_twice_when_verified_then_the_first_is_kept() -> None:
    host = believed(**cells(OTHER, CELL, {**CELL, "memory": 1}))
    assert host.numa_topology is not None
    assert [(cell.id, cell.memory_mb) for cell in host.numa_topology.cells] == [(0, 8192), (1, 8192)]
    assert [(problem.about, problem.text) for problem in host.problems] == [
        ("numa_topology", "cell 0 is reported twice; the first is kept")
    ]


@pytest.mark.parametrize(
    ("addresses", "kept", "found"),
    [
        (["0000:01:00.0", "0000:01:00.1"], 2, []),
        (["10000:01:00.0"], 1, []),
        (["0000:01:00.0", "0000:01:00.0"], 1, ["pci-device-twice"]),
        (["01:00.0"], 0, ["pci-address-invalid"]),
        (["0000:01:00.8"], 0, ["pci-address-invalid"]),
        (["0000:01:00.0\n"], 0, ["pci-address-invalid"]),
        (["", "0000:01:00.0"], 1, ["pci-address-invalid"]),
    ],
)
def test_given_devices_when_verified_then_those_with_an_address_of_their_own_are_kept(
    addresses: list[str], kept: int, found: list[str]
) -> None:
    devices = [{"address": address, "vendor_id": "8086", "product_id": "1515"} for address in addresses]
    host = believed(pci_passthrough_devices=devices)
    assert len(host.pci_devices) == kept
    assert codes(host) == found


def test_given_guests_when_verified_then_what_is_wrong_with_one_is_told_and_changes_no_other() -> None:
    bad = replace(GUEST, uuid="2", vcpus=-1, memory_mb=-5, disk_mb=7, trouble="its XML ends too early")
    host = believed(guests=(GUEST, bad, replace(GUEST, name="again")))
    assert host.guests == (GUEST, replace(bad, vcpus=0, memory_mb=0))
    assert sorted(codes(host)) == ["guest-impossible", "guest-twice", "guest-unreadable"]


def test_given_a_guest_twice_when_verified_then_those_after_it_are_kept() -> None:
    other = replace(GUEST, uuid="3")
    assert believed(guests=(GUEST, GUEST, other)).guests == (GUEST, other)


def test_given_figures_at_the_limits_when_verified_then_they_are_believed_and_one_more_is_not() -> None:
    most = replace(GUEST, vcpus=LARGEST, memory_mb=LARGEST, disk_mb=LARGEST)
    none = replace(GUEST, uuid="2", vcpus=0, memory_mb=0, disk_mb=0)
    host = believed(guests=(most, none))
    assert (host.guests, host.problems) == ((most, none), ())
    for name in ("vcpus", "memory_mb", "disk_mb"):
        host = believed(guests=(replace(GUEST, **{name: LARGEST + 1}),))
        assert (host.guests, codes(host)) == ((replace(GUEST, **{name: 0}),), ["guest-impossible"])


@pytest.mark.parametrize("memory_mb", [0, LARGEST])
def test_given_a_cell_at_the_limits_when_verified_then_it_is_believed(memory_mb: int) -> None:
    host = believed(**cells({**CELL, "memory": memory_mb, "cpuset": [0, CPU_MAX]}))
    assert host.numa_topology is not None
    assert [(cell.memory_mb, set(cell.cpuset)) for cell in host.numa_topology.cells] == [(memory_mb, {0, CPU_MAX})]


def test_given_dedicated_cpus_said_apart_when_verified_then_they_are_in_the_host() -> None:
    assert (believed(pcpus=3).pcpus, believed().pcpus) == (3, None)


def test_given_a_driver_that_lists_no_guests_when_verified_then_that_is_not_the_same_as_none() -> None:
    assert believed(guests=None).guests is None
    assert believed(guests=()).guests == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet=st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
NUMBER = st.integers(-2, 5) | st.integers() | JSON
ANY_CELL = st.fixed_dictionaries(
    {},
    optional={
        "id": NUMBER,
        "cpuset": st.lists(st.integers(-1, 9)) | JSON,
        "pcpuset": st.lists(st.integers(-1, 9)) | JSON,
        "memory": NUMBER,
        "siblings": st.lists(st.lists(st.integers(-1, 9))) | JSON,
        "mempages": st.lists(st.fixed_dictionaries({"size_kb": NUMBER, "total": NUMBER, "reserved": NUMBER})) | JSON,
        "socket": NUMBER,
    },
)
ANY_VALUE: Mapping[str, st.SearchStrategy[Any]] = {
    "numa_topology": st.fixed_dictionaries({"cells": st.lists(ANY_CELL, max_size=3)}) | JSON,
    "pci_passthrough_devices": st.lists(
        st.fixed_dictionaries(
            {"address": st.just("0000:01:00.0") | st.text(), "vendor_id": st.text(), "product_id": JSON},
            optional={"dev_type": st.sampled_from(["type-PCI", "type-PF", "type-VF", "vdpa"]), "numa_node": NUMBER},
        ),
        max_size=3,
    )
    | JSON,
    "uuid": st.uuids().map(str) | JSON,
    "booted_at": st.datetimes().map(str) | JSON,
    "cpu_info": st.text() | JSON,
}
KEYS = (*REQUIRED, "hypervisor_type", "hypervisor_version", "hypervisor_hostname", "disk_available_least")
MORE = (
    "supported_instances",
    "pci_passthrough_devices",
    "pcpus",
    "stats",
    "uuid",
    "traits",
    "capabilities",
    "booted_at",
)
REPORTS = st.fixed_dictionaries({}, optional={key: ANY_VALUE.get(key, NUMBER) for key in (*KEYS, *MORE, "other")})


# Somebody who asks something of every cell.
WORK = NodeWork(
    instances=(
        Instance(
            uuid="00000000-0000-4000-8000-000000000007",
            host="h",
            node=NODE,
            flavor=Flavor(vcpus=1, memory_mb=1),
            numa_topology=GuestTopology(
                cells=tuple(
                    GuestCell(id=number, memory_mb=64, cpu_policy="dedicated", cpu_pinning={0: number})
                    for number in range(-1, 6)
                )
            ),
        ),
    )
)


@given(REPORTS)
def test_given_any_report_when_verified_then_there_is_a_host_to_count_or_a_refusal_with_reasons(
    report: dict[str, Any],
) -> None:
    for said in (report, {**REPORT, **report}):
        host = verify(HostView(node=NODE, report=said))
        if isinstance(host, Refusal):
            assert host.reasons
            assert {f"{key} is missing" for key in REQUIRED if key not in said} <= set(host.reasons)
        else:
            assert set(REQUIRED) <= said.keys()
            books = tally(host, WORK, Rules(host="h", device_specs=(DeviceSpec(),)), uuid="u")
            assert decode(encode(books), Tally, where="") == books


@given(st.dictionaries(st.sampled_from(sorted({*KEYS, *MORE})), JSON, max_size=3))
def test_given_a_sound_report_with_rubbish_in_it_when_verified_then_only_the_rubbish_is_a_reason(
    rubbish: dict[str, Any],
) -> None:
    host = verify(HostView(node=NODE, report={**REPORT, **rubbish}))
    if isinstance(host, Refusal):
        assert {reason.split(":")[0] for reason in host.reasons} <= rubbish.keys()
        json.dumps(host.reasons)


def test_given_inventories_when_verified_then_no_more_than_the_total_is_reserved() -> None:
    host = believed(inventories={"CUSTOM_GOLD": {"total": 3, "reserved": 5}, "CUSTOM_TIN": {"total": 2}})
    assert host.inventories == {
        "CUSTOM_GOLD": Inventory(total=3, reserved=3, max_unit=3),
        "CUSTOM_TIN": Inventory(total=2, reserved=0, max_unit=2),
    }


def test_given_cells_that_contradict_the_host_when_verified_then_the_problem_says_how() -> None:
    host = believed(**cells(CELL, {**OTHER, "cpuset": [3, 4, 5], "memory": 4096}))
    assert [(problem.code, problem.about, problem.text) for problem in host.problems] == [
        ("cells-overlap", "numa_topology", "CPU 3 is in two cells"),
        ("cells-differ-from-host", "numa_topology", "the cells have 6 CPUs together, the host 8"),
        ("cells-differ-from-host", "numa_topology", "the cells have 12288 MiB together, the host 16384"),
    ]


def test_given_figures_that_contradict_each_other_when_verified_then_the_problem_names_the_key() -> None:
    about = {problem.code: problem.about for problem in believed(local_gb_used=10**9).problems}
    assert about["used-above-total"] == "local_gb_used"
    (problem,) = [one for one in believed(local_gb_used=-1).problems if one.code == "used-negative"]
    assert (problem.about, problem.remedy) == (
        "local_gb_used",
        "Check the driver; the figures are recorded as they were reported.",
    )


@pytest.mark.parametrize(
    ("changes", "code", "about"),
    [
        ({"memory_mb_used": 16385}, "used-above-total", "memory_mb_used"),
        ({"disk_available_least": 101}, "used-above-total", "disk_available_least"),
        ({"vcpus_used": -1}, "used-negative", "vcpus_used"),
        ({"hypervisor_hostname": "other"}, "node-name-differs", "hypervisor_hostname"),
        (cells(CELL), "cells-differ-from-host", "numa_topology"),
    ],
)
def test_given_a_figure_that_is_doubted_when_verified_then_every_problem_is_about_its_key(
    changes: Mapping[str, Any], code: str, about: str
) -> None:
    assert {(problem.code, problem.about) for problem in believed(**changes).problems} == {(code, about)}


def test_given_pages_at_the_limits_when_verified_then_they_are_believed_and_beyond_them_not() -> None:
    pages = [{"size_kb": 1, "total": LARGEST, "reserved": LARGEST}, {"size_kb": LARGEST, "total": 0, "reserved": 0}]
    host = believed(**cells({**CELL, "mempages": pages}, OTHER))
    assert host.numa_topology is not None
    assert [(one.size_kb, one.total, one.reserved) for one in host.numa_topology.cells[0].pages] == [
        (1, LARGEST, LARGEST),
        (LARGEST, 0, 0),
    ]
    assert refused(**cells({**CELL, "mempages": [{"size_kb": 4, "total": -1, "reserved": -2}]}, OTHER)) == (
        "numa_topology: cell 0 has -1 pages of 4 KiB",
        "numa_topology: cell 0 has -2 reserved pages of 4 KiB",
    )


def test_given_an_impossible_guest_when_verified_then_the_text_names_each_figure() -> None:
    host = believed(guests=(replace(GUEST, vcpus=-1, disk_mb=-2),))
    assert [problem.text for problem in host.problems] == [
        "guest g: vcpus -1, disk_mb -2 is impossible and counts as nothing"
    ]


@pytest.mark.parametrize(("memory_mb", "kept"), [(0, True), (LARGEST, True), (-1, False), (LARGEST + 1, False)])
def test_given_a_guest_with_cells_when_verified_then_they_are_kept_if_their_memory_is_possible(
    memory_mb: int, *, kept: bool
) -> None:
    numa = GuestTopology(cells=(GuestCell(id=0, memory_mb=memory_mb),))
    host = believed(guests=(replace(GUEST, numa=numa),))
    assert host.guests == (replace(GUEST, numa=numa if kept else None),)
    told = "guest g: the memory of its cells is impossible: it is placed on no cell"
    assert [problem.text for problem in host.problems] == ([] if kept else [told])
