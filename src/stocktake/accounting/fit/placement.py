"""
Step 6, a guest's cells and its devices together. Invariant: host cells will do only if its devices can be had from
there.

Rules: docs/accounting.md, "Devices for a guest".
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from stocktake.accounting.fit.numa import fit_numa
from stocktake.accounting.fit.pci import Sockets, chosen_devices, lacking_devices, matches
from stocktake.accounting.fit.request import NumaRequest
from stocktake.accounting.pci import Table, provider_address
from stocktake.model.fitting import Limits, NoRoom
from stocktake.model.pci import Chosen, PciPool, PciRequest
from stocktake.model.topology import GuestTopology, NodeTopology
from stocktake.model.value import Value, replace

_TRUE = {"1", "t", "true", "on", "y", "yes"}


class Placed(Value, frozen=True, kw_only=True):
    """Where a guest goes: its cells (None: it floats over the whole host) and the devices of each request, in order."""

    numa: GuestTopology | None
    devices: tuple[Chosen, ...] = ()

    @property
    def takes(self) -> dict[str, str]:
        """The devices' addresses, each with the alias that asked for it."""
        return {address: chosen.alias for chosen in self.devices for address in chosen.addresses}


@dataclass(frozen=True, slots=True)
class _Devices:
    """What a guest asks for, and what there is; `nodes` are the cells that free ones are on."""

    requests: Sequence[PciRequest]
    table: Table
    sockets: Sockets
    nodes: frozenset[int]


def place(
    numa: NumaRequest | None,
    pci: Sequence[PciRequest],
    topology: NodeTopology | None,
    table: Table,
    *,
    pools: Sequence[PciPool] = (),
    limits: Limits | None = None,
    pack: bool = False,
) -> Placed | tuple[NoRoom, ...]:
    """
    Find host cells and devices for a guest, beside each other if they can be had so.

    A guest that asks for no devices gets cells without free ones, if it fits there.

    Args:
        table: the node's devices, after `pci.excluded`; may be empty if `pci` is.
        pools: the free devices by pools: where they are, and which of them somebody else manages.
        limits, pack: as for `fit_numa`.

    Returns:
        The place; or each dimension of cells and devices that ran out.
    """
    topology = topology or NodeTopology(cells=())
    devices = _devices(pci, topology, _own(table, pools))
    if numa is None:
        chosen = chosen_devices(pci, devices.table, cells=None, sockets={})
        return _lacking(devices, None) if chosen is None else Placed(numa=None, devices=chosen)
    avoided = frozenset() if pci else frozenset(pool.numa_node for pool in pools if pool.numa_node is not None)
    beside = [replace(request, numa_policy="required") for request in pci]
    # First as one would like it: all devices beside the guest, or none; then whatever the policies put up with.
    for requests, shunned in ((beside, avoided), (pci, frozenset[int]())):
        looked_at: list[frozenset[int]] = []
        fitted = fit_numa(
            numa,
            topology,
            limits=limits,
            accepts=_had(requests, devices, shunned, looked_at),
            preferred_cells=devices.nodes,
            avoided_cells=avoided,
            pack=pack,
        )
        if isinstance(fitted, GuestTopology):
            cells = {cell.id for cell in fitted.cells}
            chosen = chosen_devices(pci, devices.table, cells=cells, sockets=devices.sockets)
            assert chosen is not None
            return Placed(numa=fitted, devices=chosen)
    alone = fit_numa(numa, topology, limits=limits)
    anywhere = _lacking(devices, devices.sockets.keys() or None)
    if isinstance(alone, GuestTopology):
        return anywhere or _apart(numa, topology, devices, limits, looked_at)
    return alone + anywhere


def _devices(requests: Sequence[PciRequest], topology: NodeTopology, table: Table) -> _Devices:
    wanted = [
        record.numa_node
        for record in table.values()
        if record.status == "available" and any(matches(record, request) for request in requests)
    ]
    return _Devices(
        requests=requests,
        table=table,
        sockets={cell.id: cell.socket for cell in topology.cells},
        nodes=frozenset(node for node in wanted if node is not None),
    )


def _own(table: Table, pools: Sequence[PciPool]) -> Table:
    """Leave out the devices that somebody else manages (Nova's `remote_managed`): no alias means them."""
    foreign = {
        (pool.tags.get("address"), pool.tags.get("dev_type"), pool.vendor_id, pool.product_id)
        for pool in pools
        if pool.tags.get("remote_managed", "").lower() in _TRUE
    }
    return {
        address: record
        for address, record in table.items()
        if (provider_address(record), record.dev_type, record.vendor_id, record.product_id) not in foreign
    }


def _had(
    requests: Sequence[PciRequest], devices: _Devices, shunned: frozenset[int], looked_at: list[frozenset[int]]
) -> Callable[[frozenset[int]], bool]:
    """Make the question whether some cells will do: none of them shunned, all devices to be had. It notes them."""
    answers: dict[tuple[frozenset[int], frozenset[int | None]], bool] = {}

    def had(cells: frozenset[int]) -> bool:
        looked_at.append(cells)
        # Nothing else of the cells matters, and few of a host's cells have devices.
        key = cells & devices.nodes, frozenset(devices.sockets.get(cell) for cell in cells)
        if key not in answers:
            chosen = chosen_devices(requests, devices.table, cells=cells, sockets=devices.sockets)
            answers[key] = chosen is not None
        return answers[key] and shunned.isdisjoint(cells)

    return had


def _lacking(devices: _Devices, cells: Collection[int] | None) -> tuple[NoRoom, ...]:
    return lacking_devices(devices.requests, devices.table, cells=cells, sockets=devices.sockets)


def _apart(
    numa: NumaRequest,
    topology: NodeTopology,
    devices: _Devices,
    limits: Limits | None,
    looked_at: Sequence[frozenset[int]],
) -> tuple[NoRoom, ...]:
    """Say why cells and devices that are there can't be had together: what is far, and what is short beside it."""
    far = _lacking(devices, looked_at[0])
    if len(looked_at) > 1:
        text = "; no other host cells that the guest fits will do"
        far = tuple(replace(reason, text=reason.text + text) for reason in far)
    had = _had(devices.requests, devices, frozenset(), [])
    near = tuple(cell for cell in topology.cells if had(frozenset({cell.id})))
    if len(numa.cells) > 1 or not near:
        return far
    fitted = fit_numa(numa, NodeTopology(cells=near), limits=limits)
    return far if isinstance(fitted, GuestTopology) else far + fitted
