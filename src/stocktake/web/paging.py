"""
Some of many. Law: a page begins after the last key of the one before, so that nothing that stays is lost or doubled.

What comes or goes between two pages may be missed; it is never an error.
"""

import base64
import binascii
from collections.abc import Callable, Iterable
from typing import Annotated, Generic, TypeVar

import msgspec
from msgspec import Meta

from stocktake.errors import InvalidInput
from stocktake.model.value import Value
from stocktake.web.calls import Query

T = TypeVar("T")
# So many come on a page unless asked otherwise.
PAGE_ITEMS = 1000

Key = tuple[str, ...]


class Page(Value, Generic[T], frozen=True, kw_only=True):
    """
    Some of many.

    Attributes:
        next: the `marker` that the next page begins after; None on the last.
    """

    items: tuple[T, ...]
    next: str | None = None


class PageQuery(Query, frozen=True, kw_only=True):
    """Which page, and how long."""

    limit: Annotated[int, Meta(ge=1, le=10_000, description="How many at most.")] = PAGE_ITEMS
    marker: Annotated[str | None, Meta(description="The `next` of the page before; the page begins after it.")] = None


def page_of(items: Iterable[T], key: Callable[[T], Key], query: PageQuery) -> Page[T]:
    """
    Cut a page out of items, in the order of their keys.

    Raises:
        InvalidInput: the marker is none of ours.
    """
    after = _key_of(query.marker) if query.marker is not None else None
    keyed = sorted(((key(item), item) for item in items), key=lambda pair: pair[0])
    rest = [pair for pair in keyed if after is None or pair[0] > after]
    shown = rest[: query.limit]
    more = len(rest) > len(shown)
    return Page(items=tuple(item for _, item in shown), next=_marker_of(shown[-1][0]) if more else None)


def row_after(query: PageQuery) -> int:
    """
    Read a marker that is a row's number; 0 without one.

    Raises:
        InvalidInput: it is none.
    """
    text = query.marker
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(2**53))):
        raise _no_marker()
    return int(text)


def _marker_of(key: Key) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def _key_of(marker: str) -> Key:
    try:
        text = base64.b64decode(marker + "=" * (-len(marker) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(text, type=tuple[str, ...])
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise _no_marker() from error


def _no_marker() -> InvalidInput:
    remedy = "Take the `next` of the page before as it is, or begin without one."
    return InvalidInput("no such place to go on from", where="query marker", remedy=remedy)
