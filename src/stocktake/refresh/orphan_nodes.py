"""
Compute nodes that the driver no longer reports. Invariant: nothing goes unless the driver could list, in doubt twice.

Rules: docs/accounting.md, "Orphan compute nodes".
"""

import logging
from collections.abc import Callable, Sequence

from stocktake.errors import DriverError, PlacementUnreachable, ProviderNotOurs, StocktakeError
from stocktake.model.books import ComputeNode
from stocktake.model.problem import Problem
from stocktake.placement import Guard
from stocktake.refresh.context import Context, Pass

LOG = logging.getLogger(__name__)
ORPHAN_NODE = "orphan-node"


def delete_orphan_nodes(
    context: Context,
    names: Sequence[str],
    ours: Sequence[ComputeNode],
    result: Pass,
    stop: Callable[[], bool],
    *,
    gone: bool,
) -> None:
    """
    Delete compute nodes that the driver no longer reports, record first, then provider; see docs/accounting.md.

    Kept are nodes that the driver still has (they moved), that still have instances, and, if more than a set share
    is missing at once, all of them until a second pass says the same. What `stop` leaves, the next pass does.

    Args:
        gone: there may be deleted nodes of earlier passes whose providers are left.
    """
    there = set(names)
    missing = [row for row in ours if row.hypervisor_hostname not in there]
    if missing:
        # What the replica said may be old: another service may own the node by now.
        still = {row.uuid for row in context.ledger.nodes(host=context.rules.host)}
        missing = [row for row in missing if row.uuid in still]
    many = len(missing) > len(ours) * context.settings.orphan_node_share_max and len(ours) > 1
    marks: dict[str, Problem] = {}
    for row in missing:
        if stop():
            break
        name = row.hypervisor_hostname
        why = _why_kept(context, row, many=many)
        if why is None:
            context.ledger.delete_node(row.uuid)
            result.deleted.append(name)
            LOG.warning("deleted a compute node that the driver no longer reports", extra={"node": name})
            continue
        result.kept[name] = why
        marks[row.uuid] = Problem(code=ORPHAN_NODE, about=name, text=f"the driver no longer reports it; {why}")
    if marks:
        context.ledger.note_failures(marks)
    if gone or result.deleted:
        _delete_providers(context, result, stop)


def _delete_providers(context: Context, result: Pass, stop: Callable[[], bool]) -> None:
    """Delete the providers of deleted nodes, those of earlier passes too."""
    for pending in context.ledger.deleted_nodes(context.rules.host):
        if stop():
            return
        try:
            context.scheduler.delete_tree(pending.uuid, Guard(known=context.ledger.known_consumers))
        except ProviderNotOurs as error:
            # Whoever has it keeps it: there is nothing to try again.
            result.left[pending.hypervisor_hostname] = error.what
            LOG.warning("a deleted node's resource provider stays: %s", error.what, extra={"node": error.where})
            context.ledger.note_provider_deleted([pending.uuid])
        except StocktakeError as error:
            result.unsynced[pending.hypervisor_hostname] = error
            if isinstance(error, PlacementUnreachable):
                return
        else:
            context.ledger.note_provider_deleted([pending.uuid])


def _why_kept(context: Context, row: ComputeNode, *, many: bool) -> str | None:
    """Say why a node that is not reported is kept; None if it goes."""
    try:
        if context.limit.call(lambda: context.driver.node_exists(row.hypervisor_hostname)):
            return "it still exists: it moved to another service, or the list lacks it"
    except DriverError as error:
        return f"whether it still exists can't be said: {error.what}"
    instances = context.ledger.instances(host=row.host, node=row.hypervisor_hostname)
    if instances:
        return f"it still has {len(instances)} instances; move or delete them"
    seen_before = row.failure is not None and row.failure.code == ORPHAN_NODE
    if many and not seen_before:
        return "many nodes are missing at once; it is deleted if the next pass says the same"
    return None
