"""
Step 7a, a call of one host's agent. Invariant: its own host's rows and no others; looked at, and locked, in the
transaction that touches them.

A row is another's if it is on another host. What is refused changes nothing, not even of what is the agent's own.
"""

from collections.abc import Collection, Iterable

import msgspec
from sqlalchemy import Connection, Table, or_, select

from stocktake.errors import AccessDenied
from stocktake.ledger.calls import LedgerCall, Rows
from stocktake.ledger.tables import ALIVE, COMPUTE_NODES, GONE, IN_PLAY, INSTANCES, MIGRATIONS, is_in


def scoped(call: LedgerCall, arguments: msgspec.Struct, host: str) -> msgspec.Struct:
    """
    Narrow what an agent asks to its own host: whoever asks for all hosts' has those of its own.

    Raises:
        AccessDenied: agents may not make the call, or it names another host.
    """
    if "agent" not in call.roles:
        raise AccessDenied("agents may not do that: it concerns more than their own host", where=call.name)
    if "host" in arguments.__struct_fields__:
        named = getattr(arguments, "host", None)
        if named is None:
            return msgspec.structs.replace(arguments, host=host)
        _check([named], host)
    return arguments


def check_rows(connection: Connection, rows: Rows, host: str, *, lock: bool) -> None:
    """
    Look whose rows a call touches; rows that are not there belong to no host.

    Args:
        lock: hold them, in the order in which everybody does, so that none is taken over before it is written.

    Raises:
        AccessDenied: one is another host's.
    """
    _check(rows.hosts, host)
    alive = _check_alive(connection, COMPUTE_NODES, rows.nodes, host, lock=lock)
    # A node that is the host's now is no less so because another host had it once.
    _check_deleted(connection, COMPUTE_NODES, set(rows.deleted_nodes) - alive, host)
    _check_alive(connection, INSTANCES, rows.instances, host, lock=lock)
    _check_deleted(connection, INSTANCES, rows.deleted_instances, host)
    _check_moving(connection, rows.moving, host)
    if rows.migrations:
        columns = MIGRATIONS.c
        query = select(columns.source_compute, columns.dest_compute).where(is_in(columns.id, sorted(rows.migrations)))
        _check((source for source, dest in connection.execute(query) if dest != host), host)


def _check_alive(
    connection: Connection, table: Table, uuids: Collection[str], host: str, *, lock: bool
) -> frozenset[str]:
    """Look at nodes or instances that are not deleted, and give the uuids of those that there are."""
    if not uuids:
        return frozenset()
    columns = table.c
    query = select(columns.uuid, columns.host).where(ALIVE, is_in(columns.uuid, sorted(uuids))).order_by(columns.uuid)
    rows = connection.execute(query.with_for_update() if lock else query).all()
    _check((row.host for row in rows), host)
    return frozenset(row.uuid for row in rows)


def _check_deleted(connection: Connection, table: Table, uuids: Collection[str], host: str) -> None:
    """A uuid may have been deleted on several hosts; what the scheduler holds is by uuid, and each may release it."""
    if uuids:
        query = select(table.c.uuid, table.c.host).where(GONE, is_in(table.c.uuid, sorted(uuids)))
        rows = connection.execute(query).all()
        mine = {row.uuid for row in rows if row.host == host}
        _check((row.host for row in rows if row.uuid not in mine), host)


def _check_moving(connection: Connection, uuids: Collection[str], host: str) -> None:
    if not uuids:
        return
    instances, moves = INSTANCES.c, MIGRATIONS.c
    query = select(instances.uuid, instances.host).where(ALIVE, is_in(instances.uuid, sorted(uuids)))
    away = {row.uuid: row.host for row in connection.execute(query) if row.host != host}
    if away:
        ends = or_(moves.source_compute == host, moves.dest_compute == host)
        coming = select(moves.instance_uuid).where(IN_PLAY, ends, is_in(moves.instance_uuid, sorted(away)))
        moving = set(connection.scalars(coming))
        _check((where for uuid, where in away.items() if uuid not in moving), host)


def _check(hosts: Iterable[str | None], mine: str) -> None:
    for host in hosts:
        if host != mine:
            raise AccessDenied(f"this token is for host {mine!r} only", where=host or "all hosts")
