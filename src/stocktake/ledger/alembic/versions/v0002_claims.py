"""Claims: when they expire, a row for each entry, the exact disk, the tags of free devices."""

import json
from collections.abc import Iterator

import sqlalchemy as sa
from alembic import op

from stocktake.errors import LedgerError

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
TIME = sa.String(32).with_variant(sa.TIMESTAMP(timezone=True), "postgresql")
PENDING = sa.text("deleted = 0 AND claim_expires_at IS NOT NULL")


def upgrade() -> None:
    """Add what claims need; every entry is kept."""
    op.add_column("compute_nodes", sa.Column("disk_mb_used", BIG, server_default="0", nullable=False))
    # Whole GiB, which never understate, until the next refresh sums the MiB.
    op.execute(sa.text("UPDATE compute_nodes SET disk_mb_used = local_gb_used * 1024"))
    op.add_column("pci_devices", sa.Column("tags", sa.Text(), server_default="{}", nullable=False))
    for table in ("instances", "migrations"):
        op.add_column(table, sa.Column("claim_expires_at", TIME))
        op.create_index(
            f"ix_{table}_claim_expires_at",
            table,
            ["claim_expires_at"],
            sqlite_where=PENDING,
            postgresql_where=PENDING,
        )
    _split_entries()


def _split_entries() -> None:
    connection = op.get_bind()
    old = connection.execute(sa.text("SELECT node_uuid, entries FROM compute_node_entries")).all()
    op.drop_table("compute_node_entries")
    table = op.create_table(
        "compute_node_entries",
        sa.Column("node_uuid", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("entry", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node_uuid", "kind", "id"),
    )
    rows = {(row["node_uuid"], row["kind"], row["id"]): row for uuid, text in old for row in _rows(uuid, text)}
    if rows:
        op.bulk_insert(table, list(rows.values()))


def _rows(node_uuid: str, text: str) -> Iterator[dict[str, str]]:
    try:
        for entry in json.loads(text):
            yield {"node_uuid": node_uuid, "kind": entry["kind"], "id": entry["id"], "entry": json.dumps(entry)}
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        what = f"compute_node_entries node_uuid {node_uuid} can't be read: {error!r}"
        remedy = "Somebody else wrote it: delete the row, the next refresh writes it anew. The ledger is as it was."
        raise LedgerError(what, where="ledger", remedy=remedy) from error
