"""What is given to the ledger to be saved, and what it answers. Law: values."""

from collections.abc import Mapping
from datetime import datetime

from stocktake.model.books import ComputeNode, Tally
from stocktake.model.value import Value


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
