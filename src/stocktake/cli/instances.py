"""
`instances` and `migrations` of the ledger. Invariant: only the ledger is asked.
"""

from datetime import datetime
from functools import partial

import click

from stocktake.accounting.instance_usage import disk_mb
from stocktake.cli.commands import Command
from stocktake.cli.screen import Column, Row, TableCell, answer, answer_list
from stocktake.cli.session import Session
from stocktake.model.workload import Instance, Migration
from stocktake.views.finding import find_instance, find_node
from stocktake.views.quantities import gib, since


@click.command(
    "instances",
    cls=Command,
    example="""
    $ stocktake instances
    $ stocktake instances --node compute-7.example.org
    $ stocktake instances --deleted --json
    $ stocktake instances --delete 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10
    """,
)
@click.option("--host", metavar="HOST", help="Only those of this host's service.")
@click.option("--node", "node_name", metavar="NODE", help="Only those on this node.")
@click.option("--deleted", is_flag=True, help="Deleted ones too.")
@click.option("--delete", "doomed", metavar="UUID", help="Delete this one; the next refresh frees its room.")
@click.pass_obj
def instances_command(
    session: Session, host: str | None, node_name: str | None, doomed: str | None, *, deleted: bool
) -> int:
    """List the instances of the ledger, whether they run or not.

    --delete marks one's record as deleted. No guest is touched: one that still
    runs is an orphan from then on.
    """
    if doomed is not None:
        return _delete(session, doomed)
    if node_name is not None:
        node = find_node(session.ledger, node_name)
        host, node_name = host or node.host, node.hypervisor_hostname
    found = session.ledger.instances(host=host, node=node_name, deleted=deleted)
    instances = sorted(found, key=lambda instance: (instance.node or "", instance.name or "", instance.uuid))
    columns = (
        Column("UUID", weight=1),
        Column("NAME", shrinks=True),
        Column("NODE", shrinks=True, weight=5),
        Column("STATE"),
        Column("TASK", weight=3),
        Column("VCPUS", right=True, weight=4),
        Column("MEMORY GiB", right=True, weight=4),
        Column("DISK GB", right=True, weight=2),
    )
    advice = "Guests without an instance: `stocktake orphans`, `stocktake orphans adopt UUID`."
    return answer_list(session, instances, columns, _instance, empty="No instances.", advice=advice)


def _delete(session: Session, uuid: str) -> int:
    instance = find_instance(session.ledger, uuid)
    session.ledger.delete_instances([instance.uuid])
    text = f"Deleted {instance.name or instance.uuid} from the ledger."
    advice = "`stocktake refresh` frees its room now; a running agent does so by itself."
    return answer(session, {"deleted": instance.uuid}, text, advice=advice)


def _instance(instance: Instance) -> Row:
    state = "deleted" if instance.deleted else instance.vm_state or "unknown"
    return (
        instance.uuid,
        (instance.name or instance.uuid) + (" (adopted)" if instance.adopted else ""),
        instance.node or "none",
        TableCell(state, {"active": "green", "error": "red", "deleted": "dim"}.get(state, "")),
        instance.task_state or "",
        str(instance.flavor.vcpus),
        gib(instance.flavor.memory_mb),
        gib(disk_mb(instance.flavor, volume_backed=instance.volume_backed)),
    )


@click.command(
    "migrations",
    cls=Command,
    example="""
    $ stocktake migrations
    $ stocktake migrations --all
    """,
)
@click.option("--all", "everything", is_flag=True, help="Finished ones too: confirmed, completed, failed and so on.")
@click.pass_obj
def migrations_command(session: Session, *, everything: bool) -> int:
    """List the migrations in progress: they take room on source and destination."""
    found = session.ledger.migrations(all=everything)
    migrations = sorted(found, key=lambda migration: migration.id)
    columns = (
        Column("ID", right=True),
        Column("INSTANCE", weight=5),
        Column("TYPE", weight=3),
        Column("STATUS"),
        Column("FROM", shrinks=True),
        Column("TO", shrinks=True),
        Column("CHANGED", right=True, weight=2),
    )
    empty = "No migrations." if everything else "No migrations in progress."
    return answer_list(session, migrations, columns, partial(_migration, session.clock.now()), empty=empty)


def _migration(now: datetime, migration: Migration) -> Row:
    status = migration.status or "unknown"
    return (
        str(migration.id),
        migration.instance_uuid,
        migration.migration_type or "",
        TableCell(status, "red" if status == "error" else ""),
        migration.source_node or "",
        migration.dest_node or "",
        since(migration.updated_at or migration.created_at, now),
    )
