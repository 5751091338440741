"""
Rows to nouns and back. Invariant: a row that can't be read is never skipped; the error names its table, id and column.
"""

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Boolean, ColumnElement, Connection, Table, literal_column, type_coerce
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.elements import KeyedColumnElement

from stocktake.errors import AlreadyThere, LedgerError
from stocktake.ledger.tables import COMPUTE_NODES, INSTANCES, MIGRATIONS, PCI_DEVICES, SERVICES, Json
from stocktake.model.books import ComputeNode, Entry, HolderKind
from stocktake.model.pci import PciRecord
from stocktake.model.value import Value, encode
from stocktake.model.workload import Instance, Migration, Service

V = TypeVar("V", bound=Value)

_NAMED_MAX = 5


class Shape(Generic[V]):
    """
    How one table's rows become one noun: the columns that are the noun's fields, and which of them are JSON.

    Attributes:
        select: one column for each field, `deleted` as a boolean, then the row's id.
        fields: the fields' names, in that order.
        id_at: where in a row its id stands; what a query selects besides comes after it.
    """

    def __init__(self, table: Table, kind: type[V], *, skip: frozenset[str] = frozenset()) -> None:
        self.table = table
        self.kind = kind
        infos = {info.name: info for info in msgspec.structs.fields(kind) if info.name not in skip}
        missing = infos.keys() - table.c.keys()
        assert not missing, f"{table.name} lacks {missing}"
        self.fields = tuple(infos)
        self.id_at = len(self.fields)
        self.select: tuple[ColumnElement[Any], ...] = (
            *(_selected(table.c[name]) for name in self.fields),
            table.c.id,
        )
        self.json: dict[str, msgspec.json.Decoder[Any]] = {
            name: msgspec.json.Decoder(info.type, strict=True)
            for name, info in infos.items()
            if isinstance(table.c[name].type, Json)
        }
        # `deleted` is the row's id once it is deleted, which no noun knows.
        self._plain = tuple(name for name in self.fields if name not in self.json and name != "deleted")

    def reader(self) -> Callable[[Sequence[Any]], V]:
        """
        Give a function that reads rows of `select`.

        It remembers what it decoded, because flavors, traits and topologies repeat; values are frozen, so sharing them
        is safe. Use one for a query's rows, then drop it.
        """
        decoders: list[tuple[str, Callable[[str], Any], dict[str, Any]]]
        decoders = [(name, decoder.decode, {}) for name, decoder in self.json.items()]
        fields, kind = self.fields, self.kind

        def read(row: Sequence[Any]) -> V:
            # The row's id is left over.
            data: dict[str, Any] = dict(zip(fields, row, strict=False))
            name = ""
            try:
                for name, decode_text, known in decoders:
                    text = data[name]
                    if text is not None:
                        value = known.get(text)
                        if value is None:
                            value = known[text] = decode_text(text)
                        data[name] = value
                name = ""
                return msgspec.convert(data, kind)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError) as error:
                raise self._unreadable(row, name, error) from error

        return read

    def read_all(self, rows: Iterable[Sequence[Any]]) -> tuple[V, ...]:
        """
        Read rows of `select`; rows fetched all at once are read faster.

        Raises:
            LedgerError: a row holds what its column can't; names table, id and column.
        """
        return tuple(map(self.reader(), rows))

    def values(self, noun: V) -> dict[str, Any]:
        """Turn a noun into column values by key, without `deleted`."""
        values: dict[str, Any] = {name: getattr(noun, name) for name in self._plain}
        for name in self.json:
            value = getattr(noun, name)
            values[name] = None if value is None else encode(value)
        return values

    def changes(self, before: V, after: V) -> dict[str, Any]:
        """Turn the fields in which two nouns differ into column values by key, without `deleted`."""
        changed: dict[str, Any] = {}
        for name in self._plain:
            value = getattr(after, name)
            if value != getattr(before, name):
                changed[name] = value
        for name in self.json:
            value = getattr(after, name)
            if value is not getattr(before, name) and value != getattr(before, name):
                changed[name] = None if value is None else encode(value)
        return changed

    def _unreadable(self, row: Sequence[Any], column: str, error: Exception) -> LedgerError:
        at = f", column {self.table.c[column].name}" if column else ""
        return LedgerError(
            f"{self.table.name} id {row[self.id_at]}{at} can't be read: {error}",
            where="ledger",
            remedy="Another program wrote it: correct the row.",
        )


def _selected(column: KeyedColumnElement[Any]) -> ColumnElement[Any]:
    if column.key == "deleted":
        return type_coerce(column != literal_column("0"), Boolean).label("deleted")
    return column


SERVICE = Shape(SERVICES, Service)
NODE = Shape(COMPUTE_NODES, ComputeNode)
# Without what is large and only one node's page shows.
BRIEF_NODE = Shape(
    COMPUTE_NODES,
    ComputeNode,
    skip=frozenset({"cpu_info", "supported_instances", "numa_topology", "pci_device_pools", "metrics", "owned_traits"}),
)
INSTANCE = Shape(INSTANCES, Instance, skip=frozenset({"pci_devices"}))
MIGRATION = Shape(MIGRATIONS, Migration)
DEVICE = Shape(PCI_DEVICES, PciRecord)

_ENTRY = msgspec.json.Decoder(Entry)
_RANKS: Mapping[HolderKind, int] = {"reserved": 0, "instance": 1, "migration": 2, "orphan": 3, "misplaced": 3}


@contextmanager
def collector_off() -> Iterator[None]:
    """
    Read much at once without the garbage collector, which would walk all that was read so far again and again.

    That is half of the time for 10,000 nodes, for nothing: rows make no cycles. Threads that read at once may turn it
    on a little early for each other, never leave it off.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def decode_entry(node_uuid: str, text: str) -> Entry:
    """
    Read one of a node's entries.

    Raises:
        LedgerError: the text is no entry.
    """
    try:
        return _ENTRY.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        where = f"compute_node_entries node_uuid {node_uuid}, column entry"
        remedy = "Another program wrote it: delete the row, the next refresh writes it anew."
        raise LedgerError(f"{where} can't be read: {error}", where="ledger", remedy=remedy) from error


def entry_values(node_uuid: str, entry: Entry) -> dict[str, str]:
    """Turn an entry into column values."""
    return {"node_uuid": node_uuid, "kind": entry.kind, "id": entry.id, "entry": encode(entry)}


def in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """Sort entries as a tally has them: what is reserved, instances, moves, then guests, each by uuid."""
    return tuple(sorted(entries, key=lambda entry: (_RANKS[entry.kind], entry.id)))


def insert_into(connection: Connection, table: Table) -> Any:
    """Begin an insert that can say `ON CONFLICT`, which both databases write the same."""
    return sqlite.insert(table) if connection.dialect.name == "sqlite" else postgresql.insert(table)


def refuse_missing(kind: str, wanted: Sequence[object], inserted: Sequence[object]) -> None:
    """Refuse an insert that left something out, because it was there already or stood twice in the list."""
    rest = list(inserted)
    refused = []
    known = set(rest)
    seen: set[object] = set()
    for one in wanted:
        if one not in known or one in seen:
            refused.append(one)
        seen.add(one)
    if len(rest) != len(wanted):
        raise AlreadyThere(f"{kind} {some_of(refused)} is in the ledger already", where="ledger")


def some_of(names: Sequence[object]) -> str:
    """Name the first few of many."""
    more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
    return ", ".join(str(name) for name in names[:_NAMED_MAX]) + more
