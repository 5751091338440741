"""A guest's cells and its devices together, against trying everything."""

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from stocktake.accounting.fit.placement import Placed, place
from stocktake.accounting.fit.request import NumaRequest
from stocktake.model.fitting import Limits
from stocktake.model.pci import PciPool, PciRecord, PciRequest
from stocktake.model.topology import NodeTopology
from stocktake.model.value import replace
from tests.accounting.drawing import LIMITS, PCI_REQUESTS, TOPOLOGIES, numa_requests, tables
from tests.accounting.fit import brute_force, brute_pci

HOSTS = st.builds(
    lambda topology, sockets: NodeTopology(
        cells=tuple(replace(cell, socket=socket) for cell, socket in zip(topology.cells, sockets, strict=False))
    ),
    TOPOLOGIES,
    st.sampled_from(((0, 0, 1), (0, 1, 1), (0, 1, 2), (0, 0, None))),
)


def had(pci: list[PciRequest], records: list[PciRecord], topology: NodeTopology) -> Callable[[frozenset[int]], bool]:
    """Ask of some cells whether the devices are to be had there, by trying everything."""
    sockets = {cell.id: cell.socket for cell in topology.cells}
    return lambda cells: brute_pci.fits(pci, records, cells, sockets)


@settings(max_examples=400, deadline=None)
@given(numa=numa_requests(), pci=PCI_REQUESTS, topology=HOSTS, records=tables(), limits=LIMITS)
def test_given_any_small_host_then_a_place_is_found_if_trying_everything_finds_one(
    numa: NumaRequest, pci: list[PciRequest], topology: NodeTopology, records: list[PciRecord], limits: Limits | None
) -> None:
    table = {record.address: record for record in records}
    answer = place(numa, pci, topology, table, limits=limits)
    if not isinstance(answer, Placed):
        assert answer
        assert not brute_force.fits(numa, topology, limits, had(pci, records, topology)), answer
        return
    assert answer.numa is not None
    assert brute_force.wrong_with(answer.numa, numa, topology, limits) == []
    cells = {cell.id for cell in answer.numa.cells}
    sockets = {cell.id: cell.socket for cell in topology.cells}
    assert brute_pci.wrong_with(answer.devices, pci, records, cells, sockets) == []
    # All beside the guest, if any place allows that.
    beside = [replace(request, numa_policy="required") for request in pci]
    taken = [table[address] for chosen in answer.devices for address in chosen.addresses]
    if brute_force.fits(numa, topology, limits, had(beside, records, topology)):
        assert {record.numa_node for record in taken} <= cells


@settings(max_examples=200, deadline=None)
@given(pci=PCI_REQUESTS, topology=HOSTS, records=tables())
def test_given_a_guest_without_cells_then_devices_are_found_if_trying_everything_finds_some(
    pci: list[PciRequest], topology: NodeTopology, records: list[PciRecord]
) -> None:
    answer = place(None, pci, topology, {record.address: record for record in records})
    if isinstance(answer, Placed):
        assert answer.numa is None
        assert brute_pci.wrong_with(answer.devices, pci, records, None, {}) == []
    else:
        assert not brute_pci.fits(pci, records, None, {}), answer


@settings(max_examples=200, deadline=None)
@given(numa=numa_requests(), topology=HOSTS, nodes=st.frozensets(st.integers(0, 2)), pack=st.booleans())
def test_given_a_guest_without_devices_then_cells_with_some_are_taken_only_if_no_others_will_do(
    numa: NumaRequest, topology: NodeTopology, nodes: frozenset[int], *, pack: bool
) -> None:
    pools = [PciPool(vendor_id="10de", product_id="1", numa_node=node, count=1, tags={}) for node in nodes]
    answer = place(numa, [], topology, {}, pools=pools, pack=pack)
    if not isinstance(answer, Placed):
        assert not brute_force.fits(numa, topology, None)
        return
    assert answer.numa is not None
    assert brute_force.wrong_with(answer.numa, numa, topology, None) == []
    if brute_force.fits(numa, topology, None, nodes.isdisjoint):
        assert nodes.isdisjoint(cell.id for cell in answer.numa.cells)
