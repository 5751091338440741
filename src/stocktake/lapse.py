"""
Claims that nobody settled. Law: a guest that is there settles its claim; what has expired without one is given back.

Only rows are written here: the pass that asked counts them anew.
"""

import logging
from collections.abc import Mapping
from datetime import datetime

from stocktake.accounting import lifecycle
from stocktake.ledger import Transaction
from stocktake.model.hypervisor import Guest, Host
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration
from stocktake.parts import Parts, Pass
from stocktake.report import Books

LOG = logging.getLogger(__name__)


def settle_claims(parts: Parts, hosts: Mapping[str, Host], books: Mapping[str, Books], result: Pass) -> bool:
    """Keep the claims whose guests have appeared, give back those that have expired; say whether there were any."""
    now = parts.clock.now()
    settled: list[str] = []
    expired: list[str] = []
    for node, book in books.items():
        guests = {guest.uuid: guest for guest in hosts[node].guests or ()}
        for instance in book.work.instances:
            outcome = _outcome(instance, guests.get(instance.uuid), now)
            if outcome is not None:
                (settled if outcome else expired).append(instance.uuid)
        expired += [move.instance_uuid for move in book.work.migrations if _is_over(move.claim_expires_at, now)]
    if not (settled or expired):
        return False
    active = {guest.uuid for host in hosts.values() for guest in host.guests or () if guest.active}
    with parts.ledger.transaction() as held:
        for uuid in sorted(set(settled)):
            _keep(held, uuid, running=uuid in active)
        for uuid in sorted(set(expired)):
            _give_back(held, uuid, now, own=parts.settings.allocations == "own")
    result.expired.extend(sorted(set(expired)))
    for uuid in result.expired:
        LOG.warning("a claim that nobody settled was given back", extra={"instance": uuid})
    return True


def _outcome(instance: Instance, guest: Guest | None, now: datetime) -> bool | None:
    """Say what becomes of a pending claim: True, its machine is there; False, it has expired; None, nothing yet."""
    if instance.claim_expires_at is None:
        return None
    if guest is not None and guest.active:
        return True
    if not _is_over(instance.claim_expires_at, now):
        return None
    return guest is not None


def _is_over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


def _keep(held: Transaction, uuid: str, *, running: bool) -> None:
    instance = held.instance(uuid)
    # Somebody may have settled it, or given it back, since it was read.
    if instance is not None and instance.claim_expires_at is not None:
        there = lifecycle.built(instance)
        held.change_instances([there if running else replace(there, vm_state="stopped", power_state=4)])


def _give_back(held: Transaction, uuid: str, now: datetime, *, own: bool) -> None:
    instance = held.instance(uuid)
    if instance is None:
        return
    moves = held.migrations_of(uuid)
    for move in moves:
        if _is_over(move.claim_expires_at, now):
            _abort(held, instance, move)
    if not _is_over(instance.claim_expires_at, now):
        return
    if instance.vm_state == "shelved_offloaded":
        held.change_instances([lifecycle.reshelved(instance)])
    else:
        held.delete_instances([uuid], released=not own)


def _abort(held: Transaction, instance: Instance, move: Migration) -> None:
    context = instance.migration_context
    if context is None or context.migration_id != move.id:
        # Not the one that the instance is in: nothing of the instance is its.
        held.change_migrations([replace(move, status="error", claim_expires_at=None)])
        return
    step = lifecycle.aborted(instance, move)
    assert step.migration is not None
    held.change_instances([step.instance])
    held.change_migrations([step.migration])
    for at, addresses in step.frees.items():
        held.free_devices(instance.uuid, at.host, at.node, addresses)
