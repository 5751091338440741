"""
Where a machine would go: every node of the ledger, the best first, and why the others can't have it.

Invariant: looking allocates nothing. What is read is true together or not; a claim looks again at the node that it
takes, and who lost a race for one goes on to the next, and is told of all if none fits.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from stocktake.accounting.fit.fit import ResourceFit, fit, limits_of, resource_fits
from stocktake.accounting.fit.placement import Placed
from stocktake.accounting.fit.request import Wanted
from stocktake.accounting.fit.weigh import Weighed, leaning, weigh
from stocktake.accounting.lifecycle import Location
from stocktake.accounting.node_availability import obstacles
from stocktake.claims.nouns import Claimed, Refused
from stocktake.errors import AlreadyThere, ClaimRefused
from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode
from stocktake.model.fitting import Limits, NoRoom
from stocktake.model.value import Value
from stocktake.settings import Settings, weights


class FittingNode(Value, frozen=True, kw_only=True):
    """
    A node that a machine fits.

    Attributes:
        weighed: the node, its score and what makes it.
        placed: the cells and devices that the machine would have there.
        resources: each resource class before and after.
    """

    weighed: Weighed
    placed: Placed
    resources: tuple[ResourceFit, ...]

    @property
    def node(self) -> ComputeNode:
        """The node."""
        return self.weighed.node


class UnfitNode(Value, frozen=True, kw_only=True):
    """A node that a machine does not fit, and every reason."""

    node: ComputeNode
    reasons: tuple[NoRoom, ...]


class Candidates(Value, frozen=True, kw_only=True):
    """Every node that was asked for: those that a machine fits, the best first, and the others by name."""

    fitting: tuple[FittingNode, ...]
    refused: tuple[UnfitNode, ...]


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
    placed: dict[str, tuple[Placed, tuple[ResourceFit, ...]]] = {}
    refused: list[UnfitNode] = []
    for node in asked:
        own = entries[node.uuid]
        limits = limits_of(node, own)
        table = {device.address: device for device in devices[node.uuid]}
        reasons = obstacles(node, services.get(node.host), now, settings.service_down_time)
        found = fit(node, own, wanted, table=table, limits=limits, pack=pack_cells)
        if isinstance(found, Placed) and not reasons:
            placed[node.uuid] = found, resource_fits(node, own, wanted, limits, placed=found.numa)
        else:
            lacks = () if isinstance(found, Placed) else found
            refused.append(UnfitNode(node=node, reasons=(*reasons, *lacks)))
    chosen = weights(settings) if pack is None else leaning(weights(settings), pack=pack)
    weighed = weigh([node for node in asked if node.uuid in placed], chosen)
    return Candidates(
        fitting=tuple(
            FittingNode(weighed=one, placed=placed[one.node.uuid][0], resources=placed[one.node.uuid][1])
            for one in weighed
        ),
        refused=tuple(refused),
    )


_SHOWN_MAX = 5


def claim_on(
    ledger: Ledger,
    settings: Settings,
    node: str | None,
    wanted: Wanted,
    *,
    limits: Limits | None,
    claim: Callable[[str, Limits | None], Claimed | Refused],
    now: datetime,
    claimed_on: Callable[[], Location | None] = lambda: None,
) -> Claimed:
    """
    Claim on the node that was named, by its uuid, or (None) on the best: there limits narrow each one's capacity down.

    Args:
        claimed_on: looks where the same was claimed before. A repeat that names no node is a repeat of that.

    Raises:
        ClaimRefused: there is no room; every reason, of every node that was asked.
        AlreadyThere: it was claimed before, otherwise.
    """
    if node is None:
        done = _claim_anywhere(ledger, settings, wanted, claim, limits=limits, now=now, claimed_on=claimed_on)
    else:
        one = claim(node, limits)
        done = one if isinstance(one, Claimed) else (one,)
    if isinstance(done, Claimed):
        return done
    raise refusal(done)


def _claim_anywhere(
    ledger: Ledger,
    settings: Settings,
    wanted: Wanted,
    claim: Callable[[str, Limits | None], Claimed | Refused],
    *,
    limits: Limits | None,
    now: datetime,
    claimed_on: Callable[[], Location | None],
) -> Claimed | tuple[Refused, ...]:
    """Claim on the best node, or again where it was claimed before, which may have taken the last room."""
    lost: AlreadyThere | None = None
    done: Claimed | tuple[Refused, ...] = ()
    try:
        done = claim_best(ledger, settings, wanted, claim, limits=limits, now=now)
    except AlreadyThere as error:
        lost = error
    if isinstance(done, Claimed):
        return done
    place = claimed_on()
    nodes = ledger.nodes_in_brief(host=place.host) if place is not None else ()
    home = next((one.uuid for one in nodes if place is not None and one.hypervisor_hostname == place.node), None)
    if home is not None:
        again = claim(home, limits)
        return again if isinstance(again, Claimed) else (again,)
    if lost is not None:
        raise lost
    return done


def place_of(ledger: Ledger, uuid: str | None) -> Location | None:
    """Look where the instance of a uuid has room; None if there is none, or it is nowhere."""
    found = ledger.instances(named=uuid) if uuid is not None else ()
    places = (Location(host=one.host, node=one.node) for one in found if one.uuid == uuid and one.host and one.node)
    return next(places, None)


def destination_of(ledger: Ledger, migration_uuid: str | None) -> Location | None:
    """Look where the move of a uuid goes; None if none in progress has it."""
    found = ledger.migrations() if migration_uuid is not None else ()
    places = (
        Location(host=one.dest_compute, node=one.dest_node)
        for one in found
        if one.uuid == migration_uuid and one.dest_compute and one.dest_node
    )
    return next(places, None)


def refusal(refused: Sequence[Refused]) -> ClaimRefused:
    """Gather every reason of every node; many nodes are counted, `stocktake fit` lists them all."""
    if not refused:
        remedy = "`stocktake refresh` takes stock of this machine."
        return ClaimRefused(["there are no nodes"], where="ledger", remedy=remedy)
    if len(refused) == 1:
        return refused[0].error()
    reasons = [f"{one.node}: {'; '.join(reason.text for reason in one.reasons)}" for one in refused[:_SHOWN_MAX]]
    if len(refused) > _SHOWN_MAX:
        reasons.append(f"and {len(refused) - _SHOWN_MAX} more nodes")
    remedy = "`stocktake fit` with the same options lists all."
    return ClaimRefused(reasons, where="no node has room", remedy=remedy, refused=refused)


def claim_best(
    ledger: Ledger,
    settings: Settings,
    wanted: Wanted,
    claim: Callable[[str, Limits], Claimed | Refused],
    *,
    limits: Limits | None = None,
    now: datetime,
) -> Claimed | tuple[Refused, ...]:
    """
    Claim on the best node that has room, by its capacity, or say of each node what it lacks.

    Args:
        claim: claims on a node, by uuid, within limits.
        limits: narrow down what each node's capacity allows.
    """
    found = candidates(ledger, settings, wanted, now=now)
    lost: list[Refused] = []
    for candidate in found.fitting:
        done = claim(candidate.node.uuid, narrowed(candidate_limits(candidate), limits))
        if isinstance(done, Claimed):
            return done
        lost.append(done)
    never = (Refused(node=one.node.hypervisor_hostname, reasons=one.reasons) for one in found.refused)
    return (*lost, *never)


def candidate_limits(candidate: FittingNode) -> Limits:
    """Give how far a node may be filled, so that no more is allocated than the scheduler would grant."""
    most = {room.what: room.limit for room in candidate.resources}
    return Limits(
        vcpus=most["VCPU"],
        pcpus=most["PCPU"],
        memory_mb=most["MEMORY_MB"],
        disk_gb=most["DISK_GB"],
        numa_cpu_ratio=candidate.node.cpu_allocation_ratio,
        numa_ram_ratio=candidate.node.ram_allocation_ratio,
    )


def narrowed(limits: Limits, further: Limits | None) -> Limits:
    """Give the narrower of each limit; None is unlimited."""
    if further is None:
        return limits
    pairs = {name: (getattr(limits, name), getattr(further, name)) for name in Limits.__struct_fields__}
    return Limits(
        **{name: min((most for most in pair if most is not None), default=None) for name, pair in pairs.items()}
    )
