"""
A Placement on SQLite, read from its database file: all of it with a few queries, nothing of the program, no requests.

A history looks at it hundreds of times; over HTTP that would take most of its time.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

_CLEARED = (
    "allocations",
    "consumers",
    "inventories",
    "resource_provider_traits",
    "resource_provider_aggregates",
    "resource_providers",
)


@dataclass(frozen=True)
class Stock:
    """One inventory."""

    total: int
    reserved: int
    max_unit: int
    allocation_ratio: float


@dataclass(frozen=True)
class Provider:
    """A resource provider; allocations by consumer, then class."""

    uuid: str
    name: str
    generation: int
    root_uuid: str
    inventories: dict[str, Stock] = field(default_factory=dict)
    traits: set[str] = field(default_factory=set)
    allocations: dict[str, dict[str, int]] = field(default_factory=dict)

    def free(self, kind: str) -> float:
        """Say how much of a class is left."""
        stock = self.inventories[kind]
        used = sum(held.get(kind, 0) for held in self.allocations.values())
        return (stock.total - stock.reserved) * stock.allocation_ratio - used


class PlacementFile:
    """The database of a Placement that nobody is writing to at the moment."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Mapping[str, Provider]:
        """Read all providers, by name."""
        with closing(self._open()) as database:
            found = {
                number: Provider(uuid=uuid, name=name, generation=generation, root_uuid=root)
                for number, uuid, name, generation, root in database.execute(
                    "SELECT p.id, p.uuid, p.name, p.generation, r.uuid FROM resource_providers p"
                    " JOIN resource_providers r ON r.id = p.root_provider_id"
                )
            }
            for number, kind, *figures in database.execute(
                "SELECT i.resource_provider_id, c.name, i.total, i.reserved, i.max_unit, i.allocation_ratio"
                " FROM inventories i JOIN resource_classes c ON c.id = i.resource_class_id"
            ):
                found[number].inventories[kind] = Stock(*figures)
            for number, trait in database.execute(
                "SELECT p.resource_provider_id, t.name FROM resource_provider_traits p"
                " JOIN traits t ON t.id = p.trait_id"
            ):
                found[number].traits.add(trait)
            for number, consumer, kind, used in database.execute(
                "SELECT a.resource_provider_id, a.consumer_id, c.name, a.used"
                " FROM allocations a JOIN resource_classes c ON c.id = a.resource_class_id"
            ):
                found[number].allocations.setdefault(consumer, {})[kind] = used
        return {one.name: one for one in found.values()}

    def clear(self) -> None:
        """Forget all providers, allocations and consumers."""
        with closing(self._open()) as database:
            for table in _CLEARED:
                database.execute(f"DELETE FROM {table}")

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, isolation_level=None, timeout=30)
