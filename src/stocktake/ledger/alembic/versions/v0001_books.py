"""The books: services, compute nodes, instances, migrations, devices, entries."""

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# What the tables were at this version: later changes of `stocktake.ledger.tables` must not reach back here.
BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(32).with_variant(sa.TIMESTAMP(timezone=True), "postgresql")
ALIVE = "deleted = 0"
GONE = "deleted <> 0"
IN_PLAY = (
    "(deleted = 0 AND (status IS NULL OR status NOT IN "
    "('confirmed', 'reverted', 'failed', 'completed', 'cancelled', 'done')))"
)


def _where(clause: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(clause), "postgresql_where": sa.text(clause)}


def _needed(kind: Any, *names: str) -> Iterator[sa.Column[Any]]:
    return (sa.Column(name, kind, nullable=False) for name in names)


def _optional(kind: Any, *names: str) -> Iterator[sa.Column[Any]]:
    return (sa.Column(name, kind) for name in names)


def upgrade() -> None:
    """Make the tables."""
    _compute_node_entries()
    _compute_nodes()
    _instances()
    _migrations()
    _services()
    _pci_devices()


def _compute_node_entries() -> None:
    op.create_table(
        "compute_node_entries",
        *_needed(sa.Text(), "node_uuid", "entries"),
        sa.PrimaryKeyConstraint("node_uuid"),
    )


def _compute_nodes() -> None:
    op.create_table(
        "compute_nodes",
        sa.Column("id", BIG, nullable=False),
        *_optional(TIME, "created_at", "updated_at"),
        sa.Column("deleted_at", TIME),
        sa.Column("deleted", BIG, server_default="0", nullable=False),
        *_needed(sa.Text(), "uuid", "host", "hypervisor_hostname"),
        sa.Column("host_ip", sa.Text()),
        *_needed(
            BIG,
            "vcpus",
            "memory_mb",
            "local_gb",
            "vcpus_used",
            "memory_mb_used",
            "local_gb_used",
            "free_ram_mb",
            "free_disk_gb",
        ),
        sa.Column("disk_available_least", BIG),
        *_needed(BIG, "running_vms", "current_workload"),
        *_needed(sa.Float(precision=53), "cpu_allocation_ratio", "ram_allocation_ratio", "disk_allocation_ratio"),
        sa.Column("hypervisor_type", sa.Text()),
        sa.Column("hypervisor_version", BIG),
        *_needed(sa.Text(), "cpu_info", "supported_instances"),
        sa.Column("numa_topology", sa.Text()),
        *_needed(sa.Text(), "pci_stats", "stats", "metrics", "traits", "owned_traits", "owned_classes", "problems"),
        sa.Column("booted_at", TIME),
        sa.Column("entries_digest", sa.Text(), nullable=False),
        sa.Column("failure", sa.Text()),
        sa.Column("generation", BIG, nullable=False),
        sa.Column("provider_deleted", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_compute_nodes_host_gone", "compute_nodes", ["host", "provider_deleted"], **_where(GONE))
    op.create_index("ix_compute_nodes_name", "compute_nodes", ["hypervisor_hostname"])
    op.create_index("ix_compute_nodes_uuid", "compute_nodes", ["uuid"])
    op.create_index(
        "uq_compute_nodes_host_name", "compute_nodes", ["host", "hypervisor_hostname"], unique=True, **_where(ALIVE)
    )
    op.create_index("uq_compute_nodes_uuid", "compute_nodes", ["uuid"], unique=True, **_where(ALIVE))


def _instances() -> None:
    op.create_table(
        "instances",
        sa.Column("id", BIG, nullable=False),
        *_optional(TIME, "created_at", "updated_at"),
        sa.Column("deleted_at", TIME),
        sa.Column("deleted", BIG, server_default="0", nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        *_optional(sa.Text(), "display_name", "host", "node", "vm_state", "task_state"),
        sa.Column("power_state", BIG),
        *_optional(sa.Text(), "project_id", "user_id", "os_type"),
        *_needed(BIG, "vcpus", "memory_mb", "root_gb", "ephemeral_gb"),
        sa.Column("flavor", sa.Text(), nullable=False),
        *_optional(sa.Text(), "old_flavor", "new_flavor"),
        sa.Column("instance_type_id", BIG),
        sa.Column("numa_topology", sa.Text()),
        sa.Column("volume_backed", sa.Boolean(), nullable=False),
        sa.Column("migration_context", sa.Text()),
        sa.Column("adopted", sa.Boolean(), nullable=False),
        sa.Column("allocations_released", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_instances_host_gone", "instances", ["host", "allocations_released"], **_where(GONE))
    op.create_index("ix_instances_host_node", "instances", ["host", "node"], **_where(ALIVE))
    op.create_index("ix_instances_uuid", "instances", ["uuid"])
    op.create_index("uq_instances_uuid", "instances", ["uuid"], unique=True, **_where(ALIVE))


def _migrations() -> None:
    op.create_table(
        "migrations",
        sa.Column("id", BIG, autoincrement=False, nullable=False),
        *_optional(TIME, "created_at", "updated_at", "deleted_at"),
        sa.Column("deleted", BIG, server_default="0", nullable=False),
        sa.Column("uuid", sa.Text()),
        sa.Column("instance_uuid", sa.Text(), nullable=False),
        *_optional(sa.Text(), "migration_type", "status", "source_compute", "source_node", "dest_compute", "dest_node"),
        *_optional(BIG, "old_instance_type_id", "new_instance_type_id"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("uuid", name="uq_migrations_uuid"),
    )
    op.create_index("ix_migrations_dest", "migrations", ["dest_compute"], **_where(IN_PLAY))
    op.create_index("ix_migrations_instance_uuid", "migrations", ["instance_uuid"])
    op.create_index("ix_migrations_source", "migrations", ["source_compute"], **_where(IN_PLAY))


def _services() -> None:
    op.create_table(
        "services",
        sa.Column("id", BIG, nullable=False),
        *_optional(TIME, "created_at", "updated_at"),
        *_needed(sa.Text(), "uuid", "host", "binary", "topic"),
        sa.Column("report_count", BIG, nullable=False),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("disabled_reason", sa.Text()),
        sa.Column("forced_down", sa.Boolean(), nullable=False),
        sa.Column("last_seen_up", TIME),
        sa.Column("version", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("host", "binary", name="uq_services_host_binary"),
        sa.UniqueConstraint("uuid", name="uq_services_uuid"),
    )


def _pci_devices() -> None:
    op.create_table(
        "pci_devices",
        sa.Column("id", BIG, nullable=False),
        *_optional(TIME, "created_at", "updated_at"),
        sa.Column("compute_node_id", BIG, nullable=False),
        *_needed(sa.Text(), "address", "vendor_id", "product_id", "dev_type"),
        sa.Column("parent_addr", sa.Text()),
        sa.Column("numa_node", BIG),
        *_optional(sa.Text(), "label", "dev_id"),
        sa.Column("status", sa.Text(), nullable=False),
        *_optional(sa.Text(), "instance_uuid", "request_id", "resource_class"),
        sa.Column("traits", sa.Text(), nullable=False),
        sa.Column("physical_network", sa.Text()),
        sa.ForeignKeyConstraint(
            ["compute_node_id"],
            ["compute_nodes.id"],
        ),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("compute_node_id", "address", name="uq_pci_devices_node_address"),
    )
    op.create_index("ix_pci_devices_instance_uuid", "pci_devices", ["instance_uuid"])
