"""What is given to the ledger to be saved, and what it answers. Invariant: values."""

from collections.abc import Mapping
from datetime import datetime

from stocktake.model.books import ComputeNode, Tally
from stocktake.model.value import Value
from stocktake.model.workload import NodeWork, Service


class NodeSave(Value, frozen=True, kw_only=True):
    """
    One node to be saved.

    Attributes:
        expected_generation: the generation that was read; None for a node that was not there.
        released: deleted instances for which the scheduler holds nothing any more.
        record_only: entries and devices are left as they are.
    """

    tally: Tally
    expected_generation: int | None
    released: frozenset[str] = frozenset()
    record_only: bool = False


class SaveOutcome(Value, frozen=True, kw_only=True):
    """
    What a save did, by node uuid.

    Attributes:
        saved: the records as they are now, with their new generation and times.
        conflicts: nodes that somebody else changed, made or deleted since they were read; nothing of them was written.
    """

    saved: Mapping[str, ComputeNode]
    conflicts: frozenset[str]


class Locked(Value, frozen=True, kw_only=True):
    """A node's row, locked until the transaction ends; `figures` are those that history remembers."""

    id: int
    generation: int
    created_at: datetime | None
    figures: tuple[int, ...]


class Snapshot(Value, frozen=True, kw_only=True):
    """
    All that a pass over a host reads, true together.

    Attributes:
        service: the agent's row; None for a host that never had one. How often and when it last reported may be old.
        works: by node, for every one that was asked for.
        others: the host's nodes that were not asked for.
        gone: its deleted nodes whose resource providers may still be there.
    """

    service: Service | None
    works: Mapping[str, NodeWork]
    others: tuple[ComputeNode, ...] = ()
    gone: tuple[ComputeNode, ...] = ()


def strangers_to(standing: Snapshot, guests: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """Name the guests that are no instances of the host's nodes; only of these does it matter what others have."""
    here = {instance.uuid for work in standing.works.values() for instance in work.instances}
    return frozenset().union(*guests.values()) - here
