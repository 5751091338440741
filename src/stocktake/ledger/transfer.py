"""
The ledger as JSON lines, out and in. Invariant: what comes in is checked whole before a row is written, and it is all
or nothing.

The first line names the schema, the last counts the rows; it may carry the SHA-256 of all lines before it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, Select, Table, insert, literal_column, select, update

from stocktake.errors import InvalidData
from stocktake.ledger.instances import instance_values
from stocktake.ledger.mapping import DEVICE, INSTANCE, MIGRATION, NODE, SERVICE, decode_entry, entry_values, in_order
from stocktake.ledger.schema import HEAD, REVISIONS
from stocktake.ledger.tables import (
    COMPUTE_NODE_ENTRIES,
    COMPUTE_NODES,
    DELETED,
    INSTANCES,
    MIGRATIONS,
    PCI_DEVICES,
    SERVICES,
)
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciRecord
from stocktake.model.value import encode, oddities
from stocktake.model.workload import Instance, Migration, Service

ERRORS_MAX: Final = 20
_BATCH = 1000
_REMEDY = "Correct the lines; nothing was imported."


class Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="table", forbid_unknown_fields=True):
    """One line; `table` says which kind. A field that nobody knows is a mistake, not something to pass over."""


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


def export(connection: Connection, write: Callable[[str], object]) -> None:
    """Write all tables, in the order their rows were made."""
    digest = hashlib.sha256()
    _send(Head(version=HEAD), digest, write)
    count = 0
    for line in _lines(connection):
        count += 1
        _send(line, digest, write)
    write(encode(End(rows=count, sha256=digest.hexdigest())) + "\n")


def _send(line: Line, digest: Any, write: Callable[[str], object]) -> None:
    text = encode(line)
    digest.update(text.encode() + b"\n")
    write(text + "\n")


def _lines(connection: Connection) -> Iterator[Line]:
    nodes, devices = COMPUTE_NODES.c, PCI_DEVICES.c

    def rows(query: Select[*tuple[Any, ...]]) -> Iterable[Any]:
        return connection.execute(query, execution_options={"yield_per": _BATCH})

    service = SERVICE.reader()
    for row in rows(select(*SERVICE.select).order_by(SERVICES.c.id)):
        yield ServiceLine(row=service(row))
    node = NODE.reader()
    for row in rows(select(*NODE.select, nodes.deleted_at, nodes.provider_deleted).order_by(nodes.id)):
        yield NodeLine(row=node(row), deleted_at=row[-2], provider_deleted=row[-1])
    column = COMPUTE_NODE_ENTRIES.c
    texts = rows(select(*[column.node_uuid, column.entry]).order_by(column.node_uuid))
    for uuid, several in groupby(texts, key=lambda row: str(row[0])):
        yield EntriesLine(node_uuid=uuid, entries=in_order(decode_entry(uuid, row[1]) for row in several))
    instance = INSTANCE.reader()
    for row in rows(select(*INSTANCE.select, INSTANCES.c.allocations_released).order_by(INSTANCES.c.id)):
        yield InstanceLine(row=instance(row), allocations_released=row[-1])
    migration = MIGRATION.reader()
    for row in rows(select(*MIGRATION.select, MIGRATIONS.c.deleted_at).order_by(MIGRATIONS.c.id)):
        yield MigrationLine(row=migration(row), deleted_at=row[-1])
    device = DEVICE.reader()
    of_node = select(*DEVICE.select, devices.created_at, devices.updated_at, nodes.uuid)
    joined = of_node.join_from(PCI_DEVICES, COMPUTE_NODES, devices.compute_node_id == nodes.id)
    for row in rows(joined.order_by(devices.id)):
        yield DeviceLine(node_uuid=row[-1], row=device(row), created_at=row[-3], updated_at=row[-2])


@dataclass(frozen=True, slots=True)
class Incoming:
    """A row to be inserted: where it stood, its column values, the keys that nothing else may have."""

    line: int
    table: Table
    values: dict[str, Any]
    node_uuid: str | None = None

    def keys(self) -> Iterator[tuple[str, tuple[object, ...]]]:
        """Give each unique key's name and value; a deleted row has none but its id."""
        if self.values.get("deleted"):
            names: Sequence[tuple[str, ...]] = [("id",)] if self.table is MIGRATIONS else []
        else:
            names = _KEYS[self.table.name]
        own = self.values | {"node_uuid": self.node_uuid}
        for key in names:
            value = tuple(own[name] for name in key)
            if None not in value:
                yield f"{self.table.name} {' '.join(key)}", value


_KEYS: Mapping[str, Sequence[tuple[str, ...]]] = {
    "services": [("uuid",), ("host", "binary")],
    "compute_nodes": [("uuid",), ("host", "hypervisor_hostname")],
    "compute_node_entries": [("node_uuid",)],
    "instances": [("uuid",)],
    "migrations": [("id",), ("uuid",)],
    "pci_devices": [("node_uuid", "address")],
}
# Nodes come before what refers to them.
_ORDER = (SERVICES, COMPUTE_NODES, COMPUTE_NODE_ENTRIES, INSTANCES, MIGRATIONS, PCI_DEVICES)


class _Faults:
    """What is wrong, up to a limit, in the order of the lines."""

    def __init__(self) -> None:
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, what: str) -> None:
        self.found.append((line, what))
        if len(self.found) >= ERRORS_MAX:
            self.refuse()

    def refuse(self) -> None:
        if self.found:
            what = "; ".join(f"line {line}: {text}" for line, text in sorted(self.found))
            raise InvalidData(what, where="import", remedy=_REMEDY)


def parse(lines: Iterable[str]) -> tuple[Incoming, ...]:
    """
    Read an export, and check all of it that can be checked without the ledger.

    Raises:
        InvalidData: the first things that are wrong, each with its line and path.
    """
    faults = _Faults()
    rows: list[Incoming] = []
    digest = hashlib.sha256()
    end: End | None = None
    number = 0
    for number, text in enumerate(lines, start=1):
        bare = text.rstrip("\r\n")
        if end is not None:
            if bare.strip():
                faults.add(number, "there is text after the end")
            continue
        line = _read(bare, number, faults)
        if number == 1:
            _check_head(line, faults)
        elif isinstance(line, Head):
            faults.add(number, "there is a second head")
        elif isinstance(line, End):
            end = line
            _check_end(line, number, digest.hexdigest(), faults)
        elif line is not None:
            rows.append(_incoming(line, number))
        digest.update(bare.encode(errors="surrogatepass") + b"\n")
    if end is None:
        faults.add(number + 1, "the end is missing: the file is cut off")
    _check_twice(rows, faults)
    faults.refuse()
    return tuple(rows)


def _read(text: str, number: int, faults: _Faults) -> AnyLine | None:
    try:
        line = msgspec.json.decode(text, type=AnyLine)
        faulty = list(oddities(msgspec.json.decode(text), line))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        faults.add(number, str(error))
        return None
    if isinstance(line, InstanceLine) and line.row.pci_devices:
        faulty.append("its devices belong in lines of pci_devices - at `$.row.pci_devices`")
    for what in faulty:
        faults.add(number, what)
    return None if faulty else line


def _check_head(line: AnyLine | None, faults: _Faults) -> None:
    if isinstance(line, Head):
        if line.version not in REVISIONS:
            faults.add(1, f"the schema {line.version!r} is not one of {', '.join(REVISIONS)} - at `$.version`")
    elif line is not None:
        faults.add(1, "the first line is not the head of an export")


def _check_end(end: End, number: int, digest: str, faults: _Faults) -> None:
    # The head and the end are no rows.
    if end.rows != number - 2:
        faults.add(number, f"the end counts {end.rows} rows, the file has {number - 2} - at `$.rows`")
    if end.sha256 is not None and end.sha256 != digest:
        faults.add(number, "the lines differ from the checksum; leave `sha256` out if that is meant - at `$.sha256`")


def _check_twice(rows: Sequence[Incoming], faults: _Faults) -> None:
    seen: dict[object, int] = {}
    for row in rows:
        for key in row.keys():  # noqa: SIM118  # it is no mapping
            if key in seen:
                faults.add(row.line, f"{_said(key)} is in line {seen[key]} too")
            seen.setdefault(key, row.line)


def _said(key: tuple[str, tuple[object, ...]]) -> str:
    return f"{key[0]} {' '.join(map(str, key[1]))}"


def _incoming(line: AnyLine, number: int) -> Incoming:
    """Turn a line into column values; `deleted` -1 marks a deleted row, until the row has its id."""
    match line:
        case ServiceLine():
            return Incoming(number, SERVICES, SERVICE.values(line.row))
        case NodeLine():
            gone = {"deleted": DELETED if line.deleted_at else 0, "deleted_at": line.deleted_at}
            # The first version had no MiB: whole GiB never understate, until the next refresh sums them.
            disk = {"disk_mb_used": line.row.disk_mb_used or line.row.local_gb_used * 1024}
            values = NODE.values(line.row) | gone | disk | {"provider_deleted": line.provider_deleted}
            return Incoming(number, COMPUTE_NODES, values)
        case EntriesLine():
            values = {"node_uuid": line.node_uuid, "entries": line.entries}
            return Incoming(number, COMPUTE_NODE_ENTRIES, values, line.node_uuid)
        case InstanceLine():
            values = instance_values(line.row) | {"deleted": DELETED if line.row.deleted else 0}
            return Incoming(number, INSTANCES, values | {"allocations_released": line.allocations_released})
        case MigrationLine():
            gone = {"deleted": line.row.id if line.row.deleted else 0, "deleted_at": line.deleted_at}
            return Incoming(number, MIGRATIONS, MIGRATION.values(line.row) | gone)
        case DeviceLine():
            times = {"created_at": line.created_at, "updated_at": line.updated_at}
            return Incoming(number, PCI_DEVICES, DEVICE.values(line.row) | times, line.node_uuid)
        case _:
            raise AssertionError(line)


def insert_rows(connection: Connection, rows: Sequence[Incoming]) -> int:
    """
    Insert checked rows, and say how many.

    Raises:
        InvalidData: some are in the ledger already, or refer to a node that is not.
    """
    faults = _Faults()
    _check_there(connection, rows, faults)
    by_table: dict[str, list[Incoming]] = defaultdict(list)
    for row in rows:
        by_table[row.table.name].append(row)
    for table in _ORDER:
        arriving = by_table[table.name]
        if not arriving:
            continue
        if table in (PCI_DEVICES, COMPUTE_NODE_ENTRIES):
            _refer(connection, arriving, faults)
            faults.refuse()
        rows_ = _entry_rows(arriving) if table is COMPUTE_NODE_ENTRIES else [row.values for row in arriving]
        if rows_:
            connection.execute(insert(table), rows_)
        if table in (COMPUTE_NODES, INSTANCES):
            connection.execute(update(table).where(table.c.deleted == DELETED).values(deleted=table.c.id))
    return len(rows)


def _entry_rows(arriving: Iterable[Incoming]) -> list[dict[str, Any]]:
    """Take apart the lines that hold all entries of a node; of several alike the last."""
    rows = (entry_values(row.values["node_uuid"], entry) for row in arriving for entry in row.values["entries"])
    return list({(row["node_uuid"], row["kind"], row["id"]): row for row in rows}.values())


def _refer(connection: Connection, rows: Sequence[Incoming], faults: _Faults) -> None:
    """Give devices their node's row id; whatever names a node that is not there is a fault."""
    nodes = COMPUTE_NODES.c
    alive = select(nodes.uuid, nodes.id).where(nodes.deleted == literal_column("0"))
    ids = {row[0]: row[1] for row in connection.execute(alive)}
    for row in rows:
        if row.node_uuid not in ids:
            faults.add(row.line, f"no node {row.node_uuid} - at `$.node_uuid`")
        elif row.table is PCI_DEVICES:
            row.values["compute_node_id"] = ids[row.node_uuid]


def _check_there(connection: Connection, rows: Sequence[Incoming], faults: _Faults) -> None:
    """Compare the rows' keys with the ledger's."""
    there: set[tuple[str, tuple[object, ...]]] = set()
    for table in {row.table.name: row.table for row in rows}.values():
        for key in _KEYS[table.name]:
            query = _keys_query(table, key)
            there.update((f"{table.name} {' '.join(key)}", tuple(row)) for row in connection.execute(query))
    for row in rows:
        taken = [key for key in row.keys() if key in there]  # noqa: SIM118  # it is no mapping
        if taken:
            faults.add(row.line, f"{_said(taken[0])} is in the ledger already")
    faults.refuse()


def _keys_query(table: Table, key: tuple[str, ...]) -> Select[*tuple[Any, ...]]:
    if table is PCI_DEVICES:
        nodes = COMPUTE_NODES.c
        on = table.c.compute_node_id == nodes.id
        return select(*[nodes.uuid, table.c.address]).join_from(table, COMPUTE_NODES, on)
    query = select(*(table.c[name] for name in key))
    if table in (COMPUTE_NODES, INSTANCES):
        query = query.where(table.c.deleted == literal_column("0"))
    return query
