"""
Step 7b: whose a provider is. Invariant: what is Nova's, or held by somebody unknown, is neither written nor deleted.

Asked only where something of a provider that exists is to be written or deleted: a steady pass asks nothing.
"""

import logging
from collections.abc import Iterable

from stocktake.errors import PlacementError, ProviderNotOurs
from stocktake.model.provider import Found
from stocktake.placement.allocations import below, delete_tree, read_held
from stocktake.placement.plan import Foreign, foreign
from stocktake.placement.providers import NameTaken, list_tree, read_found
from stocktake.placement.scheduler import Guard
from stocktake.placement.session import PlacementSession

LOG = logging.getLogger(__name__)
_NAMED_MAX = 5


def check_ours(session: PlacementSession, guard: Guard, root: str, found: Iterable[Found]) -> None:
    """
    See to it that providers of one tree, read with their traits, are ours.

    Raises:
        ProviderNotOurs: one is not; names its trait or who holds something of it.
    """
    theirs = find_foreign(session, guard, found)
    if theirs is None:
        return
    if root == guard.forced:
        LOG.warning("by --force-provider %s: %s", root, _why(theirs), extra={"provider": theirs.uuid})
        return
    raise ProviderNotOurs(_why(theirs), where=theirs.name, remedy=_remedy(theirs))


def find_foreign(session: PlacementSession, guard: Guard, found: Iterable[Found]) -> Foreign | None:
    """Give the first provider that is not ours; who holds something is read only if no trait tells."""
    looked_at = tuple(found)
    by_trait = foreign(looked_at, {})
    if by_trait is not None:
        return by_trait
    held, _ = read_held(session, [there.uuid for there in looked_at])
    # Asked after reading: what a claim had written by then was in the ledger before.
    unknown = held.keys() - guard.known(frozenset(held)) if held else frozenset[str]()
    return foreign(looked_at, {one.uuid: {who for who in unknown if one.uuid in held[who]} for one in looked_at})


def delete_ours(session: PlacementSession, guard: Guard, root_uuid: str) -> None:
    """
    Delete a provider and all below it with what is held of them, or nothing at all.

    Raises:
        ProviderNotOurs: one of them is not ours; nothing was deleted.
        PlacementConflict: somebody allocated meanwhile.
    """
    doomed = below(list_tree(session, root_uuid), root_uuid)
    read = (read_found(session, one) for one in doomed)
    check_ours(session, guard, root_uuid, [there for there in read if there is not None])
    delete_tree(session, doomed)


def clash(session: PlacementSession, guard: Guard, taken: NameTaken) -> PlacementError:
    """Say what to do about a name that another provider has: to take its uuid only if it is ours."""
    there = read_found(session, taken.by)
    theirs = find_foreign(session, guard, [there] if there is not None else [])
    if theirs is not None:
        what = f"{taken.what}; {_why(theirs)}"
        remedy = "Give this node another name, or stocktake a Placement of its own; nothing of that one was written."
        return ProviderNotOurs(what, where=taken.where, remedy=remedy)
    remedy = (
        f"If {taken.by.uuid} is this node under another uuid, put that uuid into compute_id; if it is a leftover, "
        f"delete it (openstack resource provider delete {taken.by.uuid})."
    )
    return PlacementError(taken.what, where=taken.where, remedy=remedy)


def _why(theirs: Foreign) -> str:
    head = f"provider {theirs.uuid} is not ours to write"
    if theirs.trait:
        return f"{head}: it has the trait {theirs.trait}"
    named = ", ".join(theirs.consumers[:_NAMED_MAX])
    more = f" and {len(theirs.consumers) - _NAMED_MAX} more" if len(theirs.consumers) > _NAMED_MAX else ""
    return f"{head}: consumers that the ledger does not know hold something of it: {named}{more}"


def _remedy(theirs: Foreign) -> str:
    if theirs.trait:
        return "A Nova keeps it: leave this host to that Nova, or give stocktake a Placement of its own."
    return (
        "If a Nova keeps this host, leave it to that Nova. If they are leftovers, delete them (openstack resource "
        "provider allocation delete UUID); if they are instances of a lost ledger, import its export."
    )
