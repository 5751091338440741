"""Pages: nothing that stays is lost or doubled, whatever comes and goes between two of them."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from stocktake.web.paging import PageQuery, page_of

NAMES = st.lists(st.text("ab-10.", min_size=1, max_size=4), unique=True, max_size=12)


def walked(books: Sequence[Sequence[str]], limit: int) -> list[str]:
    """Read all pages, each of what there is by then."""
    seen: list[str] = []
    marker: str | None = None
    for number in range(100):
        names = books[min(number, len(books) - 1)]
        page = page_of(names, lambda name: (name,), PageQuery(limit=limit, marker=marker))
        assert len(page.items) <= limit
        seen += page.items
        marker = page.next
        if marker is None:
            return seen
    raise AssertionError("pages without end")


@given(NAMES, st.integers(1, 5))
def test_given_what_stays_as_it_is_when_walked_then_all_is_seen_once_and_in_order(names: list[str], limit: int) -> None:
    assert walked([names], limit) == sorted(names)


@given(st.lists(NAMES, min_size=1, max_size=5), NAMES, st.integers(1, 5))
def test_given_what_comes_and_goes_when_walked_then_what_stays_is_seen_once(
    passing: list[list[str]], staying: list[str], limit: int
) -> None:
    books = [sorted({*staying, *names}) for names in passing]
    seen = walked(books, limit)
    assert [name for name in seen if name in staying] == sorted(staying)
    assert len(set(seen)) == len(seen)
