"""What was promised, and who was not promised anything, as it is shown. Invariant: the ledger's own names."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from stocktake.claims import Claimed
from stocktake.model.books import STRANGERS, ComputeNode, Entry
from stocktake.model.value import Value
from stocktake.model.workload import Instance, Migration


class ClaimedShown(Value, frozen=True, kw_only=True):
    """
    What was promised, or what became of it.

    Attributes:
        nodes: the records of the nodes that it changed, as they are now.
        unsynced: why the scheduler does not have it yet; the next refresh tells it.
        expires_at: when it is given back unless somebody settles it; None once it is settled.
    """

    instance: Instance
    migration: Migration | None
    nodes: tuple[ComputeNode, ...]
    unsynced: str | None
    expires_at: datetime | None


def claimed_shown(claimed: Claimed) -> ClaimedShown:
    """Make the view of a claim."""
    return ClaimedShown(
        instance=claimed.instance,
        migration=claimed.migration,
        nodes=claimed.nodes,
        unsynced=claimed.unsynced,
        expires_at=claimed.expires_at,
    )


class Stranger(Entry, frozen=True, kw_only=True):
    """
    A guest that nobody promised (`orphan`), or that is elsewhere than the ledger thinks (`misplaced`).

    Attributes:
        host, node: where it is.
        active: it runs and takes room; one that is off takes nothing.
    """

    host: str
    node: str
    active: bool


def strangers_of(nodes: Sequence[ComputeNode], found: Mapping[str, Sequence[Entry]]) -> tuple[Stranger, ...]:
    """List the strangers among the entries of nodes, by node."""
    return tuple(
        stranger_of(node, entry)
        for node in sorted(nodes, key=lambda node: (node.hypervisor_hostname, node.uuid))
        for entry in found.get(node.uuid, ())
        if entry.kind in STRANGERS
    )


def stranger_of(node: ComputeNode, entry: Entry) -> Stranger:
    """Make the view of a stranger."""
    own = {name: getattr(entry, name) for name in Entry.__struct_fields__}
    active = bool(entry.vcpus or entry.memory_mb or entry.disk_mb)
    return Stranger(**own, host=node.host, node=node.hypervisor_hostname, active=active)
