"""
Claims that nobody settled. Invariant: a guest that is there settles its claim; what has expired without one is given
back.

Only rows are written here: the pass that asked counts them anew.
"""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from stocktake.accounting import lifecycle
from stocktake.errors import InvalidInput
from stocktake.ledger import Transaction
from stocktake.model.hypervisor import Host
from stocktake.model.value import Value, replace
from stocktake.model.workload import Instance, Migration
from stocktake.refresh.context import Context, Pass
from stocktake.report.save import Books

LOG = logging.getLogger(__name__)


class ClaimExpiry(Value, frozen=True, kw_only=True):
    """
    What becomes of pending claims of a host: uuids of the instances whose claims, as they were read, are to be settled.

    Attributes:
        running, stopped: their guests are there; a stopped one counts once its claim has expired.
        late: the claim has expired, and no guest is there.
        moving: the claim of a move has expired.
        own: stocktake writes allocations to the scheduler.
    """

    answer: ClassVar[Any] = tuple[str, ...]

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

    def run(self, held: Transaction) -> tuple[str, ...]:
        """Settle what nobody did or renewed since it was read; give the uuids of those that gave a claim back."""
        # Nodes before instances, as everybody locks; then all is read again.
        held.lock(frozenset().union(*map(held.whereabouts, self.uuids)))
        return tuple(uuid for uuid in self.uuids if self._settle(held, uuid))

    def _settle(self, held: Transaction, uuid: str) -> bool:
        expired = False
        if uuid in self.moving:
            for move in held.migrations_of(uuid):
                ours = self.host in (move.source_compute, move.dest_compute)
                if ours and _is_over(move.claim_expires_at, held.now):
                    expired |= _abort(held, move)
        instance = held.instance(uuid)
        if instance is None or instance.claim_expires_at is None or instance.host != self.host:
            return expired
        over = _is_over(instance.claim_expires_at, held.now)
        if uuid in self.running or (uuid in self.stopped and over):
            _keep(held, instance, running=uuid in self.running)
        elif uuid in self.late and over:
            expired |= _give_back(held, instance, own=self.own)
        return expired


def settle_claims(context: Context, hosts: Mapping[str, Host], books: Mapping[str, Books], result: Pass) -> bool:
    """Keep the claims whose guests have appeared, give back those that have expired; say whether there were any."""
    due = _due(context, hosts, books)
    if not due.uuids:
        return False
    expired = context.ledger.held(due)
    result.expired.extend(expired)
    for uuid in expired:
        LOG.warning("a claim that nobody settled was given back", extra={"instance": uuid})
    return True


def _due(context: Context, hosts: Mapping[str, Host], books: Mapping[str, Books]) -> ClaimExpiry:
    """Find the claims that a guest or the time settles."""
    now = context.clock.now()
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
        host=context.rules.host,
        running=frozenset(running),
        stopped=frozenset(stopped),
        late=frozenset(late),
        moving=frozenset(moving),
        own=context.settings.allocations == "own",
    )


def _is_over(expires_at: datetime | None, now: datetime) -> bool:
    return expires_at is not None and expires_at <= now


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
