"""Pages of one node that has everything: cells, huge pages, devices, problems; and of one that can't be refreshed."""

from collections.abc import Mapping
from typing import Any

import pytest

from stocktake.model.topology import GuestCell, GuestTopology
from stocktake.model.workload import Flavor, Instance
from tests.cli.program import HOST, Program
from tests.cli.test_refresh import GUEST, describe, node

CELL: Mapping[str, Any] = {
    "id": 0,
    "cpuset": [0, 1, 2, 3],
    "pcpuset": [4, 5, 6, 7],
    "memory": 16384,
    "siblings": [],
    "mempages": [{"size_kb": 4, "total": 4_000_000}, {"size_kb": 2048, "total": 512}],
    "socket": 0,
}
DEVICES = [
    {"address": f"0000:81:00.{number}", "vendor_id": "8086", "product_id": "1572", "numa_node": 0}
    for number in range(3)
]
PINNED = Instance(
    uuid="00000000-0000-4000-8000-00000000000e",
    name="db-1",
    host=HOST,
    node="a",
    vm_state="active",
    flavor=Flavor(vcpus=2, memory_mb=1024, root_gb=5, swap_mb=100),
    numa_topology=GuestTopology(
        cells=(
            GuestCell(
                id=0,
                pcpuset=frozenset({0, 1}),
                memory_mb=1024,
                pagesize_kb=2048,
                cpu_pinning={0: 4, 1: 5},
                cpu_policy="dedicated",
            ),
        )
    ),
)


@pytest.fixture
def host(program: Program) -> Program:
    """A host with cells, huge pages, devices, a pinned instance without a guest, and a guest with a device."""
    program.settings["pci.device_spec"] = '[{vendor_id = "8086"}]'
    program.settings["reserved_host_cpus"] = "1"
    guest = {**GUEST, "pci_addresses": ["0000:81:00.1"]}
    resources = {
        "numa_topology": {"cells": [CELL]},
        "pci_passthrough_devices": DEVICES,
        "disk_available_least": 70,
        "memory_mb": 16384,
    }
    describe(program, node(resources=resources, guests=[guest]))
    with program.ledger() as ledger:
        ledger.put_instances([PINNED])
    assert program.run("refresh").code == 0
    return program


def test_given_a_node_that_has_everything_when_shown_then_all_of_it_is_on_the_page(host: Program) -> None:
    page = host.run("show", "a").out
    for line in (
        "NUMA CELL  SOCKET  SHARED  USED  DEDICATED  PINNED    MEMORY MiB  HUGE PAGES",
        "0       0  0-3        0  4-7        4-5     1,024/16,384  2M 512/512",
        "8086:1572  type-PCI     0  1 free     address=0000:81:00.0",
        "1 trait\n  COMPUTE_NODE",
        "allocated  0000:81:00.1 by 00000000-0000-4000-8000-00000000000a",
        "disk_available_least 70 GB",
        "warning instance-without-guest (00000000-0000-4000-8000-00000000000e)",
        "    It still counts. Bring the guest back, or `stocktake instances --delete",
    ):
        assert line in page
    rows = [line.split()[:8] for line in page.splitlines()]
    assert ["vCPUs", "4", "1", "4", "12", "2", "10"] in [row[:7] for row in rows]
    assert ["dedicated", "CPUs", "4", "0", "1", "4", "2", "2"] in rows


def test_given_pinned_cpus_pages_and_devices_when_explained_then_each_adds_up(host: Program) -> None:
    pinned = host.run("explain", "a", "numa.0.pinned_cpus").out.splitlines()
    assert pinned[0] == "numa.0.pinned_cpus = 4-5 CPUs"
    assert pinned[-1] == "4-5   instance db-1  instance on this node (active)"
    assert "numa.0.pages.2048 = 512 pages of 2048 KiB" in host.run("explain", "a", "numa.0.pages.2048").out
    assert "3 devices - 1 held - 0 shut out = 2 free" in host.run("explain", "a", "pci.8086_1572").out
    page = host.run("explain", "a").out
    assert "figures add up" in page
    assert "instance on this node (active); cell 0 CPUs 4-5" in page
    assert "PCI 0000:81:00.1" in page
    assert "disk: 16 GB, rounded up" in page


def test_given_a_node_that_cant_be_refreshed_when_shown_then_its_last_figures_and_the_reason_are(host: Program) -> None:
    before = host.run("show", "a", "--json").data
    describe(host, node(fault={"raise": "DriverError", "text": "broken"}))
    assert host.run("refresh").code == 3
    page = host.run("show", "a").out
    assert page.startswith("a  failed, enabled\n  broken\n")
    assert "error DriverError" in page
    after = host.run("show", "a", "--json").data
    assert after["memory_mb_used"] == before["memory_mb_used"]
    assert (after["state"], after["state_reason"]) == ("failed", "broken")


def test_given_moves_when_listed_then_both_sides_are_told(fleet: Program) -> None:
    out = fleet.run("migrations", "--all").out.splitlines()
    assert out[0].split() == ["ID", "INSTANCE", "TYPE", "STATUS", "FROM", "TO", "CHANGED"]
    assert any("node-00001" in line and "node-00002" in line for line in out)
