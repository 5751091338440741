"""
Step 7a, the instances. Invariant: who is told of a change is the host before it, and the
one after it.
"""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, or_, select, union, update

from stocktake.errors import InvalidInput, NotFound
from stocktake.ledger.calls import Calls, Rows, ledger_call, no_rows
from stocktake.ledger.devices import read_held, with_devices
from stocktake.ledger.engine import tell
from stocktake.ledger.mapping import INSTANCE, insert_into, refuse_missing, some_of
from stocktake.ledger.tables import ALIVE, DELETED, GONE, INSTANCES, MIGRATIONS, is_in
from stocktake.model.access import AGENTS, ANY_TOKEN, READERS
from stocktake.model.workload import Instance


class InstanceCalls(Calls):
    """The calls about instances."""

    @ledger_call(roles=ANY_TOKEN)
    def instances(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        named: str | None = None,
        deleted: bool = False,
    ) -> tuple[Instance, ...]:
        """Read instances, the first made first: by host, node, uuid or name; the deleted ones too if asked."""
        return read_instances(self.connection, host=host, node=node, named=named, deleted=deleted)[0]

    @ledger_call(roles=READERS)
    def instances_page(
        self, *, after: int, limit: int, host: str | None = None, node: str | None = None, deleted: bool = False
    ) -> tuple[tuple[Instance, ...], int | None]:
        """
        Read at most so many instances made after a row, by its id, and the last one's id if there are more.

        Raises:
            InvalidInput: a limit below 1.
        """
        if limit < 1:
            raise InvalidInput(f"must be at least 1, not {limit}", where="limit")
        return read_instances(self.connection, host=host, node=node, deleted=deleted, after=after, limit=limit)

    @ledger_call(roles=ANY_TOKEN, rows=no_rows, empty=frozenset())
    def known_consumers(self, uuids: Collection[str]) -> frozenset[str]:
        """
        Say which of these uuids, of consumers in the scheduler, are instances or migrations, deleted ones too.

        Open to every agent, about all hosts: it must not take another's allocation for an orphaned one.
        """
        asked = (select(column).where(is_in(column, uuids)) for column in (INSTANCES.c.uuid, MIGRATIONS.c.uuid))
        return frozenset(self.connection.scalars(union(*asked)))

    @ledger_call(
        roles=AGENTS,
        rows=lambda it: Rows(hosts=[one.host for one in it.instances], instances=[one.uuid for one in it.instances]),
        writes=True,
        retryable=False,
    )
    def put_instances(self, instances: Sequence[Instance]) -> None:
        """
        Insert instances. Which devices they hold is not written: `save` writes devices with their holders.

        Raises:
            AlreadyThere: one is there already; names it, and none is inserted.
        """
        rows = [
            instance_values(one)
            | {
                "created_at": one.created_at or self.now,
                "deleted_at": (one.deleted_at or self.now) if one.deleted else None,
                "deleted": DELETED if one.deleted else 0,
            }
            for one in instances
        ]
        if not rows:
            return
        tell(self.connection, (one.host for one in instances))
        statement = insert_into(self.connection, INSTANCES).on_conflict_do_nothing().returning(INSTANCES.c.uuid)
        refuse_missing("instance", [row["uuid"] for row in rows], self.connection.scalars(statement, rows).all())
        if any(one.deleted for one in instances):
            own_id = update(INSTANCES).where(INSTANCES.c.deleted == DELETED)
            self.connection.execute(own_id.values(deleted=INSTANCES.c.id))

    @ledger_call(
        roles=AGENTS,
        rows=lambda it: Rows(hosts=[one.host for one in it.instances], instances=[one.uuid for one in it.instances]),
        writes=True,
    )
    def change_instances(self, instances: Sequence[Instance]) -> None:
        """
        Write all of instances that are there but when they were made; `updated_at` becomes now.

        An instance is deleted by `delete_instances` only.

        Raises:
            NotFound: one is not there; none is written.
        """
        ids = _locked_ids(self.connection, [one.uuid for one in instances], {one.host for one in instances})
        rows = [
            instance_values(one) | {"row_id": ids[one.uuid], "updated_at": self.now, "deleted_at": None}
            for one in instances
        ]
        for row in rows:
            del row["created_at"]
        if rows:
            self.connection.execute(update(INSTANCES).where(INSTANCES.c.id == bindparam("row_id")), rows)

    @ledger_call(roles=AGENTS, rows=lambda it: Rows(instances=it.uuids), writes=True, retryable=False)
    def delete_instances(self, uuids: Collection[str], *, released: bool = False) -> None:
        """
        Delete instances softly; unless `released`, what the scheduler holds goes with their node's next refresh.

        Args:
            released: the scheduler holds nothing for them.

        Raises:
            NotFound: one is not there; none is deleted.
        """
        ids = _locked_ids(self.connection, uuids)
        columns = INSTANCES.c
        gone = update(INSTANCES).where(is_in(columns.id, ids.values()))
        self.connection.execute(gone.values(deleted=columns.id, deleted_at=self.now, allocations_released=released))


def read_instances(
    connection: Connection,
    *,
    host: str | None = None,
    node: str | None = None,
    named: str | None = None,
    deleted: bool = False,
    after: int = 0,
    limit: int | None = None,
) -> tuple[tuple[Instance, ...], int | None]:
    """
    Read instances, the first made first; the deleted ones too if asked.

    Args:
        named: the uuid or the name.
        after, limit: at most so many of those made after the row of this id.

    Returns:
        The instances, and the id of the last one's row if there are more.
    """
    columns = INSTANCES.c
    query = select(*INSTANCE.select).order_by(columns.id)
    if not deleted:
        query = query.where(ALIVE)
    if host is not None:
        query = query.where(columns.host == host)
    if node is not None:
        query = query.where(columns.node == node)
    if named is not None:
        query = query.where(or_(columns.uuid == named, columns.name == named))
    if limit is not None:
        query = query.where(columns.id > after).limit(limit + 1)
    rows = connection.execute(query).all()
    shown = rows if limit is None else rows[:limit]
    last = shown[-1][INSTANCE.id_at] if len(rows) > len(shown) else None
    return _completed(connection, INSTANCE.read_all(shown)), last


def release(connection: Connection, uuids: Collection[str]) -> None:
    """Remember that the scheduler holds nothing any more for these deleted instances."""
    if uuids:
        gone = update(INSTANCES).where(GONE, is_in(INSTANCES.c.uuid, uuids))
        connection.execute(gone.values(allocations_released=True))


def locked_instance(connection: Connection, uuid: str) -> Instance | None:
    """Read an instance that is not deleted, with its devices, and lock its row."""
    query = select(*INSTANCE.select).where(ALIVE, INSTANCES.c.uuid == uuid).with_for_update()
    found = INSTANCE.read_all(connection.execute(query).all())
    return _completed(connection, found)[0] if found else None


def instance_values(instance: Instance) -> dict[str, Any]:
    """Turn an instance into column values, with its flavor's figures for people who look with SQL."""
    flavor = instance.flavor
    return INSTANCE.values(instance) | {
        "vcpus": flavor.vcpus,
        "memory_mb": flavor.memory_mb,
        "root_gb": flavor.root_gb,
        "ephemeral_gb": flavor.ephemeral_gb,
    }


def _completed(connection: Connection, found: Sequence[Instance]) -> tuple[Instance, ...]:
    return with_devices(found, read_held(connection, {instance.uuid for instance in found}))


def _locked_ids(connection: Connection, uuids: Collection[str], hosts: Collection[str | None] = ()) -> dict[str, int]:
    query = select(INSTANCES.c.uuid, INSTANCES.c.id, INSTANCES.c.host).where(ALIVE, is_in(INSTANCES.c.uuid, uuids))
    rows = connection.execute(query.order_by(INSTANCES.c.uuid).with_for_update()).all()
    tell(connection, (*hosts, *(row[2] for row in rows)))
    found = {row[0]: row[1] for row in rows}
    missing = sorted(set(uuids) - found.keys())
    if missing:
        raise NotFound(f"no instance {some_of(missing)}", where="ledger")
    return found
