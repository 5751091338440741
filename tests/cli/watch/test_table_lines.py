"""Lines of styled text in so many columns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.cli.watch.table import Span, apart, cell, cut, text_of, width_of

SPANS = st.lists(
    st.builds(Span, st.text(alphabet="ab▒ 語e\u0301", max_size=6), st.sampled_from(["", "red"])), max_size=5
)


@given(SPANS, st.integers(0, 30))
def test_given_any_line_when_cut_then_it_fits_and_loses_nothing_that_had_room(spans: list[Span], columns: int) -> None:
    line = cut(spans, columns)
    assert width_of(line) <= columns
    if width_of(spans) <= columns:
        assert text_of(line) == text_of(spans)
    elif columns:
        assert text_of(line).endswith("…")
        assert text_of(spans).startswith(text_of(line)[:-1])


@given(SPANS, SPANS, st.integers(0, 40))
def test_given_any_two_texts_when_put_apart_then_they_fill_the_line_and_the_right_one_stays(
    left: list[Span], right: list[Span], columns: int
) -> None:
    line = apart(left, right, columns)
    assert width_of(line) == columns
    if width_of(right) <= columns:
        assert text_of(line).endswith(text_of(right))


@pytest.mark.parametrize(
    ("text", "right", "shown"),
    [
        ("abc", False, "abc  "),
        ("abc", True, "  abc"),
        ("abcdef", False, "abcd…"),
        ("語語語", False, "語語…"),
        ("\x1b[2J", False, "\\x1b…"),
    ],
)
def test_given_a_text_then_its_cell_has_its_width_and_nothing_that_steers(text: str, right: bool, shown: str) -> None:  # noqa: FBT001
    assert cell(text, 5, right=right).text == shown
