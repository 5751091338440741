"""Tables on terminals of any width, and in pipes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.cli.screen import Column, Screen, TableCell, columns_of, shortened, wrapped, write_table
from stocktake.cli.text import clean

PIPE = Screen(width=None, colour=False, unicode=True)


def terminal(width: int, *, colour: bool = False) -> Screen:
    return Screen(width=width, colour=colour, unicode=True)


COLUMNS = (
    Column("NAME", shrinks=True),
    Column("ZONE", weight=1),
    Column("SIZE", right=True, weight=2),
    Column("WHY", wraps=True),
)
ROWS = (
    ("a-node-with-a-name", "north", "12", "because somebody asked for it, and nobody said no"),
    ("b", "south", "1,200", "short"),
)


def written(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_given_a_pipe_when_a_table_is_written_then_every_row_is_one_line_in_full(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert write_table(PIPE, COLUMNS, ROWS) == 0
    lines = written(capsys)
    assert len(lines) == 3
    assert lines[1] == "a-node-with-a-name  north     12  because somebody asked for it, and nobody said no"
    assert lines[2].startswith("b                   south  1,200  short")


@given(width=st.integers(min_value=40, max_value=200))
def test_given_any_terminal_when_a_table_is_written_then_no_line_is_wider(width: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        lines: list[str] = []
        patch.setattr("stocktake.cli.screen.write", lambda _screen, text: lines.append(text))
        write_table(terminal(width), COLUMNS, ROWS)
    assert max(map(columns_of, lines)) <= width
    assert any("short" in line for line in lines)


def test_given_a_narrow_terminal_when_a_table_is_written_then_the_lightest_column_goes_first(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert write_table(terminal(40), COLUMNS, ROWS) == 1
    head = written(capsys)[0].split()
    assert head == ["NAME", "SIZE", "WHY"]


def test_given_sums_when_a_table_is_written_then_they_stand_below(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(PIPE, (Column("A", right=True),), [("1",), ("2",)], sums=(TableCell("3", "bold"),))
    assert written(capsys) == ["A", "1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "width", "cut"),
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("日本語", 6, "日本語"),
        ("日本語", 5, "日本…"),
        ("日本語", 4, "日…"),
        ("", 0, ""),
    ],
)
def test_given_a_text_when_it_is_shortened_then_it_fits_and_says_that_it_was_cut(
    text: str, width: int, cut: str
) -> None:
    assert shortened(text, width) == cut


@given(st.text(max_size=20), st.integers(min_value=1, max_value=20))
def test_given_any_text_when_it_is_shortened_then_it_fits(text: str, width: int) -> None:
    assert columns_of(shortened(text, width)) <= width


def test_given_a_name_that_would_paint_when_a_table_is_written_then_it_is_harmless(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_table(terminal(80, colour=True), (Column("NAME"),), [("\x1b[31mred\x07\n",)])
    assert "\\x1b[31mred\\x07\\n" in capsys.readouterr().out


@given(st.text())
def test_given_any_text_when_cleaned_then_it_is_printable_and_readable(text: str) -> None:
    assert clean(text).isprintable()
    assert text.isprintable() == (clean(text) == text)


def test_given_a_pipe_when_prose_is_wrapped_then_it_stays_one_line() -> None:
    text = "word " * 60
    assert wrapped(PIPE, text) == [text]
    assert all(len(line) <= 30 for line in wrapped(terminal(40), text, indent=10))
    assert wrapped(terminal(40), "") == [""]
