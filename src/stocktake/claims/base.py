"""
What every claim needs: the books held, one instance counted anew, the scheduler told. Invariant: rows are held to the
end.
"""

import logging
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from stocktake.accounting.lifecycle import Step
from stocktake.claims.allocations import allocations_of
from stocktake.claims.books import Counted, count_anew
from stocktake.claims.nouns import Claimed, ClaimRules, Refused
from stocktake.clock import Clock, Ids
from stocktake.errors import LedgerError, NotFound, StocktakeError
from stocktake.ledger import DatabaseLedger, Transaction
from stocktake.model.books import ComputeNode
from stocktake.model.fitting import NoRoom
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration
from stocktake.placement import Scheduler

LOG = logging.getLogger(__name__)
TRIES = 5
NEVER_S = math.inf
# A calendar ends; a claim that is to outlive this may as well never expire.
LONGEST_S = 100 * 365.25 * 86_400

T = TypeVar("T")
Nodes = Mapping[str, ComputeNode]
Done = tuple[Claimed, tuple[Counted, ...]]


class Desk:
    """The ledger, the scheduler and the rules, and what is done with them in every claim."""

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

    def counted(
        self,
        books: Transaction,
        nodes: Nodes,
        step: Step,
        *,
        takes: Mapping[str, Mapping[str, str]] | None = None,
        released: bool = False,
    ) -> Done:
        """Write the instance and its migration, and count it anew on all nodes that either touches."""
        instance, migration = step.instance, step.migration
        books.change_instances([instance])
        if migration is not None:
            books.change_migrations([migration])
        counted = count_anew(
            books, nodes, instance.uuid, None if released else instance, migration, frees=step.frees, takes=takes
        )
        records = tuple(one.node for one in counted)
        return Claimed(instance=instance, migration=migration, nodes=records), counted

    def on(
        self,
        uuid: str,
        work: Callable[[Transaction, Nodes, Instance, Migration | None], T],
        *,
        also: tuple[str, ...] = (),
    ) -> T:
        """
        Do something to an instance with the rows of all its nodes, and these, held.

        Raises:
            NotFound: no such instance.
            LedgerError: it moved again and again meanwhile.
        """
        for _ in range(TRIES):
            with self._ledger.transaction() as books:
                held = books.whereabouts(uuid) | set(also)
                nodes = books.hold(held) if held else {}
                instance = books.instance(uuid)
                if instance is None:
                    remedy = "`stocktake instances` lists them; a claim that nobody settled in time was given back."
                    raise NotFound(f"no instance {uuid!r}", where="ledger", remedy=remedy)
                # It may have moved between the look and the lock.
                if books.whereabouts(uuid) <= held:
                    return work(books, nodes, instance, _current(instance, books.migrations_of(uuid)))
        raise LedgerError(f"the instance moved {TRIES} times meanwhile", where=uuid, remedy="Try again.")

    def told(
        self, done: Done | Refused, *, undo: Callable[[Transaction, Nodes, Instance, Migration | None], Done]
    ) -> Claimed | Refused:
        """Tell the scheduler of a new claim; what it refuses, or can't be told, is taken back in the books."""
        if isinstance(done, Refused):
            return done
        claimed, counted = done
        if not self._rules.own:
            return claimed
        try:
            missing = self._allocate(claimed, counted)
        except StocktakeError:
            self.on(claimed.instance.uuid, undo)
            raise
        if not missing:
            return claimed
        self.on(claimed.instance.uuid, undo)
        return Refused(node=counted[-1].node.hypervisor_hostname, reasons=missing, by="scheduler")

    def after(self, done: Done) -> Claimed:
        """Tell the scheduler what was settled or given back: that stands, and a refresh tells what could not be."""
        claimed, counted = done
        if not self._rules.own:
            return claimed
        try:
            missing = self._allocate(claimed, counted)
        except StocktakeError as error:
            LOG.warning("the scheduler could not be told: %s", error, extra={"instance": claimed.instance.uuid})
            return replace(claimed, unsynced=str(error))
        return replace(claimed, unsynced="; ".join(reason.text for reason in missing) or None)

    def _allocate(self, claimed: Claimed, counted: tuple[Counted, ...]) -> tuple[NoRoom, ...]:
        instance, report_pci = claimed.instance, self._rules.report_pci
        return self._scheduler.allocate(
            allocations_of(instance, claimed.migration, counted, report_pci=report_pci),
        )

    def expiry(self, now: datetime, expires_s: float | None) -> datetime | None:
        """Work out when a claim expires: None is the setting's time, NEVER_S is never, longer than a life is a life."""
        seconds = self._rules.expiry_s if expires_s is None else expires_s
        return None if seconds == NEVER_S else now + timedelta(seconds=min(seconds, LONGEST_S))


def _current(instance: Instance, migrations: tuple[Migration, ...]) -> Migration | None:
    """Pick the migration that the instance is in."""
    context = instance.migration_context
    return next((one for one in migrations if context is not None and one.id == context.migration_id), None)
