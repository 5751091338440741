"""
The lines of an exported ledger. Invariant: a field that nobody knows is a mistake, not something to pass over.
"""

from datetime import datetime

import msgspec

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciRecord
from stocktake.model.workload import Instance, Migration, Service


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="table", forbid_unknown_fields=True):
    """One line; `table` says which kind."""


class Head(Line, frozen=True, kw_only=True, tag="ledger"):
    """The first line: the schema's version."""

    version: str


class End(Line, frozen=True, kw_only=True, tag="end"):
    """The last line: how many rows; the checksum may be left out of a file made by hand."""

    rows: int
    sha256: str | None = None


class ServiceLine(Line, frozen=True, kw_only=True, tag="services"):
    """A row of `services`."""

    row: Service


class NodeLine(Line, frozen=True, kw_only=True, tag="compute_nodes"):
    """A row of `compute_nodes`; deleted if it has `deleted_at`."""

    row: ComputeNode
    deleted_at: datetime | None = None
    provider_deleted: bool = False


class EntriesLine(Line, frozen=True, kw_only=True, tag="compute_node_entries"):
    """What makes a node's figures."""

    node_uuid: str
    entries: tuple[Entry, ...]


class InstanceLine(Line, frozen=True, kw_only=True, tag="instances"):
    """A row of `instances`; its devices are lines of their own."""

    row: Instance
    allocations_released: bool = False


class MigrationLine(Line, frozen=True, kw_only=True, tag="migrations"):
    """A row of `migrations`."""

    row: Migration
    deleted_at: datetime | None = None


class DeviceLine(Line, frozen=True, kw_only=True, tag="pci_devices"):
    """A row of `pci_devices`."""

    node_uuid: str
    row: PciRecord
    created_at: datetime | None = None
    updated_at: datetime | None = None


AnyLine = Head | End | ServiceLine | NodeLine | EntriesLine | InstanceLine | MigrationLine | DeviceLine
