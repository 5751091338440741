"""
Claims that were never settled. Invariant: a running guest settles its claim; a claim that expires without one is
released.

Only rows are written here: the pass that asked counts them anew.
"""

import logging
from collections.abc import Mapping
from datetime import datetime

from stocktake.accounting import lifecycle
from stocktake.errors import InvalidInput
from stocktake.ledger import Ledger, Rows, Transaction, ledger_call
from stocktake.model.access import AGENTS
from stocktake.model.hypervisor import Host
from stocktake.model.value import Value, replace
from stocktake.model.workload import Instance, Migration
from stocktake.report.save import Books

LOG = logging.getLogger(__name__)


class ClaimExpiry(Value, frozen=True, kw_only=True):
    """
    The pending claims of a host, as they were read, that are to be settled: uuids of their instances.

    Attributes:
        running, stopped: their guests are there; a stopped one counts once its claim has expired.
        late: the claim has expired, and no guest is there.
        moving: the claim of a move has expired.
        own: stocktake writes allocations to the scheduler.
    """

    host: str
    running: frozenset[str] = frozenset()
    stopped: frozenset[str] = frozenset()
    late: frozenset[str] = frozenset()
    moving: frozenset[str] = frozenset()
    own: bool

    @property
    def uuids(self) -> list[str]:
        """All that it is about."""
        return sorted(self.running | self.stopped | self.late | self.moving)


@ledger_call(roles=AGENTS, rows=lambda it: Rows(hosts=[it.expiry.host], moving=it.expiry.uuids), writes=True)
def settle_expired(tx: Transaction, expiry: ClaimExpiry) -> tuple[str, ...]:
    """Settle what was neither settled nor renewed since it was read; give the uuids whose claims were released."""
    # Nodes before instances, as everybody locks; then all is read again.
    tx.lock(frozenset().union(*map(tx.whereabouts, expiry.uuids)))
    return tuple(uuid for uuid in expiry.uuids if _settle(tx, expiry, uuid))


def _settle(tx: Transaction, expiry: ClaimExpiry, uuid: str) -> bool:
    expired = False
    if uuid in expiry.moving:
        for move in tx.migrations_of(uuid):
            ours = expiry.host in (move.source_compute, move.dest_compute)
            if ours and _is_over(move.claim_expires_at, tx.now):
                expired |= _abort(tx, move)
    instance = tx.instance(uuid)
    if instance is None or instance.claim_expires_at is None or instance.host != expiry.host:
        return expired
    over = _is_over(instance.claim_expires_at, tx.now)
    if uuid in expiry.running or (uuid in expiry.stopped and over):
        _keep(tx, instance, running=uuid in expiry.running)
    elif uuid in expiry.late and over:
        expired |= _release(tx, instance, own=expiry.own)
    return expired


def settle_claims(ledger: Ledger, due: ClaimExpiry) -> list[str]:
    """Settle claims; give the uuids of the instances whose claims expired and were released."""
    expired = list(settle_expired(ledger, due))
    for uuid in expired:
        LOG.warning("a claim expired and was released", extra={"instance": uuid})
    return expired


def claims_due(
    hosts: Mapping[str, Host], books: Mapping[str, Books], *, host: str, now: datetime, own: bool
) -> ClaimExpiry:
    """Find the claims that a guest or the time settles."""
    running: set[str] = set()
    stopped: set[str] = set()
    late: set[str] = set()
    moving: set[str] = set()
    for node, book in books.items():
        moving |= {move.instance_uuid for move in book.work.migrations if _is_over(move.claim_expires_at, now)}
        pending = [instance for instance in book.work.instances if instance.claim_expires_at is not None]
        guests = {guest.uuid: guest for guest in hosts[node].guests or ()} if pending else {}
        for instance in pending:
            guest = guests.get(instance.uuid)
            if guest is not None and guest.active:
                running.add(instance.uuid)
            elif _is_over(instance.claim_expires_at, now):
                (late if guest is None else stopped).add(instance.uuid)
    return ClaimExpiry(
        host=host,
        running=frozenset(running),
        stopped=frozenset(stopped),
        late=frozenset(late),
        moving=frozenset(moving),
        own=own,
    )


def _is_over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


def _keep(tx: Transaction, instance: Instance, *, running: bool) -> None:
    if not lifecycle.is_claimed(instance):
        tx.change_instances([replace(instance, claim_expires_at=None)])
        return
    there = lifecycle.built(instance)
    tx.change_instances([there if running else replace(there, vm_state="stopped", power_state=4)])


def _release(tx: Transaction, instance: Instance, *, own: bool) -> bool:
    if not lifecycle.is_claimed(instance):
        # Somebody else, who knows nothing of claims, has said what it is: that is no claim any more.
        tx.change_instances([replace(instance, claim_expires_at=None)])
        return False
    if instance.vm_state == "shelved_offloaded":
        tx.change_instances([lifecycle.reshelved(instance)])
    else:
        tx.delete_instances([instance.uuid], released=not own)
    return True


def _abort(tx: Transaction, move: Migration) -> bool:
    instance = tx.instance(move.instance_uuid)
    settled = replace(move, claim_expires_at=None)
    if instance is None:
        # Its deleted record would hold the room for ever.
        tx.change_migrations([replace(settled, status="failed")])
        return True
    context = instance.migration_context
    if context is None or context.migration_id != move.id:
        # Not the one that the instance is in: nothing of the instance is its.
        tx.change_migrations([replace(settled, status="error")])
        return False
    try:
        step = lifecycle.aborted(instance, move)
    except InvalidInput:
        # Somebody else, who knows nothing of claims, has taken it on.
        tx.change_migrations([settled])
        return False
    assert step.migration is not None
    tx.change_instances([step.instance])
    tx.change_migrations([step.migration])
    for at, addresses in step.frees.items():
        tx.free_devices(instance.uuid, at.host, at.node, addresses)
    return True
