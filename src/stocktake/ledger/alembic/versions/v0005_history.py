"""History: what nodes had, and what of it was allocated, over time."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(32).with_variant(sa.TIMESTAMP(timezone=True), "postgresql")


def upgrade() -> None:
    """Add the table."""
    op.create_table(
        "compute_node_history",
        sa.Column("node_uuid", sa.Text(), nullable=False),
        sa.Column("at", TIME, nullable=False),
        sa.Column("vcpus", BIG, nullable=False),
        sa.Column("vcpus_used", BIG, nullable=False),
        sa.Column("memory_mb", BIG, nullable=False),
        sa.Column("memory_mb_used", BIG, nullable=False),
        sa.Column("local_gb", BIG, nullable=False),
        sa.Column("local_gb_used", BIG, nullable=False),
        sa.Column("running_vms", BIG, nullable=False),
        sa.PrimaryKeyConstraint("node_uuid", "at"),
    )
    op.create_index("ix_compute_node_history_at", "compute_node_history", ["at"])
