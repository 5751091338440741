"""
Where a machine would go: every node of the ledger, the best first, and why the others can't have it.

Invariant: nothing is promised. What is read is true together or not; a claim looks again at the node that it takes.
"""

from collections.abc import Collection
from datetime import datetime

from stocktake.accounting.fit.fit import Room, Wanted, capacity, fit, rooms
from stocktake.accounting.fit.placement import Placed
from stocktake.accounting.fit.weigh import Weighed, leaning, weigh
from stocktake.accounting.node_availability import obstacles
from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode
from stocktake.model.fitting import NoRoom
from stocktake.model.value import Value
from stocktake.settings import Settings, weights


class Candidate(Value, frozen=True, kw_only=True):
    """
    A node that a machine fits.

    Attributes:
        weighed: the node, its score and what makes it.
        placed: the cells and devices that the machine would have there.
        rooms: each resource class before and after.
    """

    weighed: Weighed
    placed: Placed
    rooms: tuple[Room, ...]

    @property
    def node(self) -> ComputeNode:
        """The node."""
        return self.weighed.node


class Refused(Value, frozen=True, kw_only=True):
    """A node that a machine does not fit, and every reason."""

    node: ComputeNode
    reasons: tuple[NoRoom, ...]


class Candidates(Value, frozen=True, kw_only=True):
    """Every node that was asked for: those that a machine fits, the best first, and the others by name."""

    fitting: tuple[Candidate, ...]
    refused: tuple[Refused, ...]


def candidates(
    ledger: Ledger,
    settings: Settings,
    wanted: Wanted,
    *,
    now: datetime,
    nodes: Collection[str] | None = None,
    pack: bool | None = None,
) -> Candidates:
    """
    Look for a place for a machine, in a fixed number of queries.

    Args:
        nodes: uuids of the nodes to look at; None looks at all, of every host.
        pack: fill full nodes and cells first, or spread; None does as the settings say.
    """
    asked = [node for node in ledger.nodes() if nodes is None or node.uuid in nodes]
    services = {service.host: service for service in ledger.services()}
    uuids = [node.uuid for node in asked]
    entries, devices = ledger.all_entries(uuids), ledger.devices(uuids)
    pack_cells = settings.packing_host_numa_cells_allocation_strategy if pack is None else pack
    placed: dict[str, tuple[Placed, tuple[Room, ...]]] = {}
    refused: list[Refused] = []
    for node in asked:
        own = entries[node.uuid]
        limits = capacity(node, own)
        table = {device.address: device for device in devices[node.uuid]}
        reasons = obstacles(node, services.get(node.host), now, settings.service_down_time)
        found = fit(node, own, wanted, table=table, limits=limits, pack=pack_cells)
        if isinstance(found, Placed) and not reasons:
            placed[node.uuid] = found, rooms(node, own, wanted, limits, placed=found.numa)
        else:
            lacks = () if isinstance(found, Placed) else found
            refused.append(Refused(node=node, reasons=(*reasons, *lacks)))
    chosen = weights(settings) if pack is None else leaning(weights(settings), pack=pack)
    weighed = weigh([node for node in asked if node.uuid in placed], chosen)
    return Candidates(
        fitting=tuple(
            Candidate(weighed=one, placed=placed[one.node.uuid][0], rooms=placed[one.node.uuid][1]) for one in weighed
        ),
        refused=tuple(refused),
    )
