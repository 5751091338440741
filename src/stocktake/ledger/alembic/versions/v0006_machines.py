"""Which machine an agent is on, and which run of it reported last."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; of services from before neither is known."""
    op.add_column("services", sa.Column("machine", sa.Text()))
    op.add_column("services", sa.Column("run", sa.Text()))
