"""
What a claim means to the scheduler, where stocktake is the one who schedules. Invariant: the ledger promised it before.

Rules: docs/accounting.md, "Allocations".
"""

from collections.abc import Mapping, Sequence

from stocktake.claims.books import Counted
from stocktake.model.allocation import NOBODY, Allocation
from stocktake.model.workload import Instance, Migration
from stocktake.placement.desired_allocations import wanted


def allocations_of(
    instance: Instance, migration: Migration | None, counted: Sequence[Counted], *, report_pci: bool
) -> tuple[Allocation, ...]:
    """
    Work out what an instance, and the migration it is or was in, should hold.

    Args:
        counted: every node that either has something of.
    """
    held: dict[str, dict[str, Mapping[str, int]]] = {instance.uuid: {}}
    if migration is not None and migration.uuid is not None:
        held[migration.uuid] = {}
    for one in counted:
        for consumer, resources in wanted(one.node, one.entries, one.devices, report_pci=report_pci).items():
            held.setdefault(consumer, {}).update(resources)
    return tuple(
        Allocation(
            consumer=consumer,
            kind="INSTANCE" if consumer == instance.uuid else "MIGRATION",
            project_id=instance.project_id or NOBODY,
            user_id=instance.user_id or NOBODY,
            resources=resources,
        )
        for consumer, resources in held.items()
    )
