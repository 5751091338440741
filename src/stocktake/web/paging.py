"""
Some of many. Invariant: a page begins after the last key of the one before, so that nothing that stays is lost or
doubled.

What comes or goes between two pages may be missed; it is never an error.
"""

from collections.abc import Callable, Iterable
from typing import Annotated, Generic, TypeVar

from msgspec import Meta

from stocktake.model.value import Value
from stocktake.web.calls import Query

T = TypeVar("T")
# So many come on a page unless asked otherwise.
PAGE_ITEMS = 1000

Key = tuple[str, ...]
# Before everything that is in a name, so that `node-1` comes before `node-10`.
_SEPARATOR = " "


class Page(Value, Generic[T], frozen=True, kw_only=True):
    """
    Some of many.

    Attributes:
        next: the `marker` that the next page begins after; None on the last.
    """

    items: tuple[T, ...]
    next: str | None = None


Limit = Annotated[int, Meta(ge=1, le=10_000, description="How many at most.")]
_BEFORE = Meta(description="The `next` of the page before; this one begins after it.")


class PageQuery(Query, frozen=True, kw_only=True):
    """Which page, and how long."""

    limit: Limit = PAGE_ITEMS
    marker: Annotated[Annotated[str, Meta(pattern="^[^\\u0000]+$", max_length=4096)] | None, _BEFORE] = None


class RowsQuery(Query, frozen=True, kw_only=True):
    """Which page, and how long, of what is in the order of its rows."""

    limit: Limit = PAGE_ITEMS
    marker: Annotated[Annotated[str, Meta(pattern="^[0-9]{1,15}$")] | None, _BEFORE] = None


def page_of(items: Iterable[T], key: Callable[[T], Key], query: PageQuery) -> Page[T]:
    """Cut a page out of items, in the order of their keys; a marker that is no item's is a place all the same."""
    keyed = sorted(((_SEPARATOR.join(key(item)), item) for item in items), key=lambda pair: pair[0])
    rest = [pair for pair in keyed if query.marker is None or pair[0] > query.marker]
    shown = rest[: query.limit]
    more = len(rest) > len(shown)
    return Page(items=tuple(item for _, item in shown), next=shown[-1][0] if more else None)


def row_after(query: RowsQuery) -> int:
    """Read the row that a page begins after; 0 is before the first."""
    return int(query.marker or 0)
