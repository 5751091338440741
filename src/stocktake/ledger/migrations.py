"""
Step 7a, the moves of instances. Invariant: one that is settled stays settled.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, union, update

from stocktake.ledger.calls import Calls, Rows, ledger_call
from stocktake.ledger.engine import tell
from stocktake.ledger.mapping import MIGRATION, insert_into, refuse_missing
from stocktake.ledger.tables import IN_PLAY, MIGRATIONS, is_in
from stocktake.model.access import AGENTS, ANY_TOKEN
from stocktake.model.workload import Migration


def read_migrations(
    connection: Connection, *, host: str | None = None, node: str | None = None, every: bool = False
) -> tuple[Migration, ...]:
    """Read migrations by id: those in play that touch the host or node, or every one, over or deleted."""
    columns = MIGRATIONS.c
    query = select(*MIGRATION.select).order_by(columns.id)
    shown = [] if every else [IN_PLAY]
    if host is None and node is None:
        return MIGRATION.read_all(connection.execute(query.where(*shown)).all())
    # Two lists of ids, because no database serves an OR from two partial indexes.
    sides = ((columns.source_compute, columns.source_node), (columns.dest_compute, columns.dest_node))
    asked = [
        select(columns.id).where(
            *shown,
            *([] if host is None else [compute == host]),
            *([] if node is None else [name == node]),
        )
        for compute, name in sides
    ]
    return MIGRATION.read_all(connection.execute(query.where(columns.id.in_(union(*asked)))).all())


def fail_migrations(connection: Connection, ids: Collection[int], now: datetime) -> None:
    """Set stale migrations to `error`; one that was settled meanwhile stays settled."""
    if ids:
        stale = update(MIGRATIONS).where(IN_PLAY, is_in(MIGRATIONS.c.id, ids))
        connection.execute(stale.values(status="error", updated_at=now))


def change_migrations(connection: Connection, migrations: Sequence[Migration], now: datetime) -> None:
    """Write migrations that are there, by id."""
    rows = [MIGRATION.values(one) | {"row_id": one.id, "updated_at": now} for one in migrations]
    for row in rows:
        del row["id"], row["created_at"]
    if rows:
        tell(connection, (host for one in migrations for host in (one.source_compute, one.dest_compute)))
        connection.execute(update(MIGRATIONS).where(MIGRATIONS.c.id == bindparam("row_id")), rows)


class MigrationCalls(Calls):
    """The calls about migrations."""

    @ledger_call(roles=ANY_TOKEN)
    def migrations(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        all: bool = False,  # noqa: A002  # as operators ask for it
    ) -> tuple[Migration, ...]:
        """Read migrations by id: those in play from or to the host and node; or all, settled and deleted ones too."""
        return read_migrations(self.connection, host=host, node=node, every=all)

    @ledger_call(
        roles=AGENTS,
        # A destination elsewhere would hold room there, and a source elsewhere what the instance has there.
        rows=lambda it: Rows(
            hosts=[host for one in it.migrations for host in {one.source_compute, one.dest_compute} - {None} or {None}],
            instances={one.instance_uuid for one in it.migrations},
            migrations={one.id for one in it.migrations},
        ),
        writes=True,
        retryable=False,
    )
    def put_migrations(self, migrations: Sequence[Migration]) -> None:
        """
        Insert migrations under their ids.

        Raises:
            AlreadyThere: one is there already; names it, and none is inserted.
        """
        rows = [
            MIGRATION.values(one) | {"deleted": one.id if one.deleted else 0, "created_at": one.created_at or self.now}
            for one in migrations
        ]
        if rows:
            tell(self.connection, (host for one in migrations for host in (one.source_compute, one.dest_compute)))
            statement = insert_into(self.connection, MIGRATIONS).on_conflict_do_nothing().returning(MIGRATIONS.c.id)
            inserted = self.connection.scalars(statement, rows).all()
            refuse_missing("migration", [one.id for one in migrations], inserted)
