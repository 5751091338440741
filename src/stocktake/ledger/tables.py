"""
The ledger's tables, under Nova's column names. Invariant: what a person reads here by SQL means what it means in Nova.

A column's key is the noun's field where the two differ (`pci_stats` is `pci_device_pools`). JSON is kept as text in
both databases, times are UTC. `deleted` is 0, or the row's own id once it is deleted, as in Nova. Devices and entries
of a deleted node are gone: they can be counted anew.
"""

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TextClause,
    UniqueConstraint,
    bindparam,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TIMESTAMP, NullType, TypeDecorator, TypeEngine

# A migration with one of these statuses is over (docs/accounting.md, "Migrations"); compared letter by letter.
SETTLED = ("confirmed", "reverted", "failed", "completed", "cancelled", "done")

# Written as text, so that both databases see that the partial indexes below serve the queries that say the same.
ALIVE = text("deleted = 0")
GONE = text("deleted <> 0")
IN_PLAY = text(
    "(deleted = 0 AND (status IS NULL OR status NOT IN ({})))".format(", ".join(f"'{status}'" for status in SETTLED))
)
# A claim that nobody has settled yet.
PENDING = text("deleted = 0 AND claim_expires_at IS NOT NULL")

# A row inserted as deleted is marked with this until its own id is known.
DELETED = -1

BIG = BigInteger().with_variant(Integer(), "sqlite")


class Utc(TypeDecorator[datetime]):
    """
    An aware time in UTC: `timestamptz` in PostgreSQL, fixed-width ISO 8601 text in SQLite, so that text sorts by time.

    A time without a zone, written by somebody else, is taken as UTC; text that is no time is handed on as it is, for
    the decoder to name its row.
    """

    impl = TIMESTAMP
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column type."""
        kind: TypeEngine[Any] = String(32) if dialect.name == "sqlite" else TIMESTAMP(timezone=True)
        return dialect.type_descriptor(kind)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        """Write a time; one without a zone is a programming error."""
        if value is None:
            return None
        assert value.tzinfo is not None, "times are aware"
        moment = value.astimezone(UTC)
        return moment.isoformat(timespec="microseconds") if dialect.name == "sqlite" else moment

    def process_result_value(self, value: object, dialect: Dialect) -> datetime | None:  # noqa: ARG002  # its name is given
        """Read a time."""
        moment = value
        if isinstance(moment, str):
            try:
                moment = datetime.fromisoformat(moment)
            except ValueError:
                return value  # type: ignore[return-value]
        if not isinstance(moment, datetime):
            return value  # type: ignore[return-value]
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


class Json(TypeDecorator[str]):
    """JSON as text. It only marks the column: `mapping` decodes it, as the type of the noun's field."""

    impl = Text
    cache_ok = True


METADATA = MetaData()


def _times() -> tuple[Column[datetime], Column[datetime]]:
    return Column("created_at", Utc), Column("updated_at", Utc)


def _soft_delete() -> tuple[Column[datetime], Column[int]]:
    return Column("deleted_at", Utc), Column("deleted", BIG, nullable=False, server_default="0")


def _flag(name: str) -> Column[bool]:
    return Column(name, Boolean, nullable=False, server_default=text("false"))


def _needed(kind: Any, *names: str) -> Iterator[Column[Any]]:
    return (Column(name, kind, nullable=False) for name in names)


def _optional(kind: Any, *names: str) -> Iterator[Column[Any]]:
    return (Column(name, kind) for name in names)


def _where(clause: TextClause) -> dict[str, Any]:
    return {"sqlite_where": clause, "postgresql_where": clause}


SERVICES = Table(
    "services",
    METADATA,
    Column("id", BIG, primary_key=True),
    *_times(),
    *_needed(Text, "uuid", "host", "binary", "topic"),
    Column("report_count", BIG, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("disabled_reason", Text),
    Column("forced_down", Boolean, nullable=False),
    Column("last_seen_up", Utc),
    Column("version", Text, nullable=False),
    Column("pool", Json),
    Column("machine", Text),
    Column("run", Text),
    UniqueConstraint("uuid", name="uq_services_uuid"),
    UniqueConstraint("host", "binary", name="uq_services_host_binary"),
)

COMPUTE_NODES = Table(
    "compute_nodes",
    METADATA,
    Column("id", BIG, primary_key=True),
    *_times(),
    *_soft_delete(),
    *_needed(Text, "uuid", "host", "hypervisor_hostname"),
    Column("host_ip", Text),
    *_needed(BIG, "vcpus", "memory_mb", "local_gb", "vcpus_used", "memory_mb_used", "local_gb_used"),
    Column("disk_mb_used", BIG, nullable=False, server_default="0"),
    *_needed(BIG, "free_ram_mb", "free_disk_gb"),
    Column("disk_available_least", BIG),
    *_needed(BIG, "running_vms", "current_workload"),
    *_needed(Float(53), "cpu_allocation_ratio", "ram_allocation_ratio", "disk_allocation_ratio"),
    Column("hypervisor_type", Text),
    Column("hypervisor_version", BIG),
    Column("cpu_info", Text, nullable=False),
    Column("supported_instances", Json, nullable=False),
    Column("numa_topology", Json),
    Column("pci_stats", Json, key="pci_device_pools", nullable=False),
    *_needed(Json, "stats", "metrics", "traits", "owned_traits", "owned_classes", "problems"),
    Column("booted_at", Utc),
    Column("entries_digest", Text, nullable=False),
    Column("failure", Json),
    Column("generation", BIG, nullable=False),
    # Of a deleted node: its resource provider is gone too.
    _flag("provider_deleted"),
    Index("uq_compute_nodes_uuid", "uuid", unique=True, **_where(ALIVE)),
    Index("uq_compute_nodes_host_name", "host", "hypervisor_hostname", unique=True, **_where(ALIVE)),
    Index("ix_compute_nodes_uuid", "uuid"),
    Index("ix_compute_nodes_name", "hypervisor_hostname"),
    Index("ix_compute_nodes_host_gone", "host", "provider_deleted", **_where(GONE)),
)

COMPUTE_NODE_ENTRIES = Table(
    "compute_node_entries",
    METADATA,
    Column("node_uuid", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    Column("entry", Json, nullable=False),
)

INSTANCES = Table(
    "instances",
    METADATA,
    Column("id", BIG, primary_key=True),
    *_times(),
    *_soft_delete(),
    Column("uuid", Text, nullable=False),
    Column("display_name", Text, key="name"),
    *_optional(Text, "host", "node", "vm_state", "task_state"),
    Column("power_state", BIG),
    *_optional(Text, "project_id", "user_id", "os_type"),
    # For people who look with SQL: the flavor's figures. What counts is in `flavor`.
    *_needed(BIG, "vcpus", "memory_mb", "root_gb", "ephemeral_gb"),
    Column("flavor", Json, nullable=False),
    *_optional(Json, "old_flavor", "new_flavor"),
    Column("instance_type_id", BIG),
    Column("numa_topology", Json),
    Column("volume_backed", Boolean, nullable=False),
    Column("migration_context", Json),
    Column("adopted", Boolean, nullable=False),
    Column("claim_expires_at", Utc),
    # Of a deleted instance: the scheduler holds nothing for it any more.
    _flag("allocations_released"),
    Index("uq_instances_uuid", "uuid", unique=True, **_where(ALIVE)),
    Index("ix_instances_uuid", "uuid"),
    Index("ix_instances_host_node", "host", "node", **_where(ALIVE)),
    Index("ix_instances_host_gone", "host", "allocations_released", **_where(GONE)),
    Index("ix_instances_claim_expires_at", "claim_expires_at", **_where(PENDING)),
)

MIGRATIONS = Table(
    "migrations",
    METADATA,
    Column("id", BIG, primary_key=True, autoincrement=False),
    *_times(),
    *_soft_delete(),
    Column("uuid", Text),
    Column("instance_uuid", Text, nullable=False),
    *_optional(Text, "migration_type", "status", "source_compute", "source_node", "dest_compute", "dest_node"),
    *_optional(BIG, "old_instance_type_id", "new_instance_type_id"),
    Column("claim_expires_at", Utc),
    UniqueConstraint("uuid", name="uq_migrations_uuid"),
    Index("ix_migrations_source", "source_compute", **_where(IN_PLAY)),
    Index("ix_migrations_dest", "dest_compute", **_where(IN_PLAY)),
    Index("ix_migrations_instance_uuid", "instance_uuid"),
    Index("ix_migrations_claim_expires_at", "claim_expires_at", **_where(PENDING)),
)

PCI_DEVICES = Table(
    "pci_devices",
    METADATA,
    Column("id", BIG, primary_key=True),
    *_times(),
    Column("compute_node_id", BIG, ForeignKey("compute_nodes.id"), nullable=False),
    *_needed(Text, "address", "vendor_id", "product_id", "dev_type"),
    Column("parent_addr", Text),
    Column("numa_node", BIG),
    *_optional(Text, "label", "dev_id"),
    Column("status", Text, nullable=False),
    *_optional(Text, "instance_uuid", "request_id", "resource_class"),
    Column("traits", Json, nullable=False),
    Column("physical_network", Text),
    Column("tags", Json, nullable=False, server_default="{}"),
    UniqueConstraint("compute_node_id", "address", name="uq_pci_devices_node_address"),
    Index("ix_pci_devices_instance_uuid", "instance_uuid"),
)

TOKENS = Table(
    "tokens",
    METADATA,
    Column("id", BIG, primary_key=True),
    Column("created_at", Utc, nullable=False),
    *_needed(Text, "uuid", "role"),
    Column("host", Text),
    *_needed(Text, "note", "digest"),
    *_optional(Utc, "expires_at", "revoked_at"),
    UniqueConstraint("uuid", name="uq_tokens_uuid"),
    UniqueConstraint("digest", name="uq_tokens_digest"),
)

COMPUTE_NODE_HISTORY = Table(
    "compute_node_history",
    METADATA,
    Column("node_uuid", Text, primary_key=True),
    Column("at", Utc, primary_key=True),
    *_needed(BIG, "vcpus", "vcpus_used", "memory_mb", "memory_mb_used", "local_gb", "local_gb_used", "running_vms"),
    Index("ix_compute_node_history_at", "at"),
)


class InList(FunctionElement[Any]):
    """
    `column IN list`, the list given as one parameter of JSON text, however long it is.

    Databases limit how many parameters a statement may have, and each length would be a statement of its own to plan.
    """

    # Said to be boolean, SQLAlchemy would write `(...) = 1` for SQLite, which no index serves.
    type = NullType()
    inherit_cache = True
    name = "in_list"


def is_in(column: ColumnElement[Any], values: Iterable[str] | Iterable[int]) -> ColumnElement[bool]:
    """Say that a column's value is one of these."""
    return InList(column, _listed(values))


def _listed(values: Iterable[str] | Iterable[int]) -> BindParameter[str]:
    return bindparam(None, json.dumps(list(values)), type_=Text(), unique=True)


@compiles(InList, "sqlite")
def _sqlite(element: InList, compiler: SQLCompiler, **options: Any) -> str:
    column, listed = (compiler.process(part, **options) for part in element.clauses)
    return f"({column} IN (SELECT value FROM json_each({listed})))"  # noqa: S608  # parts that the compiler wrote


@compiles(InList, "postgresql")
def _postgresql(element: InList, compiler: SQLCompiler, **options: Any) -> str:
    column, listed = (compiler.process(part, **options) for part in element.clauses)
    kind = compiler.dialect.type_compiler_instance.process(next(iter(element.clauses)).type)
    rows = f"json_array_elements_text(CAST({listed} AS json)) AS listed"
    return f"({column} IN (SELECT CAST(listed AS {kind}) FROM {rows}))"  # noqa: S608  # parts that the compiler wrote
