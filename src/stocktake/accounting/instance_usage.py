"""
Step 6: what one instance takes of one node. Invariant: it depends on that instance and its migrations, and on nobody
else.

That is why a claim may count one instance anew instead of all (`recount`), and still gives what `tally` gives.

Rules: docs/accounting.md, "Instances" and "Migrations".
"""

from collections.abc import Collection, Sequence

from stocktake.accounting import instances as instances_
from stocktake.accounting import migrations as migrations_
from stocktake.accounting.migrations import Move
from stocktake.model.books import Entry
from stocktake.model.problem import Problem
from stocktake.model.topology import GuestTopology
from stocktake.model.value import Value, replace
from stocktake.model.workload import Instance, Migration


class Holding(Value, frozen=True, kw_only=True):
    """An entry before it is placed: what it wants of the cells, and which PCI devices are its own."""

    entry: Entry
    numa: GuestTopology | None = None
    pci: tuple[str, ...] = ()


class Share(Value, frozen=True, kw_only=True):
    """
    How one instance counts on a node.

    Attributes:
        counted: the instance as it counts, its migration context applied; None if it does not count as an instance.
        move: the migration that counts; None if none does.
        leaving: the migration whose source side `counted` is; its allocation is the migration's.
        stale: ids of migrations that are to be set to `error`.
    """

    counted: Instance | None = None
    move: Move | None = None
    leaving: Migration | None = None
    stale: tuple[int, ...] = ()
    problems: tuple[Problem, ...] = ()


def share_of(instance: Instance, migrations: Sequence[Migration], host: str, node: str, *, here: bool) -> Share:
    """
    Work out how an instance counts on a node.

    Args:
        migrations: all in play that name it, and have this node as source or destination.
        here: it is on this node, by its record.
    """
    counted = instance if here and instances_.counts(instance) else None
    if not migrations:
        return Share(counted=counted)
    if counted is not None:
        (counted,) = migrations_.with_contexts((counted,), migrations, host, node)
    picked, stale = migrations_.chosen(migrations, {instance.uuid: instance})
    if not picked:
        return Share(counted=counted, stale=stale)
    (migration,) = picked
    already = {instance.uuid} if counted is not None else frozenset[str]()
    move, missing = migrations_.move_of(migration, instance, host, node, counted=already)
    problems = (Problem(code="flavor-missing", about=instance.uuid, text=missing),) if missing else ()
    leaving = migration if migrations_.takes_away(migration, instance, host, node) else None
    return Share(counted=counted, move=move, leaving=leaving, stale=stale, problems=problems)


def holdings_of(share: Share, held: Collection[str]) -> tuple[Holding, ...]:
    """
    Make the holdings of an instance: as itself, as a move, as both, or none.

    Args:
        held: addresses of the devices that it holds on this node.
    """
    counted, move = share.counted, share.move
    made: list[Holding] = []
    moved = set(move.pci_devices) if move else set()
    if counted is not None:
        entry = instances_.of_instance(counted)
        if share.leaving is not None:
            entry = replace(entry, consumer=share.leaving.uuid)
        made.append(Holding(entry=entry, numa=counted.numa_topology, pci=tuple(sorted(set(held) - moved))))
    if move is not None:
        consumer = move.instance.uuid if move.allocates else move.migration.uuid
        entry = instances_.of_flavor("migration", move.instance, move.flavor, why=move.why)
        mine = held if counted is None else moved & set(held)
        made.append(Holding(entry=replace(entry, consumer=consumer), numa=move.numa_topology, pci=tuple(sorted(mine))))
    return tuple(made)
