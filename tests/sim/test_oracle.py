"""The oracle of the fleet's histories knows nothing of the program, and sees what is wrong."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers.placement import private_placement
from tests.sim import oracle
from tests.sim.history import told
from tests.sim.oracle import Case

pytestmark = [pytest.mark.system, pytest.mark.unmeasured]


def test_given_the_oracle_when_it_is_imported_then_nothing_of_the_program_is() -> None:
    script = "import sys, tests.sim.oracle; print([name for name in sys.modules if name.startswith('stocktake')])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """All that was looked at in a few histories of services that allocate themselves."""
    seen: list[Case] = []

    def looks(case: Case) -> None:
        oracle.check(case)
        seen.append(copy.deepcopy(case))

    with private_placement(tmp_path_factory.mktemp("placement")) as server:
        for seed in (2, 4, 106):
            assert not told(seed, server, range(10), looks).failure
    return seen


def _record(case: Case, field: str) -> bool:
    for row in _ours(case):
        row[field] += 1
        return True
    return False


def _ours(case: Case) -> list[Any]:
    """Give the records of the nodes that are looked at: those that the hypervisor lists."""
    listed = {name for name, node in case.fleet.items() if node.get("listed", True)}
    return [row for name, row in case.books.nodes.items() if row["host"] == case.host and name in listed]


def _forget_an_entry(case: Case) -> bool:
    for row in _ours(case):
        entries: Any = case.books.entries[row["uuid"]]
        if len(entries) > 1:
            entries.pop()
            return True
    return False


def _take_an_allocation(case: Case) -> bool:
    for row in _ours(case):
        held = case.placement[row["hypervisor_hostname"]].allocations
        if held:
            held.popitem()
            return True
    return False


def _give_too_much(case: Case) -> bool:
    for row in _ours(case):
        for amounts in case.placement[row["hypervisor_hostname"]].allocations.values():
            if "MEMORY_MB" in amounts:
                amounts["MEMORY_MB"] += 1
                return True
    return False


def _pin_another(case: Case) -> bool:
    for row in _ours(case):
        for cell in (row["numa_topology"] or {"cells": []})["cells"]:
            cell["pinned_cpus"].append(10_000)
            return True
    return False


def _give_a_device_to_nobody(case: Case) -> bool:
    for row in _ours(case):
        for device in case.books.devices.get(row["uuid"], ()):
            changed: Any = device
            changed["status"] = "allocated"
            changed["instance_uuid"] = None
            return True
    return False


def _lose_a_trait(case: Case) -> bool:
    for row in _ours(case):
        case.placement[row["hypervisor_hostname"]].traits.discard("COMPUTE_NODE")
        return True
    return False


def _lose_a_node(case: Case) -> bool:
    nodes: Any = case.books.nodes
    for row in _ours(case):
        del nodes[row["hypervisor_hostname"]]
        return True
    return False


FAULTS: dict[str, Callable[[Case], bool]] = {
    "vcpus_used": lambda case: _record(case, "vcpus_used"),
    "memory_mb_used": lambda case: _record(case, "memory_mb_used"),
    "local_gb_used": lambda case: _record(case, "local_gb_used"),
    "free_disk_gb": lambda case: _record(case, "free_disk_gb"),
    "an entry is missing": _forget_an_entry,
    "an allocation is missing": _take_an_allocation,
    "an allocation is too large": _give_too_much,
    "a CPU is pinned for nobody": _pin_another,
    "a device is nobody's": _give_a_device_to_nobody,
    "a trait is missing": _lose_a_trait,
    "a node is missing": _lose_a_node,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_given_what_was_right_when_one_thing_of_it_is_changed_then_the_oracle_sees_it(
    cases: list[Case], fault: str
) -> None:
    tried = 0
    for case in cases:
        wrong = copy.deepcopy(case)
        if FAULTS[fault](wrong):
            tried += 1
            with pytest.raises((AssertionError, KeyError)):
                oracle.check(wrong)
    assert tried
