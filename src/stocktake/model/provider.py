"""
What the scheduler should hold, in Placement's terms: providers and allocations. Invariant: classes and traits that are
not ours are never named here; an instance holds where it is, its migration what the move leaves behind.
"""

from collections.abc import Mapping
from typing import Literal

from stocktake.model.value import Value


class Inventory(Value, frozen=True, kw_only=True):
    """
    One class of one provider, in Placement's fields.

    Attributes:
        ratio_is_initial: `allocation_ratio` is only for a new inventory; one that is there keeps its own.
        reserved_is_initial: `reserved` is only for a new inventory; one that is there keeps its own.
    """

    total: int
    reserved: int = 0
    min_unit: int = 1
    max_unit: int
    step_size: int = 1
    allocation_ratio: float = 1.0
    ratio_is_initial: bool = False
    reserved_is_initial: bool = False


class Provider(Value, frozen=True, kw_only=True):
    """
    One resource provider as it should be.

    Attributes:
        inventories: by class; those wanted.
        traits: those wanted.
        own_classes, own_traits: names that are ours to take away when not wanted; every other found one is kept.
        whole: the classes that are allocated as one: who has the node has all of them.
    """

    uuid: str
    name: str
    parent_uuid: str | None = None
    inventories: Mapping[str, Inventory]
    traits: frozenset[str] = frozenset()
    own_classes: frozenset[str] = frozenset()
    own_traits: frozenset[str] = frozenset()
    whole: frozenset[str] = frozenset()


class ProviderTree(Value, frozen=True, kw_only=True):
    """A node's providers: the root first, then its children."""

    providers: tuple[Provider, ...]

    @property
    def root(self) -> Provider:
        """The node's own provider."""
        return self.providers[0]


class Found(Value, frozen=True, kw_only=True):
    """One resource provider as the scheduler has it; `inventories` without `ratio_is_initial`'s meaning."""

    uuid: str
    name: str
    parent_uuid: str | None
    generation: int
    inventories: Mapping[str, Inventory] = {}
    traits: frozenset[str] = frozenset()


ConsumerKind = Literal["INSTANCE", "MIGRATION"]
# The project and user of whoever has none: what Placement itself takes for consumers that do not say.
NOBODY = "00000000-0000-0000-0000-000000000000"

# Amounts in each class's own unit, by class, by the provider's uuid.
Resources = Mapping[str, Mapping[str, int]]


class Allocation(Value, frozen=True, kw_only=True):
    """
    What one consumer should hold.

    Attributes:
        consumer: an instance's uuid, or a migration's.
        resources: by provider and class; nothing at all is allowed, an amount of 0 is not.
    """

    consumer: str
    kind: ConsumerKind = "INSTANCE"
    project_id: str = NOBODY
    user_id: str = NOBODY
    resources: Resources = {}


class Holdings(Value, frozen=True, kw_only=True):
    """All that should be held of one node: its providers, and the consumers' allocations on them, by consumer."""

    tree: ProviderTree
    allocations: Mapping[str, Allocation]
