"""
What becomes of a claim: kept, finished, confirmed, reverted, given back. Invariant: what is settled once is settled.

A settled claim stands whatever the scheduler says: the next refresh tells it.
"""

from collections.abc import Callable

from stocktake.accounting import lifecycle
from stocktake.accounting.lifecycle import Step
from stocktake.claims.base import Desk, Done, Nodes
from stocktake.claims.books import count_anew
from stocktake.claims.nouns import Claimed
from stocktake.errors import NotNow
from stocktake.ledger import Transaction
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration


class Settling(Desk):
    """What becomes of claims, by the instance's uuid."""

    def keep(self, uuid: str) -> Claimed:
        """
        Settle the claim of a build or an unshelve: its machine is there. One that is settled already stays so.

        Raises:
            NotFound: no such instance; its claim may have expired.
            NotNow: the instance has no such claim.
        """

        def keep(books: Transaction, nodes: Nodes, before: Instance, _migration: Migration | None) -> Claimed:
            if before.vm_state == "active" and before.claim_expires_at is None:
                return Claimed(instance=before)
            return self.counted(books, nodes, Step(instance=lifecycle.built(before)))[0]

        return self.on(uuid, keep)

    def renew(self, uuid: str, *, expires_s: float | None = None) -> Claimed:
        """
        Let a pending claim, of a build or a move, live longer from now on; a settled one stays so.

        Raises:
            NotFound: no such instance; its claim may have expired.
        """

        def renew(books: Transaction, _nodes: Nodes, before: Instance, migration: Migration | None) -> Claimed:
            expires_at = self.expiry(books.now, expires_s)
            instance = before
            if before.claim_expires_at is not None:
                instance = replace(before, claim_expires_at=expires_at)
                books.change_instances([instance])
            if migration is not None and migration.claim_expires_at is not None:
                migration = replace(migration, claim_expires_at=expires_at)
                books.change_migrations([migration])
            return Claimed(instance=instance, migration=migration)

        return self.on(uuid, renew)

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
        return self.after(self.on(uuid, self.given_back))

    def release(self, uuid: str) -> Claimed:
        """
        Take a promise back, whatever its state: the instance is deleted, a move of it is over.

        Raises:
            NotFound: no such instance.
        """
        return self.after(self.on(uuid, self._deleted))

    def given_back(self, books: Transaction, nodes: Nodes, before: Instance, migration: Migration | None) -> Done:
        """Give a pending claim back in the books; the scheduler is not told."""
        if migration is not None:
            return self.counted(books, nodes, lifecycle.aborted(before, migration))
        if before.vm_state == "shelved_offloaded":
            return self.counted(books, nodes, Step(instance=lifecycle.reshelved(before)), released=True)
        if before.vm_state != "building":
            remedy = "To give back a settled one, release it."
            raise NotNow("the instance has no pending claim", where=before.uuid, remedy=remedy)
        return self._deleted(books, nodes, before, migration)

    def _settle(self, uuid: str, step: Callable[[Instance, Migration], Step]) -> Claimed:
        def settle(books: Transaction, nodes: Nodes, before: Instance, migration: Migration | None) -> Done:
            if migration is None:
                remedy = "`stocktake migrations` lists what moves; a move that nobody finished in time was given back."
                raise NotNow("the instance does not move", where=uuid, remedy=remedy)
            return self.counted(books, nodes, step(before, migration))

        return self.after(self.on(uuid, settle))

    def _deleted(self, books: Transaction, nodes: Nodes, before: Instance, migration: Migration | None) -> Done:
        if migration is not None:
            migration = replace(migration, status="failed", claim_expires_at=None)
            books.change_migrations([migration])
        books.delete_instances([before.uuid], released=not self._rules.own)
        counted = count_anew(books, nodes, before.uuid, None, None)
        gone = replace(before, deleted=True, deleted_at=books.now)
        return Claimed(instance=gone, migration=migration, nodes=tuple(one.node for one in counted)), counted
