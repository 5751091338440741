"""
Claims as context managers. Invariant: who leaves with an exception gives back what was claimed, whatever the
exception.

While the block runs, a thread renews the claim: a build may take as long as it takes, and one whose process was killed
is given back once the claim expires.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stocktake.accounting.lifecycle import MoveKind
from stocktake.claims.nouns import AnyClaims, Claimed, Refused, Request
from stocktake.errors import StocktakeError
from stocktake.model.fitting import Limits
from stocktake.model.workload import Flavor

LOG = logging.getLogger(__name__)
# A claim is renewed so many times before it would expire.
RENEWALS = 3


@contextmanager
def building(claims: AnyClaims, node: str, request: Request, *, limits: Limits | None = None) -> Iterator[Claimed]:
    """
    Claim room for a build, and keep it if the block ends well.

    Raises:
        ClaimRefused: there is no room; all reasons.
        StocktakeError: what `Claims.build`, `keep` and `release` raise.
    """
    # Its guest may have been seen, and the claim kept, before the block failed: it is given back all the same.
    yield from _settled(claims, claims.build(node, request, limits=limits), claims.keep, undo=claims.release)


@contextmanager
def moving(
    claims: AnyClaims,
    uuid: str,
    kind: MoveKind,
    node: str,
    *,
    flavor: Flavor | None = None,
    limits: Limits | None = None,
) -> Iterator[Claimed]:
    """
    Claim room at a move's destination, and finish the move if the block ends well.

    Raises:
        ClaimRefused: there is no room; all reasons.
        StocktakeError: what `Claims.move`, `finish` and `abort` raise.
    """
    yield from _settled(
        claims, claims.move(uuid, kind, node, flavor=flavor, limits=limits), claims.finish, undo=claims.abort
    )


@contextmanager
def renewed(claims: AnyClaims, uuid: str) -> Iterator[None]:
    """Renew an instance's pending claim for as long as the block runs."""
    over = threading.Event()
    thread = threading.Thread(target=_renew, args=(claims, uuid, over), name=f"claim-{uuid}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _settled(
    claims: AnyClaims, claimed: Claimed | Refused, settle: Callable[[str], Claimed], *, undo: Callable[[str], object]
) -> Iterator[Claimed]:
    if isinstance(claimed, Refused):
        raise claimed.error()
    uuid = claimed.instance.uuid
    try:
        with renewed(claims, uuid):
            yield claimed
    except BaseException:
        _give_back(undo, uuid)
        raise
    settle(uuid)


def _give_back(undo: Callable[[str], object], uuid: str) -> None:
    """Give back; what can't be given back now expires, and must not hide why it was to be."""
    try:
        undo(uuid)
    except StocktakeError as error:
        LOG.warning("the claim could not be given back and will expire: %s", error, extra={"instance": uuid})


def _renew(claims: AnyClaims, uuid: str, over: threading.Event) -> None:
    while not over.wait(claims.expiry_s / RENEWALS):
        try:
            claims.renew(uuid)
        except StocktakeError as error:
            LOG.warning("the claim could not be renewed: %s", error, extra={"instance": uuid})
