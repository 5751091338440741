"""
Whether a node has room for a flavor, asked with its row locked. Invariant: every reason at once; limits are given, or
there are none.
"""

from collections.abc import Sequence

from stocktake.accounting import pci
from stocktake.accounting.capacity import has_dedicated_cpus
from stocktake.accounting.fit.fit import fit
from stocktake.accounting.fit.placement import Placed
from stocktake.accounting.fit.request import NumaRequest, wanted
from stocktake.accounting.incremental import placed
from stocktake.accounting.instance_usage import Holding
from stocktake.accounting.numa import shifted
from stocktake.claims.nouns import ClaimRules, Refused
from stocktake.ledger import Transaction
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.fitting import Limits
from stocktake.model.topology import GuestTopology
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance


def find_room(
    tx: Transaction,
    node: ComputeNode,
    flavor: Flavor,
    rules: ClaimRules,
    limits: Limits | None,
    *,
    volume_backed: bool,
    same_pages: GuestTopology | None = None,
) -> Placed | Refused:
    """
    Find a place for a flavor on a locked node, or say all that is missing.

    Args:
        same_pages: a guest whose page size has to stay.

    Raises:
        InvalidData: an extra spec can't be read.
    """
    want = wanted(flavor, rules.aliases, volume_backed=volume_backed)
    want = replace(want, numa=_with_pages(want.numa, same_pages))
    table: pci.Table = {record.address: record for record in tx.devices([node.uuid])[node.uuid]} if want.pci else {}
    if want.numa is not None:
        node = _with_old_sides(node, tx.leaving_here(node.host, node.hypervisor_hostname))
    used = _used(tx, node) if limits is not None else ()
    found = fit(node, used, want, table=table, limits=limits, pack=rules.pack)
    if not isinstance(found, Placed):
        return Refused(node=node.hypervisor_hostname, reasons=found)
    return found


def _used(tx: Transaction, node: ComputeNode) -> tuple[Entry, ...]:
    """
    Give entries that add up to what is used of a node.

    Where dedicated CPUs are a class of their own only the entries tell them from the others; elsewhere the record is
    their sum.
    """
    if has_dedicated_cpus(node):
        return tx.entries(node.uuid)
    everybody = Entry(
        kind="reserved",
        id="everybody",
        why="the node's record",
        vcpus=node.vcpus_used,
        memory_mb=node.memory_mb_used,
        disk_mb=node.disk_mb_used,
    )
    return (everybody,)


def _with_old_sides(node: ComputeNode, leaving: Sequence[Instance]) -> ComputeNode:
    """
    Count what instances that are resized on their own node still run on.

    Until such a resize is finished only its new side's cells are allocated, as in Nova; the machine is on the old.
    """
    holdings = [
        Holding(
            entry=Entry(kind="migration", id=one.uuid, why="the old side of a resize on this node"),
            numa=one.migration_context.old_numa_topology,
        )
        for one in leaving
        if one.migration_context is not None
    ]
    entries, _ = placed(node, holdings)
    return replace(node, numa_topology=shifted(node.numa_topology, (), entries))


def _with_pages(request: NumaRequest | None, topology: GuestTopology | None) -> NumaRequest | None:
    """Ask for the page size that the guest has: a live migration can't change it."""
    sizes = {cell.pagesize_kb for cell in topology.cells} if topology else set()
    if request is None or len(sizes) != 1 or None in sizes:
        return request
    (size_kb,) = sizes
    return replace(request, page_size=size_kb)
