"""
Every combination of NUMA extra specs on hosts of several kinds, against trying everything.

What is drawn at random elsewhere is gone through here: 1 to 3 cells, even and not; shared, dedicated and mixed; each
thread policy, page size and emulator policy; and each again with a device that must be near.
"""

from collections.abc import Iterator
from itertools import product

import pytest

from stocktake.accounting.fit.placement import Placed, place
from stocktake.accounting.fit.request import numa_request, pci_requests
from stocktake.model.pci import PciAlias, PciRecord
from stocktake.model.topology import NodeCell, NodePages, NodeTopology
from stocktake.model.value import replace
from stocktake.model.workload import Flavor
from tests.accounting.fit import brute_force, brute_pci

Specs = dict[str, str]

# A flavor of six vCPUs and 12 MiB, in cells.
LAYOUTS: dict[str, Specs] = {
    "1": {"hw:numa_nodes": "1"},
    "2": {"hw:numa_nodes": "2"},
    "2 uneven": {
        "hw:numa_nodes": "2",
        "hw:numa_cpus.0": "1",
        "hw:numa_mem.0": "4",
        "hw:numa_cpus.1": "0,2-5",
        "hw:numa_mem.1": "8",
    },
    "3": {"hw:numa_nodes": "3"},
    "3 uneven": {
        "hw:numa_nodes": "3",
        "hw:numa_cpus.0": "0-2",
        "hw:numa_mem.0": "2",
        "hw:numa_cpus.1": "3",
        "hw:numa_mem.1": "6",
        "hw:numa_cpus.2": "4-5",
        "hw:numa_mem.2": "4",
    },
}
FLOATING: dict[str, Specs] = {"none": {}, "shared": {"hw:cpu_policy": "shared"}}
PINNING: dict[str, Specs] = {
    "dedicated": {"hw:cpu_policy": "dedicated"},
    "mixed": {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "^0"},
    "mixed, a cell without": {"hw:cpu_policy": "mixed", "hw:cpu_dedicated_mask": "0-2"},
}
ABSENT = "1048576"
PAGES = (None, "small", "large", "any", "4", "2048", ABSENT)
THREADS = (None, "prefer", "isolate", "require")
EMULATORS = (None, "share", "isolate")
AFFINITIES = ("required", "socket", "legacy", "preferred")
GPU = PciRecord(address="0000:10:00.0", vendor_id="10de", product_id="20b5", dev_type="type-PCI", numa_node=1)
AN_ALIAS = PciAlias(name="gpu", vendor_id="10de", product_id="20b5")


def a_cell(number: int, cpus: int, threads: int, **changes: object) -> NodeCell:
    """Make a free cell of 32 MiB, half of it large pages, whose CPUs are both shared and dedicated."""
    ids = range(number * 16, number * 16 + cpus)
    cell = NodeCell(
        id=number,
        cpuset=frozenset(ids),
        pcpuset=frozenset(ids),
        memory_mb=32,
        siblings=tuple(frozenset(ids[at : at + threads]) for at in range(0, cpus, threads)),
        pages=(small_pages(16), NodePages(size_kb=2048, total=8, reserved=0, used=0)),
        socket=number // 2,
        cpu_usage=0,
        memory_usage_mb=0,
        pinned_cpus=frozenset(),
    )
    return replace(cell, **changes)


def small_pages(memory_mb: int) -> NodePages:
    return NodePages(size_kb=4, total=memory_mb * 256, reserved=0, used=0)


HOSTS = {
    "threads": (a_cell(0, 8, 2), a_cell(1, 8, 2), a_cell(2, 8, 2)),
    "no threads": (a_cell(0, 7, 1), a_cell(1, 7, 1), a_cell(2, 7, 1)),
    "one cell": (a_cell(0, 8, 2),),
    "two cells, one without large pages": (a_cell(0, 8, 2, pages=(small_pages(32),)), a_cell(1, 7, 3)),
    "uneven": (
        a_cell(0, 8, 2, pinned_cpus=frozenset({0, 2, 5})),
        a_cell(1, 2, 1, memory_mb=4, pages=(small_pages(4),)),
        a_cell(2, 6, 3, cpuset=frozenset({32, 33}), pcpuset=frozenset({33, 34, 35, 36, 37})),
    ),
    "tight": (
        a_cell(0, 4, 2, pages=(small_pages(8), NodePages(size_kb=2048, total=4, reserved=1, used=1))),
        a_cell(1, 4, 2, cpu_usage=3, memory_usage_mb=24),
        a_cell(2, 4, 2, pinned_cpus=frozenset({32}), cpuset=frozenset({32, 33})),
    ),
}


def every_flavor(policy: str) -> Iterator[Specs]:
    """Give the extra specs of each combination with one CPU policy."""
    for layout, threads, pages, emulator in product(LAYOUTS.values(), THREADS, PAGES, EMULATORS):
        if policy in FLOATING and (threads or emulator == "isolate"):
            continue
        said = {"hw:cpu_thread_policy": threads, "hw:mem_page_size": pages, "hw:emulator_threads_policy": emulator}
        told = {spec: value for spec, value in said.items() if value is not None}
        yield {**layout, **{**FLOATING, **PINNING}[policy], **told}


def fits(specs: Specs, topology: NodeTopology) -> bool:
    """Hold an answer to what trying everything gives, and say whether the guest fits."""
    flavor = Flavor(vcpus=6, memory_mb=12, extra_specs=specs)
    request = numa_request(flavor)
    assert request is not None
    pci = pci_requests(flavor, (AN_ALIAS,))
    sockets = {cell.id: cell.socket for cell in topology.cells}
    answer = place(request, pci, topology, {GPU.address: GPU})
    if not isinstance(answer, Placed):
        assert not brute_force.fits(
            request, topology, None, lambda cells: brute_pci.fits(pci, [GPU], cells, sockets)
        ), answer
        return False
    assert answer.numa is not None
    assert brute_force.wrong_with(answer.numa, request, topology, None) == []
    cells = {cell.id for cell in answer.numa.cells}
    assert brute_pci.wrong_with(answer.devices, pci, [GPU], cells, sockets) == []
    return True


@pytest.mark.unmeasured
@pytest.mark.parametrize("policy", [*FLOATING, *PINNING])
def test_given_every_combination_of_specs_then_the_answer_is_what_trying_everything_gives(policy: str) -> None:
    for specs in every_flavor(policy):
        fitted = {name: fits(specs, NodeTopology(cells=cells)) for name, cells in HOSTS.items()}
        # Or it would have been tried on the wrong hosts.
        assert any(fitted.values()) is (specs.get("hw:mem_page_size") != ABSENT), (specs, fitted)
        assert not all(fitted.values()), (specs, fitted)


@pytest.mark.unmeasured
@pytest.mark.parametrize("affinity", AFFINITIES)
@pytest.mark.parametrize("policy", [*FLOATING, *PINNING])
def test_given_every_combination_and_a_device_then_the_answer_is_what_trying_everything_gives(
    policy: str, affinity: str
) -> None:
    wish = {"pci_passthrough:alias": "gpu:1", "hw:pci_numa_affinity_policy": affinity}
    seen = {
        fits({**specs, **wish}, NodeTopology(cells=HOSTS[name]))
        for specs in every_flavor(policy)
        for name in ("uneven", "tight")
    }
    assert seen == {True, False}
