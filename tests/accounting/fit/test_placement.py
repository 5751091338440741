"""A guest's cells and its devices together: which are near each other, and why not."""

from typing import Any

import pytest

from stocktake.accounting.fit.placement import Placed, place
from stocktake.accounting.fit.request import CellRequest, NumaRequest
from stocktake.accounting.pci import Table, pools, provider_address
from stocktake.model.fitting import Limits, NoRoom
from stocktake.model.pci import Chosen, PciAffinity, PciAlias, PciPool, PciRecord, PciRequest
from stocktake.model.topology import NodeCell, NodePages, NodeTopology
from stocktake.model.value import replace

GPU = PciRecord(address="0000:10:00.0", vendor_id="10de", product_id="20b5", dev_type="type-PCI", numa_node=0)
NIC = replace(GPU, address="0000:20:00.0", vendor_id="8086", product_id="1515", dev_type="type-VF")


def a_cell(number: int, *, pinned: int = 0, usage: int = 0, socket: int | None = None) -> NodeCell:
    """Make a cell of four dedicated CPUs, so many of them pinned, and four shared ones; two cells a socket."""
    cpus = range(number * 8, number * 8 + 4)
    return NodeCell(
        id=number,
        cpuset=frozenset(range(number * 8 + 4, number * 8 + 8)),
        pcpuset=frozenset(cpus),
        memory_mb=1024,
        siblings=(),
        pages=(NodePages(size_kb=4, total=262144, reserved=0, used=0),),
        socket=number // 2 if socket is None else socket,
        cpu_usage=usage,
        memory_usage_mb=0,
        pinned_cpus=frozenset(cpus[:pinned]),
    )


def a_host(*pinned: int) -> NodeTopology:
    """Make a host of cells with so many CPUs pinned."""
    return NodeTopology(cells=tuple(a_cell(number, pinned=count) for number, count in enumerate(pinned)))


def asks(name: str = "gpu", count: int = 1, policy: PciAffinity = "legacy") -> PciRequest:
    record = GPU if name == "gpu" else NIC
    spec = PciAlias(name=name, vendor_id=record.vendor_id, product_id=record.product_id, device_type=record.dev_type)
    return PciRequest(alias=name, count=count, specs=(spec,), numa_policy=policy)


def guest(*vcpus: int) -> NumaRequest:
    """Ask for cells of so many dedicated vCPUs."""
    cells: list[CellRequest] = []
    for count in vcpus:
        first = sum(len(cell.pcpuset) for cell in cells)
        cells.append(CellRequest(pcpuset=frozenset(range(first, first + count)), memory_mb=64))
    return NumaRequest(cells=tuple(cells), cpu_policy="dedicated")


def free_of(table: Table) -> tuple[PciPool, ...]:
    """Pool the free devices of a table, tagged as tracked ones are."""
    tagged = {
        address: replace(record, tags={"dev_type": record.dev_type, "address": provider_address(record)})
        for address, record in table.items()
    }
    return pools(tagged)


def a_table(*nodes: int | None, nics: tuple[int | None, ...] = ()) -> Table:
    """Make a table of GPUs, `0000:10:00.0` and so on, and of NICs, on so many cells."""
    records = [replace(GPU, address=f"0000:1{number}:00.0", numa_node=node) for number, node in enumerate(nodes)]
    records += [replace(NIC, address=f"0000:2{number}:00.0", numa_node=node) for number, node in enumerate(nics)]
    return {record.address: record for record in records}


def where(answer: Placed | tuple[NoRoom, ...]) -> tuple[list[int] | None, list[list[str]]]:
    assert isinstance(answer, Placed), answer
    cells = None if answer.numa is None else [cell.id for cell in answer.numa.cells]
    return cells, [[address[5:7] for address in chosen.addresses] for chosen in answer.devices]


def texts(answer: Placed | tuple[NoRoom, ...]) -> dict[str, str]:
    assert not isinstance(answer, Placed), answer
    return {reason.what: reason.text for reason in answer}


def test_given_a_guest_without_cells_then_any_device_will_do_and_no_cell_is_looked_at() -> None:
    answer = place(None, [asks(policy="required")], None, a_table(7))
    assert answer == Placed(numa=None, devices=(Chosen(alias="gpu", addresses=("0000:10:00.0",)),))
    assert place(None, [], None, {}) == Placed(numa=None)
    assert texts(place(None, [asks(count=2)], a_host(0), a_table(0))) == {"pci.gpu": "2 of gpu wanted, 1 free of 1"}


FOUR = ["10", "11", "12", "13"]


@pytest.mark.parametrize(
    ("numa", "pci", "host", "table", "expected"),
    [
        # Near, though it is the fuller cell; the emptier one otherwise.
        (guest(1), [asks()], a_host(1, 0), a_table(0), ([0], [["10"]])),
        (guest(1), [asks()], a_host(0, 1), a_table(1), ([1], [["10"]])),
        (guest(1), [asks()], a_host(1, 0), a_table(None), ([1], [["10"]])),
        (guest(1), [asks(policy="preferred")], a_host(1, 0), a_table(0), ([0], [["10"]])),
        # Beside all devices, though a cell with one of them comes first.
        (guest(1), [asks(count=2, policy="preferred")], a_host(0, 3), a_table(0, 1, 1), ([1], [["11", "12"]])),
        (guest(1), [asks(), asks("nic")], a_host(0, 1, 2), a_table(0, 1, 2, nics=(2, None)), ([2], [["12"], ["20"]])),
        # As near as the policy says, if beside is full.
        (guest(1), [asks(policy="preferred")], a_host(4, 0), a_table(0), ([1], [["10"]])),
        (guest(1), [asks(policy="socket")], a_host(4, 2, 0), a_table(0), ([1], [["10"]])),
        (guest(1), [asks(count=2)], a_host(0, 0), a_table(0, None), ([0], [["10", "11"]])),
        # Each device near to some cell of the guest.
        (guest(1, 1), [asks(), asks("nic")], a_host(0, 0, 0), a_table(2, nics=(1,)), ([1, 2], [["10"], ["20"]])),
        (guest(4, 1), [asks(policy="required")], a_host(4, 3, 0), a_table(1), ([2, 1], [["10"]])),
        # Only the last of 70 sets of cells will do.
        (guest(*[1] * 4), [asks(count=4)], a_host(*[0] * 4, *[1] * 4), a_table(*range(4, 8)), ([4, 5, 6, 7], [FOUR])),
    ],
)
def test_given_cells_and_devices_then_they_are_near_each_other(
    numa: NumaRequest,
    pci: list[PciRequest],
    host: NodeTopology,
    table: Table,
    expected: tuple[list[int], list[list[str]]],
) -> None:
    assert where(place(numa, pci, host, table)) == expected


@pytest.mark.parametrize(
    ("host", "nodes", "options", "expected"),
    [
        # Cells with devices are for those who want them.
        (a_host(0, 1), (0,), {}, [1]),
        (a_host(0, 1), (None,), {}, [0]),
        (a_host(0, 4), (0,), {}, [0]),
        (a_host(0, 1), (0, 1), {}, [0]),
        (a_host(1, 0), (), {"pack": True}, [0]),
        (a_host(1, 0), (), {}, [1]),
    ],
)
def test_given_a_guest_without_devices_then_cells_with_some_are_the_last(
    host: NodeTopology, nodes: tuple[int | None, ...], options: dict[str, Any], expected: list[int]
) -> None:
    free = free_of(a_table(*nodes))
    assert where(place(guest(1), [], host, {}, pools=free, **options)) == (expected, [])


def test_given_a_guest_of_two_cells_without_devices_then_it_gives_its_best_cell_up_to_keep_off_them() -> None:
    # The first cell is better off on host cell 0, but then the second has only host cell 2, which has a device.
    free = free_of(a_table(2))
    assert where(place(guest(2, 4), [], a_host(0, 1, 0), {}, pools=free)) == ([1, 0], [])


NO_CPU = "1 CPUs to pin wanted for one guest cell, 0 free of 4 on host cell"


@pytest.mark.parametrize(
    ("numa", "pci", "host", "table", "expected"),
    [
        # Either is not there at all: that is the reason, and both if both are not.
        (guest(1), [asks()], a_host(4), a_table(0), {"numa.pinned_cpus": f"{NO_CPU} 0"}),
        (guest(1), [asks()], a_host(0), {}, {"pci.gpu": "1 of gpu wanted, 0 free of 0"}),
        (
            guest(1),
            [asks(count=2)],
            a_host(4),
            a_table(0),
            {"numa.pinned_cpus": f"{NO_CPU} 0", "pci.gpu": "2 of gpu wanted, 1 free of 1"},
        ),
        (guest(1), [asks()], None, a_table(0), {"numa.cells": "the node reports no NUMA cells"}),
        # No cell is near.
        (
            guest(1),
            [asks(policy="required")],
            a_host(0, 4),
            a_table(None),
            {
                "pci.gpu": "1 of gpu wanted, 1 free of 1; its policy required allows 0 for a guest on host cells 0-1: "
                "1 on an unknown cell"
            },
        ),
        # Both are there, but not together: what is short where the devices are is told too.
        (
            guest(1),
            [asks(policy="required")],
            a_host(0, 4),
            a_table(1),
            {
                "pci.gpu": "1 of gpu wanted, 1 free of 1; its policy required allows 0 for a guest on host cells 0: "
                "1 on host cell 1",
                "numa.pinned_cpus": f"{NO_CPU} 1",
            },
        ),
        (
            guest(1),
            [asks(policy="socket")],
            a_host(0, 1, 4, 4),
            a_table(3),
            {
                "pci.gpu": "1 of gpu wanted, 1 free of 1; its policy socket allows 0 for a guest on host cells 0: "
                "1 on host cell 3; no other host cells that the guest fits will do",
                "numa.pinned_cpus": f"{NO_CPU} 2",
            },
        ),
        # No cell has both devices.
        (
            guest(1),
            [asks(), asks("nic")],
            a_host(0, 0),
            a_table(0, nics=(1,)),
            {
                "pci.nic": "1 of nic wanted, 1 free of 1; its policy legacy allows 0 for a guest on host cells 0: "
                "1 on host cell 1; no other host cells that the guest fits will do"
            },
        ),
        (
            guest(1, 1),
            [asks(policy="required")],
            a_host(0, 0, 4),
            a_table(2),
            {
                "pci.gpu": "1 of gpu wanted, 1 free of 1; its policy required allows 0 for a guest on host cells 0-1: "
                "1 on host cell 2"
            },
        ),
    ],
)
def test_given_what_does_not_fit_then_it_is_told_what_is_short_and_where_it_is(
    numa: NumaRequest, pci: list[PciRequest], host: NodeTopology | None, table: Table, expected: dict[str, str]
) -> None:
    assert texts(place(numa, pci, host, table)) == expected


# As oslo.utils reads a yes, which Nova uses for the tag.
@pytest.mark.parametrize("yes", ["1", "t", "true", "True", "on", "y", "yes"])
def test_given_a_device_that_somebody_else_manages_then_no_alias_means_it(yes: str) -> None:
    table = a_table(0, nics=(0, 0))
    free = [
        replace(pool, tags={**pool.tags, "remote_managed": yes}) if pool.tags["address"] == "0000:20:00.0" else pool
        for pool in free_of(table)
    ]
    assert where(place(guest(1), [asks("nic")], a_host(0), table, pools=free)) == ([0], [["21"]])
    assert texts(place(guest(1), [asks("nic", 2)], a_host(0), table, pools=free)) == {
        "pci.nic": "2 of nic wanted, 1 free of 1"
    }


def test_given_a_place_then_it_says_which_alias_takes_which_device() -> None:
    answer = place(guest(1), [asks("nic", 2), asks("gpu")], a_host(0), a_table(0, nics=(0, 0)))
    assert isinstance(answer, Placed)
    assert answer.takes == {"0000:20:00.0": "nic", "0000:21:00.0": "nic", "0000:10:00.0": "gpu"}


def test_given_pools_without_tags_then_they_say_only_where_devices_are() -> None:
    pool = PciPool(vendor_id="10de", product_id="20b5", numa_node=0, count=1, tags={})
    assert where(place(guest(1), [], a_host(0, 1), {}, pools=[pool])) == ([1], [])


FLOATING = NumaRequest(cells=(CellRequest(cpuset=frozenset({0}), memory_mb=64),))


def test_given_a_limit_that_a_cell_has_reached_then_nobody_floats_there() -> None:
    full = NodeTopology(cells=(a_cell(0, usage=4),))
    once = Limits(numa_cpu_ratio=1.0)
    assert where(place(FLOATING, [], full, {})) == ([0], [])
    assert texts(place(FLOATING, [], full, {}, limits=once)).keys() == {"numa.shared_cpus"}
    # The cell beside the device is full, the other one is too far from it.
    both = NodeTopology(cells=(*full.cells, a_cell(1)))
    near = [asks(policy="required")]
    assert where(place(FLOATING, near, both, a_table(0))) == ([0], [["10"]])
    assert "numa.shared_cpus" in texts(place(FLOATING, near, both, a_table(0), limits=once))
