"""
All that a pass reads, and whether anything of it has changed. Invariant: no change escapes the digest, which is of the
rows.

It is one short statement, of which no row leaves PostgreSQL: a pass in which nothing happened costs little more.
"""

import hashlib
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    Text,
    bindparam,
    func,
    literal_column,
    or_,
    select,
    type_coerce,
    union,
)
from sqlalchemy.dialects import postgresql

from stocktake.ledger import read
from stocktake.ledger.nouns import Snapshot
from stocktake.ledger.read import BINARY
from stocktake.ledger.sql_in import Among
from stocktake.ledger.tables import ALIVE, COMPUTE_NODES, GONE, IN_PLAY, INSTANCES, MIGRATIONS, PCI_DEVICES, SERVICES
from stocktake.model.books import ComputeNode

_HOST = bindparam("of_host", type_=Text())
_ZERO: Any = literal_column("0")
_STRANGERS = bindparam("of_strangers", type_=Text())


def standing(
    connection: Connection, host: str, names: Collection[str], guests: Mapping[str, frozenset[str]], *, others: bool
) -> Snapshot:
    """Read all that a pass over a host needs; its other nodes too, if asked, for who asks only once."""
    wanted = frozenset(names)
    return Snapshot(
        service=next(iter(read.services(connection, host)), None),
        works=read.work(connection, host, wanted, guests),
        others=_others(connection, host, wanted) if others else (),
        gone=read.deleted_nodes(connection, host),
    )


def _others(connection: Connection, host: str, names: frozenset[str]) -> tuple[ComputeNode, ...]:
    nodes = COMPUTE_NODES.c
    query = select(nodes.uuid, nodes.hypervisor_hostname).where(ALIVE, nodes.host == host)
    uuids = {uuid for uuid, name in connection.execute(query) if name not in names}
    return read.nodes(connection, host, uuids=uuids) if uuids else ()


def standing_digest(connection: Connection, host: str, strangers: Collection[str]) -> str:
    """
    Give a digest of all rows that `Snapshot` is made of, but for when and how often the agent reported.

    Args:
        strangers: the uuids of guests that were not instances of the host when it was read.
    """
    asked = {"of_host": host, "of_strangers": msgspec.json.encode(sorted(strangers)).decode()}
    if connection.dialect.name == "postgresql":
        (text,) = connection.exec_driver_sql(_postgresql(), asked).one()
        return str(text)
    rows = [connection.execute(part, asked).all() for part in _parts()]
    return hashlib.blake2b(repr(rows).encode(errors="surrogatepass"), digest_size=16).hexdigest()


@cache
def _parts() -> tuple[Select[Any], ...]:
    """List the rows that count, table by table."""
    nodes, instances, migrations, services = COMPUTE_NODES.c, INSTANCES.c, MIGRATIONS.c, SERVICES.c
    gone_nodes, gone_instances = COMPUTE_NODES.alias("gone_nodes"), INSTANCES.alias("gone_instances")
    # Deleted ones count while something of them may be left in the scheduler; those with an index find them.
    left = [
        select(table).where(GONE, table.c.host == _HOST, flag.is_(False))
        for table, flag in ((COMPUTE_NODES, nodes.provider_deleted), (INSTANCES, instances.allocations_released))
    ]
    # One whose uuid is in use again, wherever, is left no more.
    reborn = [
        select(table.c.uuid).where(
            ALIVE,
            table.c.uuid.in_(select(old.c.uuid).where(old.c.host == _HOST, old.c.deleted != _ZERO, flag.is_(False))),
        )
        for table, old, flag in (
            (COMPUTE_NODES, gone_nodes, gone_nodes.c.provider_deleted),
            (INSTANCES, gone_instances, gone_instances.c.allocations_released),
        )
    ]
    mine = select(nodes.id).where(ALIVE, nodes.host == _HOST)
    sides = [
        select(migrations.id).where(IN_PLAY, column == _HOST)
        for column in (migrations.source_compute, migrations.dest_compute)
    ]
    moving = select(migrations.instance_uuid).where(migrations.id.in_(union(*sides)))
    away = or_(GONE, instances.host.is_distinct_from(_HOST))
    # What moves elsewhere counts with its devices; they are on other hosts' nodes.
    holding = select(PCI_DEVICES).where(PCI_DEVICES.c.instance_uuid.in_(moving))
    served = (services.uuid, services.disabled, services.disabled_reason, services.forced_down, services.pool)
    return (
        select(*served).where(services.host == _HOST, services.binary == literal_column(f"'{BINARY}'")),
        select(COMPUTE_NODES).where(ALIVE, nodes.host == _HOST),
        select(INSTANCES).where(ALIVE, instances.host == _HOST),
        *left,
        *reborn,
        select(PCI_DEVICES).where(PCI_DEVICES.c.compute_node_id.in_(mine)),
        holding,
        select(MIGRATIONS).where(migrations.id.in_(union(*sides))),
        # Apart from each other, because no database serves an OR from two indexes.
        select(INSTANCES).where(Among(instances.uuid, _STRANGERS), away),
        select(INSTANCES).where(instances.uuid.in_(moving), away),
    )


@cache
def _postgresql() -> str:
    """Write the statement that digests all parts where they are."""
    digests = []
    for part in _parts():
        first = next(iter(part.selected_columns))
        rows = part.order_by(first).subquery("one")
        text: ColumnElement[str] = literal_column("CAST(one AS text)")
        whole = select(func.md5(func.string_agg(text, literal_column("','")))).select_from(rows)
        digests.append(func.coalesce(type_coerce(whole.scalar_subquery(), Text), literal_column("'-'")))
    statement = select(func.md5(func.concat_ws(literal_column("' '"), *digests)))
    return str(statement.compile(dialect=postgresql.psycopg.dialect()))  # type: ignore[no-untyped-call]
