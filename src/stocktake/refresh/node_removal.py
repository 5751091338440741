"""
A node that somebody takes out of the books by hand. Invariant: record first, then its resource provider; never one in
use.
"""

from collections.abc import Callable
from datetime import datetime

from stocktake.accounting.node_availability import is_alive
from stocktake.errors import InvalidInput, NotNow, ProviderNotOurs
from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode
from stocktake.placement import Guard, Scheduler
from stocktake.report.notifications import Bus


def check_removable(ledger: Ledger, node: ComputeNode, now: datetime, down_time_s: float, *, force: bool) -> None:
    """
    See to it that nothing is lost, and that the node does not come back.

    Args:
        force: even if its agent is alive, and will make it again.

    Raises:
        NotNow: it has instances, or its agent is alive.
    """
    name = node.hypervisor_hostname
    instances = ledger.instances(host=node.host, node=name)
    if instances:
        remedy = f"Move or delete them first: `stocktake instances --node {name}`."
        raise NotNow(f"it still has {len(instances)} instances", where=name, remedy=remedy)
    service = ledger.service(node.host)
    if service is not None and is_alive(service, now, down_time_s) and not force:
        remedy = "Stop the agent first, or the node comes back; --force deletes it all the same."
        raise NotNow(f"its agent on {node.host} is alive", where=name, remedy=remedy)


def remove(
    ledger: Ledger,
    scheduler: Scheduler,
    node: ComputeNode,
    open_bus: Callable[[], Bus | None],
    *,
    force_provider: str | None = None,
) -> str | None:
    """
    Delete the record, say so on the bus if there is one, then delete the resource provider.

    Args:
        force_provider: the uuid of its resource provider, typed out: it is deleted whoever has it.

    Returns:
        Why the resource provider was left where it is, for good; None if it is gone.

    Raises:
        InvalidInput: the uuid is another's; nothing was deleted.
        NotFound: somebody else was faster.
        PlacementUnreachable, PlacementError: the record is gone, and the next refresh of its host takes the provider
            away.
    """
    if force_provider is not None and force_provider != node.uuid:
        what = f"its resource provider is {node.uuid}, not {force_provider}"
        raise InvalidInput(what, where=node.hypervisor_hostname)
    left: str | None = None
    bus = open_bus()
    try:
        ledger.delete_node(node.uuid)
        if bus is not None:
            bus.begin([node])
            bus.announce([])
        try:
            scheduler.delete_tree(node.uuid, Guard(known=ledger.known_consumers, forced=force_provider))
        except ProviderNotOurs as error:
            left = error.what
        ledger.note_provider_deleted([node.uuid])
    finally:
        if bus is not None:
            bus.close()
    return left
