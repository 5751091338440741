"""
Claim room: for a build, an unshelve, a move. Invariant: nothing is allocated twice, whoever claims at once, from
wherever.

Each call is one transaction on the rows of the nodes it touches; the scheduler, if it is ours to tell, is told after
it, and what it refuses is taken back. A crash between the two is put right by the next refresh.
"""

import logging
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import TypeVar

from stocktake.accounting import lifecycle
from stocktake.accounting.lifecycle import Location, MoveKind, Step
from stocktake.accounting.node_availability import is_alive
from stocktake.claims.nouns import Claimed, ClaimRules, Refused, Request
from stocktake.claims.recount import RecountedNode, allocations_of, location_of, recount
from stocktake.claims.room import find_room
from stocktake.clock import Clock, Ids
from stocktake.errors import (
    AlreadyThere,
    LedgerError,
    LedgerUnreachable,
    NotFound,
    NotNow,
    OutcomeUnknown,
    PlacementConflict,
    StocktakeError,
)
from stocktake.ledger import DatabaseLedger, Transaction
from stocktake.model.books import ComputeNode
from stocktake.model.fitting import Limits, NoRoom
from stocktake.model.provider import Allocation
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration
from stocktake.placement import Scheduler

LOG = logging.getLogger(__name__)
TRIES = 5
NEVER_S = math.inf
# A calendar ends; a claim that is to outlive this may as well never expire.
LONGEST_S = 100 * 365.25 * 86_400

T = TypeVar("T")
Nodes = Mapping[str, ComputeNode]
Done = tuple[Claimed, tuple[RecountedNode, ...]]


class Claims:
    """
    Claims on the nodes of a ledger. Threads may share one; processes on any machine may claim at once.

    Every call raises LedgerUnreachable or LedgerError as the ledger's calls do; then nothing was claimed, unless it is
    an OutcomeUnknown.
    """

    def __init__(self, ledger: DatabaseLedger, scheduler: Scheduler, rules: ClaimRules, clock: Clock, ids: Ids) -> None:
        self._ledger = ledger
        self._scheduler = scheduler
        self._rules = rules
        self._clock = clock
        self._ids = ids

    @property
    def expiry_s(self) -> float:
        """After how many seconds a claim that nobody settled is given back."""
        return self._rules.expiry_s

    def build(
        self, node: str, request: Request, *, limits: Limits | None = None, expires_s: float | None = None
    ) -> Claimed | Refused:
        """
        Claim room for a machine that is to be built. A repeat, with the same uuid and content, is the same claim.

        Args:
            node: its name or uuid.
            limits: how far the node may be filled; None is unlimited but for NUMA cells and PCI devices.
            expires_s: after how long the claim is given back if nobody settles it; None takes the setting's time,
                `NEVER_S` keeps it for ever.

        Raises:
            NotFound: no such node.
            InvalidData: an extra spec of the flavor can't be read.
            AlreadyThere: an instance of that uuid is there already, with other content; says what differs.
            NotFound: it expired before the scheduler was told of it.
            PlacementUnreachable, PlacementError: the scheduler could not be told; nothing was claimed.
        """
        node_uuid = self._ledger.node_uuid(node)
        flavor = replace(request.flavor, id=lifecycle.flavor_id(request.flavor))
        uuid = request.uuid or self._ids.uuid()

        def claim(tx: Transaction) -> Done | Refused:
            nodes = tx.hold([node_uuid])
            record = nodes[node_uuid]
            there = tx.instance(uuid) if request.uuid is not None else None
            if there is not None:
                _check_same(there, request, flavor, location_of(record))
                return _claimed_again(tx, nodes, there)
            room = find_room(tx, record, flavor, self._rules, limits, volume_backed=request.volume_backed)
            if isinstance(room, Refused):
                return room
            instance = replace(
                _asked(uuid, request, flavor, location_of(record)),
                numa_topology=room.numa,
                pci_devices=tuple(sorted(room.takes)),
                claim_expires_at=self._expires_at(tx.now, expires_s),
                created_at=tx.now,
            )
            tx.put_instances([instance])
            counted = recount(tx, nodes, uuid, instance, None, takes={node_uuid: room.takes})
            return Claimed(instance=instance, nodes=tuple(one.node for one in counted)), counted

        done: Done | Refused | None = None
        try:
            with self._ledger.transaction() as tx:
                done = claim(tx)
        except OutcomeUnknown as error:
            if done is None or not self._was_claimed(node_uuid, uuid, error):
                what = "the connection was lost before it was claimed: nothing was"
                raise LedgerUnreachable(what, where=error.where, remedy="Claim again.") from error
        return self._allocate_new(done)

    def unshelve(
        self, uuid: str, node: str, *, limits: Limits | None = None, expires_s: float | None = None
    ) -> Claimed | Refused:
        """
        Claim room for an instance that was shelved and offloaded; see `build`.

        Raises:
            NotFound: no such instance or node.
            NotNow: the instance is in another state.
        """
        node_uuid = self._ledger.node_uuid(node)

        def claim(tx: Transaction, nodes: Nodes, before: Instance, _migration: Migration | None) -> Done | Refused:
            record, expires_at = nodes[node_uuid], self._expires_at(tx.now, expires_s)
            lifecycle.unshelving(before, location_of(record), None, expires_at)
            room = find_room(tx, record, before.flavor, self._rules, limits, volume_backed=before.volume_backed)
            if isinstance(room, Refused):
                return room
            instance = lifecycle.unshelving(before, location_of(record), room.numa, expires_at)
            return self._recount(tx, nodes, Step(instance=instance), takes={node_uuid: room.takes})

        done = self._locked(uuid, claim, also=(node_uuid,))
        return self._allocate_new(done)

    def move(
        self,
        uuid: str,
        kind: MoveKind,
        node: str,
        *,
        flavor: Flavor | None = None,
        limits: Limits | None = None,
        expires_s: float | None = None,
        force: bool = False,
        migration_uuid: str | None = None,
    ) -> Claimed | Refused:
        """
        Claim room at the destination of a move, which may be the node that the instance is on; see `build`.

        Args:
            flavor: of a resize, what it is to have; other kinds keep theirs.
            force: evacuate although the agent of the source is alive.
            migration_uuid: a repeat with the same is the same move; None makes a new one.

        Raises:
            NotFound: no such instance or node.
            NotNow: the instance's state does not go with this kind of move.
            InvalidInput: the destination or the flavor does not.
            AlreadyThere: there was another move of that uuid.
        """
        node_uuid = self._ledger.node_uuid(node)
        move_uuid = migration_uuid or self._ids.uuid()

        def claim(tx: Transaction, nodes: Nodes, before: Instance, moving: Migration | None) -> Done | Refused:
            record = nodes[node_uuid]
            if moving is not None and moving.uuid == move_uuid:
                return _moved_again(tx, nodes, before, moving, (kind, location_of(record), flavor))
            source, dest = Location(host=before.host or "", node=before.node or ""), location_of(record)
            lifecycle.check_move(before, kind, source, dest, flavor)
            if kind == "evacuation" and not force:
                self._check_down(source.host)
            same_pages = before.numa_topology if kind == "live-migration" else None
            wanted, backed = flavor or before.flavor, before.volume_backed
            room = find_room(tx, record, wanted, self._rules, limits, volume_backed=backed, same_pages=same_pages)
            if isinstance(room, Refused):
                return room
            step = lifecycle.begun(
                before,
                kind,
                dest,
                flavor=flavor,
                numa=room.numa,
                devices=tuple(sorted(room.takes)),
                migration_id=tx.next_migration_id(),
                migration_uuid=move_uuid,
                expires_at=self._expires_at(tx.now, expires_s),
            )
            assert step.migration is not None
            tx.put_migrations([replace(step.migration, created_at=tx.now, updated_at=tx.now)])
            return self._recount(tx, nodes, step, takes={node_uuid: room.takes})

        return self._allocate_new(self._repeated(lambda: self._locked(uuid, claim, also=(node_uuid,)), move_uuid))

    def keep(self, uuid: str) -> Claimed:
        """
        Settle the claim of a build or an unshelve: its machine is there. One that is settled already stays so.

        Raises:
            NotFound: no such instance; its claim may have expired.
            NotNow: the instance has no such claim.
        """

        def keep(tx: Transaction, nodes: Nodes, before: Instance, _migration: Migration | None) -> Claimed:
            if before.vm_state == "active" and before.claim_expires_at is None:
                return Claimed(instance=before)
            return self._recount(tx, nodes, Step(instance=lifecycle.built(before)))[0]

        return self._locked(uuid, keep)

    def renew(self, uuid: str, *, expires_s: float | None = None) -> Claimed:
        """
        Let a pending claim, of a build or a move, live longer from now on; a settled one stays so.

        Raises:
            NotFound: no such instance; its claim may have expired.
        """

        def renew(tx: Transaction, _nodes: Nodes, before: Instance, migration: Migration | None) -> Claimed:
            expires_at = self._expires_at(tx.now, expires_s)
            instance = before
            if before.claim_expires_at is not None:
                instance = replace(before, claim_expires_at=expires_at)
                tx.change_instances([instance])
            if migration is not None and migration.claim_expires_at is not None:
                migration = replace(migration, claim_expires_at=expires_at)
                tx.change_migrations([migration])
            return Claimed(instance=instance, migration=migration)

        return self._locked(uuid, renew)

    def finish(self, uuid: str) -> Claimed:
        """
        Take a moving instance to its destination: its machine is there.

        A resize or a cold migration holds both sides until `confirm` or `revert`; others are over.

        Raises:
            NotFound: no such instance; of an expired move the instance is where it was.
            NotNow: it does not move, or the move is finished.
        """
        return self._settle(uuid, lifecycle.finished)

    def confirm(self, uuid: str) -> Claimed:
        """
        Let go what a finished move holds at its source.

        Raises:
            NotFound: no such instance.
            NotNow: it is in no finished move.
        """
        return self._settle(uuid, lifecycle.confirmed)

    def revert(self, uuid: str) -> Claimed:
        """
        Take the instance of a finished move back to its source, and let go what it holds at its destination.

        Raises:
            NotFound: no such instance.
            NotNow: it is in no finished move.
        """
        return self._settle(uuid, lifecycle.reverted)

    def abort(self, uuid: str) -> Claimed:
        """
        Give a pending claim back: of a build, an unshelve or a move that is not finished.

        Raises:
            NotFound: no such instance; its claim may have expired.
            NotNow: there is no pending claim.
        """
        return self._allocate_settled(self._locked(uuid, self._give_back))

    def release(self, uuid: str) -> Claimed:
        """
        Release an instance, whatever its state: it is deleted, a move of it is over.

        Raises:
            NotFound: no such instance.
        """
        return self._allocate_settled(self._locked(uuid, self._delete))

    def _was_claimed(self, node_uuid: str, uuid: str, lost: OutcomeUnknown) -> bool:
        """
        Find out what became of a claim whose COMMIT was not answered: its node's row is free once it has ended.

        Raises:
            OutcomeUnknown: nobody answers.
        """
        try:
            with self._ledger.transaction() as tx:
                tx.hold([node_uuid])
                return tx.instance(uuid) is not None
        except LedgerUnreachable as error:
            remedy = f"It may have been claimed: claim it again with the uuid {uuid}, which claims once."
            raise OutcomeUnknown(lost.what, where=lost.where, remedy=remedy) from error

    def _repeated(self, work: Callable[[], T], move_uuid: str) -> T:
        """
        Do what may be repeated, and again if its COMMIT was not answered.

        Raises:
            OutcomeUnknown: nobody answers; names the move.
        """
        try:
            return work()
        except OutcomeUnknown as lost:
            try:
                return work()
            except LedgerUnreachable as error:
                remedy = (
                    f"It may have begun: `stocktake migrations` shows whether there is one of the uuid {move_uuid}."
                )
                raise OutcomeUnknown(lost.what, where=lost.where, remedy=remedy) from error

    def _check_down(self, host: str) -> None:
        """Refuse to rebuild a machine elsewhere while its host is up: it would run twice."""
        service = self._ledger.service(host)
        if service is not None and is_alive(service, self._clock.now(), self._rules.down_s):
            remedy = "Stop that agent and fence the host first, or take a live migration; `--force` if you know better."
            raise NotNow("its agent is alive: the machine would run twice", where=host, remedy=remedy)

    def _give_back(self, tx: Transaction, nodes: Nodes, before: Instance, migration: Migration | None) -> Done:
        """Give a pending claim back in the ledger; the scheduler is not told."""
        if migration is not None:
            return self._recount(tx, nodes, lifecycle.aborted(before, migration))
        if before.vm_state == "shelved_offloaded":
            return self._recount(tx, nodes, Step(instance=lifecycle.reshelved(before)), released=True)
        if before.vm_state != "building":
            remedy = "To give back a settled one, release it."
            raise NotNow("the instance has no pending claim", where=before.uuid, remedy=remedy)
        return self._delete(tx, nodes, before, migration)

    def _settle(self, uuid: str, step: Callable[[Instance, Migration], Step]) -> Claimed:
        def settle(tx: Transaction, nodes: Nodes, before: Instance, migration: Migration | None) -> Done:
            if migration is None:
                remedy = "`stocktake migrations` lists what moves; a move that was not finished in time was given back."
                raise NotNow("the instance has no move in progress", where=uuid, remedy=remedy)
            return self._recount(tx, nodes, step(before, migration))

        return self._allocate_settled(self._locked(uuid, settle))

    def _delete(self, tx: Transaction, nodes: Nodes, before: Instance, migration: Migration | None) -> Done:
        if migration is not None:
            migration = replace(migration, status="failed", claim_expires_at=None)
            tx.change_migrations([migration])
        tx.delete_instances([before.uuid], released=not self._rules.own)
        counted = recount(tx, nodes, before.uuid, None, None)
        gone = replace(before, deleted=True, deleted_at=tx.now)
        return Claimed(instance=gone, migration=migration, nodes=tuple(one.node for one in counted)), counted

    def _recount(
        self,
        tx: Transaction,
        nodes: Nodes,
        step: Step,
        *,
        takes: Mapping[str, Mapping[str, str]] | None = None,
        released: bool = False,
    ) -> Done:
        """Write the instance and its migration, and count it anew on all nodes that either touches."""
        instance, migration = step.instance, step.migration
        tx.change_instances([instance])
        if migration is not None:
            tx.change_migrations([migration])
        counted = recount(
            tx, nodes, instance.uuid, None if released else instance, migration, frees=step.frees, takes=takes
        )
        records = tuple(one.node for one in counted)
        return Claimed(instance=instance, migration=migration, nodes=records), counted

    def _locked(
        self,
        uuid: str,
        work: Callable[[Transaction, Nodes, Instance, Migration | None], T],
        *,
        also: tuple[str, ...] = (),
    ) -> T:
        """
        Do something to an instance with the rows of all its nodes, and these, locked.

        Raises:
            NotFound: no such instance.
            LedgerError: it moved again and again meanwhile.
        """
        for _ in range(TRIES):
            with self._ledger.transaction() as tx:
                locked = tx.whereabouts(uuid) | set(also)
                nodes = tx.hold(locked) if locked else {}
                instance = tx.instance(uuid)
                if instance is None:
                    remedy = "`stocktake instances` lists them; a claim that was not settled in time was given back."
                    raise NotFound(f"no instance {uuid!r}", where="ledger", remedy=remedy)
                # It may have moved between the look and the lock.
                if tx.whereabouts(uuid) <= locked:
                    return work(tx, nodes, instance, _current(instance, tx.migrations_of(uuid)))
        raise LedgerError(f"the instance moved {TRIES} times meanwhile", where=uuid, remedy="Try again.")

    def _allocate_new(self, done: Done | Refused) -> Claimed | Refused:
        """
        Tell the scheduler of a new claim; what it refuses, or can't be told, is taken back in the ledger.

        Raises:
            NotFound: the claim had expired by the time that the scheduler was told; what it was told is taken back.
        """
        if isinstance(done, Refused):
            return done
        claimed, counted = done
        if not self._rules.own or not counted:
            return claimed
        try:
            missing = self._allocate(claimed, counted)
        except PlacementConflict as error:
            # Others were faster at every try: that is a lost race, and another node may do.
            missing = (NoRoom(what="scheduler.conflict", asked=1, free=0, total=1, text=error.what),)
        except StocktakeError:
            self._take_back(claimed.instance.uuid)
            raise
        if missing:
            self._take_back(claimed.instance.uuid)
            return Refused(node=counted[-1].node.hypervisor_hostname, reasons=missing, by="scheduler")
        if claimed.expires_at is not None and claimed.expires_at <= self._clock.now():
            self._take_back(claimed.instance.uuid)
            # The refresh that gave it back found nothing in the scheduler, and looks no more; what the instance itself
            # holds otherwise, the next refresh puts right.
            consumer = claimed.migration.uuid if claimed.migration else None
            self._scheduler.allocate((Allocation(consumer=consumer or claimed.instance.uuid),))
            what = "the claim expired before the scheduler was told of it"
            raise NotFound(what, where=claimed.instance.uuid, remedy="Claim again, or let claims live longer.")
        return claimed

    def _take_back(self, uuid: str) -> None:
        """Give a new claim back in the ledger, unless it has expired."""
        with suppress(NotFound, NotNow):
            self._locked(uuid, self._give_back)

    def _allocate_settled(self, done: Done) -> Claimed:
        """Tell the scheduler what was settled or given back: that stands, and a refresh tells what could not be."""
        claimed, counted = done
        if not self._rules.own:
            return claimed
        try:
            missing = self._allocate(claimed, counted)
        except StocktakeError as error:
            LOG.warning("the scheduler could not be updated: %s", error, extra={"instance": claimed.instance.uuid})
            return replace(claimed, unsynced=str(error))
        return replace(claimed, unsynced="; ".join(reason.text for reason in missing) or None)

    def _allocate(self, claimed: Claimed, counted: tuple[RecountedNode, ...]) -> tuple[NoRoom, ...]:
        instance, report_pci = claimed.instance, self._rules.report_pci
        return self._scheduler.allocate(
            allocations_of(instance, claimed.migration, counted, report_pci=report_pci),
        )

    def _expires_at(self, now: datetime, expires_s: float | None) -> datetime | None:
        """Work out when a claim expires: None is the setting's time, NEVER_S is never, longer than a life is a life."""
        seconds = self._rules.expiry_s if expires_s is None else expires_s
        return None if seconds == NEVER_S else now + timedelta(seconds=min(seconds, LONGEST_S))


def _current(instance: Instance, migrations: tuple[Migration, ...]) -> Migration | None:
    """Pick the migration that the instance is in."""
    context = instance.migration_context
    return next((one for one in migrations if context is not None and one.id == context.migration_id), None)


def _asked(uuid: str, request: Request, flavor: Flavor, place: Location) -> Instance:
    """Give the instance that is asked for, as far as the request says it."""
    return Instance(
        uuid=uuid,
        name=request.name,
        host=place.host,
        node=place.node,
        vm_state="building",
        task_state="spawning",
        project_id=request.project_id,
        user_id=request.user_id,
        os_type=request.os_type,
        flavor=flavor,
        instance_type_id=flavor.id,
        volume_backed=request.volume_backed,
    )


def _check_same(there: Instance, request: Request, flavor: Flavor, place: Location) -> None:
    """
    Check that what is claimed is what was claimed before with the same uuid.

    Raises:
        AlreadyThere: it is not; says what differs.
    """
    pairs = {
        "node": ((there.host, there.node), (place.host, place.node)),
        "flavor": (there.flavor, flavor),
        "name": (there.name, request.name),
        "volume_backed": (there.volume_backed, request.volume_backed),
        "project_id": (there.project_id, request.project_id),
        "user_id": (there.user_id, request.user_id),
        "os_type": (there.os_type, request.os_type),
    }
    differ = [name for name, (before, now) in pairs.items() if before != now]
    if differ:
        what = f"instance {there.uuid} is in the ledger already, with another {', '.join(differ)}"
        raise AlreadyThere(what, where="ledger", remedy="Repeat a claim with what it had, or claim with a new uuid.")


def _claimed_again(tx: Transaction, nodes: Nodes, there: Instance) -> Done:
    """Give what was claimed before. What is pending is counted again, so that the scheduler is told again."""
    if there.vm_state != "building":
        return Claimed(instance=there, nodes=tuple(nodes.values())), ()
    counted = recount(tx, nodes, there.uuid, there, None)
    return Claimed(instance=there, nodes=tuple(one.node for one in counted)), counted


def _moved_again(
    tx: Transaction,
    nodes: Nodes,
    before: Instance,
    migration: Migration,
    asked: tuple[MoveKind, Location, Flavor | None],
) -> Done:
    """
    Give the move that was claimed before with the same uuid; one that is pending is counted again, as a claim is.

    Raises:
        AlreadyThere: it is another kind of move, to another node, or to another flavor.
    """
    kind, dest, flavor = asked
    new = replace(flavor, id=lifecycle.flavor_id(flavor)) if flavor else None
    there = (migration.migration_type, migration.dest_compute, migration.dest_node, before.new_flavor)
    if there != (kind, dest.host, dest.node, new):
        what = f"migration {migration.uuid} is in the ledger already, of another kind, node or flavor"
        raise AlreadyThere(what, where="ledger", remedy="Repeat a move with what it had, or move with a new uuid.")
    if migration.claim_expires_at is None:
        return Claimed(instance=before, migration=migration, nodes=tuple(nodes.values())), ()
    counted = recount(tx, nodes, before.uuid, before, migration)
    return Claimed(instance=before, migration=migration, nodes=tuple(one.node for one in counted)), counted
