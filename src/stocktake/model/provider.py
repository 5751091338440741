"""
What the scheduler should hold, in Placement's terms. Invariant: classes and traits that are not ours are never named
here.
"""

from collections.abc import Mapping

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
        whole: the classes that are sold as one: who has the node has all there is of them.
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
