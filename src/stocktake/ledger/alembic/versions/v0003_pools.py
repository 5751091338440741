"""Pools: which nodes a service divides with others."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; nobody shares anything yet."""
    op.add_column("services", sa.Column("pool", sa.Text()))
