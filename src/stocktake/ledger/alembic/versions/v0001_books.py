"""The books: services, compute nodes, instances, migrations, devices, entries."""

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
        sa.Column("node_uuid", sa.Text(), nullable=False),
        sa.Column("entries", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node_uuid"),
    )


def _compute_nodes() -> None:
    op.create_table(
        "compute_nodes",
        sa.Column("id", BIG, nullable=False),
        sa.Column("created_at", TIME),
        sa.Column("updated_at", TIME),
        sa.Column("deleted_at", TIME),
        sa.Column("deleted", BIG, server_default="0", nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("hypervisor_hostname", sa.Text(), nullable=False),
        sa.Column("host_ip", sa.Text()),
        sa.Column("vcpus", BIG, nullable=False),
        sa.Column("memory_mb", BIG, nullable=False),
        sa.Column("local_gb", BIG, nullable=False),
        sa.Column("vcpus_used", BIG, nullable=False),
        sa.Column("memory_mb_used", BIG, nullable=False),
        sa.Column("local_gb_used", BIG, nullable=False),
        sa.Column("free_ram_mb", BIG, nullable=False),
        sa.Column("free_disk_gb", BIG, nullable=False),
        sa.Column("disk_available_least", BIG),
        sa.Column("running_vms", BIG, nullable=False),
        sa.Column("current_workload", BIG, nullable=False),
        sa.Column("cpu_allocation_ratio", sa.Float(precision=53), nullable=False),
        sa.Column("ram_allocation_ratio", sa.Float(precision=53), nullable=False),
        sa.Column("disk_allocation_ratio", sa.Float(precision=53), nullable=False),
        sa.Column("hypervisor_type", sa.Text()),
        sa.Column("hypervisor_version", BIG),
        sa.Column("cpu_info", sa.Text(), nullable=False),
        sa.Column("supported_instances", sa.Text(), nullable=False),
        sa.Column("numa_topology", sa.Text()),
        sa.Column("pci_stats", sa.Text(), nullable=False),
        sa.Column("stats", sa.Text(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("traits", sa.Text(), nullable=False),
        sa.Column("owned_traits", sa.Text(), nullable=False),
        sa.Column("owned_classes", sa.Text(), nullable=False),
        sa.Column("problems", sa.Text(), nullable=False),
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
        sa.Column("created_at", TIME),
        sa.Column("updated_at", TIME),
        sa.Column("deleted_at", TIME),
        sa.Column("deleted", BIG, server_default="0", nullable=False),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("display_name", sa.Text()),
        sa.Column("host", sa.Text()),
        sa.Column("node", sa.Text()),
        sa.Column("vm_state", sa.Text()),
        sa.Column("task_state", sa.Text()),
        sa.Column("power_state", BIG),
        sa.Column("project_id", sa.Text()),
        sa.Column("user_id", sa.Text()),
        sa.Column("os_type", sa.Text()),
        sa.Column("vcpus", BIG, nullable=False),
        sa.Column("memory_mb", BIG, nullable=False),
        sa.Column("root_gb", BIG, nullable=False),
        sa.Column("ephemeral_gb", BIG, nullable=False),
        sa.Column("flavor", sa.Text(), nullable=False),
        sa.Column("old_flavor", sa.Text()),
        sa.Column("new_flavor", sa.Text()),
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
        sa.Column("created_at", TIME),
        sa.Column("updated_at", TIME),
        sa.Column("deleted_at", TIME),
        sa.Column("deleted", BIG, server_default="0", nullable=False),
        sa.Column("uuid", sa.Text()),
        sa.Column("instance_uuid", sa.Text(), nullable=False),
        sa.Column("migration_type", sa.Text()),
        sa.Column("status", sa.Text()),
        sa.Column("source_compute", sa.Text()),
        sa.Column("source_node", sa.Text()),
        sa.Column("dest_compute", sa.Text()),
        sa.Column("dest_node", sa.Text()),
        sa.Column("old_instance_type_id", BIG),
        sa.Column("new_instance_type_id", BIG),
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
        sa.Column("created_at", TIME),
        sa.Column("updated_at", TIME),
        sa.Column("uuid", sa.Text(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("binary", sa.Text(), nullable=False),
        sa.Column("topic", sa.Text(), nullable=False),
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
        sa.Column("created_at", TIME),
        sa.Column("updated_at", TIME),
        sa.Column("compute_node_id", BIG, nullable=False),
        sa.Column("address", sa.Text(), nullable=False),
        sa.Column("vendor_id", sa.Text(), nullable=False),
        sa.Column("product_id", sa.Text(), nullable=False),
        sa.Column("dev_type", sa.Text(), nullable=False),
        sa.Column("parent_addr", sa.Text()),
        sa.Column("numa_node", BIG),
        sa.Column("label", sa.Text()),
        sa.Column("dev_id", sa.Text()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("instance_uuid", sa.Text()),
        sa.Column("request_id", sa.Text()),
        sa.Column("resource_class", sa.Text()),
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
