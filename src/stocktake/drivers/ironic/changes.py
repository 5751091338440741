"""
Step 4: which nodes changed since the last listing, for a small request. Invariant: it only tells where to look again,
now.

Ironic has no list of changes, but it sorts: the nodes that were changed last come first, and so do the youngest. What
this can't see is seen by the next full listing: deletions, and changes behind more than a thousand nodes that were
never changed, where the database sorts those first (PostgreSQL).
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from stocktake.drivers.ironic.api import Listed, Order

# How many are asked for at first, and then if those are not enough.
PAGES: Final = (20, 200, 1000)

Dated = Sequence[tuple[Listed, str | None]]


class Latest(Protocol):
    """Gives so many nodes, those first that were changed or made last (or first), with the time of the last change."""

    def __call__(self, order: Order, limit: int, *, oldest: bool = False) -> Dated:
        """Ask Ironic."""
        ...


def changed(known: Mapping[str, Listed], latest: Latest) -> dict[str, Listed]:
    """Find the nodes that are not as they are known, by uuid; nearly always by two small requests."""
    return {**_made(known, latest), **_changed(known, latest)}


def _made(known: Mapping[str, Listed], latest: Latest) -> dict[str, Listed]:
    found: dict[str, Listed] = {}
    for limit in PAGES:
        page = latest("created_at", limit)
        found.update(_news(page, known))
        if _is_enough(page, limit, found):
            break
    return found


def _changed(known: Mapping[str, Listed], latest: Latest) -> dict[str, Listed]:
    found: dict[str, Listed] = {}
    for limit in PAGES:
        page = latest("updated_at", limit)
        found.update(_news(page, known))
        if page and page[0][1] is None:
            # Nodes that were never changed come first: either there are no others, or they hide them.
            first = latest("updated_at", 1, oldest=True)
            if not first or first[0][1] is None:
                break
            if page[-1][1] is None and len(page) == limit:
                continue
        if _is_enough(page, limit, found):
            break
    return found


def _news(page: Dated, known: Mapping[str, Listed]) -> dict[str, Listed]:
    return {node.uuid: node for node, _ in page if known.get(node.uuid) != node}


def _is_enough(page: Dated, limit: int, found: Mapping[str, Listed]) -> bool:
    """Say whether nothing new can come after a page: it is the last, or its last node is as it is known."""
    return len(page) < limit or page[-1][0].uuid not in found
