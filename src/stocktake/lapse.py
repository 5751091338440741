"""
Claims that nobody settled. Law: a guest that is there settles its claim; what has expired without one is given back.

Only rows are written here: the pass that asked counts them anew.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from stocktake.accounting import lifecycle
from stocktake.errors import InvalidInput
from stocktake.ledger import Transaction
from stocktake.model.hypervisor import Host
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration
from stocktake.parts import Parts, Pass
from stocktake.report import Books

LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Due:
    """
    Uuids of the instances whose claims, as they were read, are to be settled now.

    Attributes:
        running, stopped: their guests are there; a stopped one counts once its claim has expired.
        late: the claim has expired, and no guest is there.
        moving: the claim of a move has expired.
    """

    running: set[str] = field(default_factory=set)
    stopped: set[str] = field(default_factory=set)
    late: set[str] = field(default_factory=set)
    moving: set[str] = field(default_factory=set)


def settle_claims(parts: Parts, hosts: Mapping[str, Host], books: Mapping[str, Books], result: Pass) -> bool:
    """Keep the claims whose guests have appeared, give back those that have expired; say whether there were any."""
    now = parts.clock.now()
    due = _due(hosts, books, now)
    uuids = sorted(due.running | due.stopped | due.late | due.moving)
    if not uuids:
        return False
    own = parts.settings.allocations == "own"
    with parts.ledger.transaction() as held:
        # Nodes before instances, as everybody locks; then all is read again.
        held.lock(frozenset().union(*map(held.whereabouts, uuids)))
        expired = [uuid for uuid in uuids if _settle(held, uuid, due, now, own=own)]
    result.expired.extend(expired)
    for uuid in expired:
        LOG.warning("a claim that nobody settled was given back", extra={"instance": uuid})
    return True


def _due(hosts: Mapping[str, Host], books: Mapping[str, Books], now: datetime) -> _Due:
    """Find the claims that a guest or the time settles."""
    due = _Due()
    for node, book in books.items():
        due.moving |= {move.instance_uuid for move in book.work.migrations if _is_over(move.claim_expires_at, now)}
        pending = [instance for instance in book.work.instances if instance.claim_expires_at is not None]
        guests = {guest.uuid: guest for guest in hosts[node].guests or ()} if pending else {}
        for instance in pending:
            guest = guests.get(instance.uuid)
            if guest is not None and guest.active:
                due.running.add(instance.uuid)
            elif _is_over(instance.claim_expires_at, now):
                (due.late if guest is None else due.stopped).add(instance.uuid)
    return due


def _is_over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


def _settle(held: Transaction, uuid: str, due: _Due, now: datetime, *, own: bool) -> bool:
    """Settle an instance's claims, if nobody did or renewed them since they were read; say if one was given back."""
    expired = False
    if uuid in due.moving:
        for move in held.migrations_of(uuid):
            if _is_over(move.claim_expires_at, now):
                expired |= _abort(held, move)
    instance = held.instance(uuid)
    if instance is None or instance.claim_expires_at is None:
        return expired
    if uuid in due.running or (uuid in due.stopped and _is_over(instance.claim_expires_at, now)):
        _keep(held, instance, running=uuid in due.running)
    elif uuid in due.late and _is_over(instance.claim_expires_at, now):
        expired |= _give_back(held, instance, own=own)
    return expired


def _keep(held: Transaction, instance: Instance, *, running: bool) -> None:
    if not lifecycle.is_claimed(instance):
        held.change_instances([replace(instance, claim_expires_at=None)])
        return
    there = lifecycle.built(instance)
    held.change_instances([there if running else replace(there, vm_state="stopped", power_state=4)])


def _give_back(held: Transaction, instance: Instance, *, own: bool) -> bool:
    if not lifecycle.is_claimed(instance):
        # Somebody else, who knows nothing of claims, has said what it is: that is no claim any more.
        held.change_instances([replace(instance, claim_expires_at=None)])
        return False
    if instance.vm_state == "shelved_offloaded":
        held.change_instances([lifecycle.reshelved(instance)])
    else:
        held.delete_instances([instance.uuid], released=not own)
    return True


def _abort(held: Transaction, move: Migration) -> bool:
    instance = held.instance(move.instance_uuid)
    settled = replace(move, claim_expires_at=None)
    if instance is None:
        # Its deleted record would hold the room for ever.
        held.change_migrations([replace(settled, status="failed")])
        return True
    context = instance.migration_context
    if context is None or context.migration_id != move.id:
        # Not the one that the instance is in: nothing of the instance is its.
        held.change_migrations([replace(settled, status="error")])
        return False
    try:
        step = lifecycle.aborted(instance, move)
    except InvalidInput:
        # Somebody else, who knows nothing of claims, has taken it on.
        held.change_migrations([settled])
        return False
    assert step.migration is not None
    held.change_instances([step.instance])
    held.change_migrations([step.migration])
    for at, addresses in step.frees.items():
        held.free_devices(instance.uuid, at.host, at.node, addresses)
    return True
