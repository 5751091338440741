"""
What an answer is written on, a terminal or a pipe: text, tables, and the one shape of `--json`.

Invariant: a pipe gets everything in full width and without colour; names from outside can't control the terminal.
Tables are ours and not a library's: five thousand rows are written in a moment, and nothing is imported for it.
"""

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import click
import msgspec

from stocktake.cli.session import Session
from stocktake.cli.text import clean, clean_painted
from stocktake.errors import StocktakeError, redact
from stocktake.model.value import plain
from stocktake.views.quantities import count

# The widest line of running text; tables may be wider.
PROSE_COLUMNS = 100
_PROSE_COLUMNS_MIN = 20

# What a state is painted in.
COLOURS: Mapping[str, str] = {
    "up": "green",
    "manual": "",
    "stale": "yellow",
    "failed": "red",
    "down": "red",
    "enabled": "",
    "disabled": "yellow",
}


@dataclass(frozen=True, slots=True)
class Screen:
    """
    What the answer is written on.

    Attributes:
        width: columns; None for a pipe, which takes any.
        colour: paint.
        unicode: more than ASCII can be written.
    """

    width: int | None
    colour: bool
    unicode: bool

    def paint(self, text: str, **style: str | bool | None) -> str:
        """Clean text, and style it where colours are wanted."""
        text = clean(text)
        return click.style(text, **style) if self.colour and text and any(style.values()) else text  # type: ignore[arg-type]


def screen_of(session: Session) -> Screen:
    """Look at stdout."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((80, 24)).columns if terminal else None
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    return Screen(width=width, colour=terminal and not session.no_color, unicode=encoding.startswith("utf"))


def write(screen: Screen, text: str = "") -> None:
    """Write one line of an answer, cleaned of whatever could control a terminal."""
    text = clean_painted(text) if screen.colour else clean(text)
    if not screen.unicode:
        text = ascii_of(text)
    click.echo(text, color=screen.colour)


_ASCII = str.maketrans(dict(zip("█▒░…─→▲▼»▏│", "#=.~->^v>||", strict=True)))


def ascii_of(text: str) -> str:
    """Replace what is not ASCII, letter by letter."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def wrapped(screen: Screen, text: str, *, indent: int = 0) -> list[str]:
    """Wrap running text at the terminal's width; words such as paths stay whole, and a pipe gets one line."""
    if screen.width is None:
        return [text]
    width = max(min(screen.width, PROSE_COLUMNS) - indent, _PROSE_COLUMNS_MIN)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def write_prose(screen: Screen, text: str, *, indent: int = 0, colour: str = "", bold: bool = False) -> None:
    """Write running text, each line with the indent and in the colour."""
    for line in wrapped(screen, clean(text), indent=indent):
        write(screen, f"{'':{indent}}{screen.paint(line, fg=colour or None, bold=bold)}")


def hint(session: Session, text: str) -> None:
    """Write on stderr what to try next; not with --quiet or --json."""
    if not session.quiet and not session.json:
        screen = screen_of(session)
        painted = sys.stderr.isatty() and screen.colour
        for line in wrapped(screen, clean(text)):
            click.echo(click.style(line, dim=True) if painted else line, err=True, color=painted)


def complain(text: str) -> None:
    """Write on stderr what went wrong, on one line."""
    click.echo(f"stocktake: {clean(' '.join(redact(text).split()))}", err=True)


def error_shown(error: StocktakeError) -> dict[str, str]:
    """Give an error as programs read it."""
    return {"code": error.code, "what": error.what, "where": error.where, "remedy": error.remedy}


def write_json(session: Session, data: object, *, exit_code: int = 0, error: StocktakeError | None = None) -> None:
    """
    Write an answer for programs: one object with `command`, `exit_code`, `error` and `data`.

    `data` is a list where there may be several, an object where there is one; null with an `error`, which has
    `code`, `what`, `where`, `remedy`. Times are ISO 8601 in UTC; units are in the names.
    """
    failed = error_shown(error) if error is not None else None
    answer = {"command": session.command, "exit_code": exit_code, "error": failed, "data": plain(data)}
    click.echo(msgspec.json.encode(answer))


def columns_of(text: str) -> int:
    """Count the columns that text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def answer(session: Session, data: object, text: str, *, advice: str = "") -> int:
    """Write an answer that is one sentence, for programs its data; on stderr what to try next. Gives exit code 0."""
    if session.json:
        write_json(session, data)
        return 0
    write(screen_of(session), text)
    if advice:
        hint(session, advice)
    return 0


T = TypeVar("T")
_GAP = "  "
_TEXT_MIN = 8
_PROSE_MIN = 16


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column.

    Attributes:
        right: aligned right, as numbers are.
        weight: the lightest columns are left out first on a narrow terminal; 0 never is.
        shrinks: the text may be cut before a column is left out.
        wraps: the text continues on the next line; for the last column.
    """

    title: str
    right: bool = False
    weight: int = 0
    shrinks: bool = False
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class TableCell:
    """Text in a colour (click's names); `bold` and `dim` too."""

    text: str
    colour: str = ""


Row = Sequence["str | TableCell"]


def write_table(screen: Screen, columns: Sequence[Column], rows: Sequence[Row], *, sums: Row | None = None) -> int:
    """
    Write a table with its sums below.

    Returns:
        How many columns were left out because the terminal is too narrow.
    """
    texts = [[_cell(value) for value in row] for row in rows]
    below = [_cell(value) for value in sums] if sums is not None else None
    titles = [TableCell(column.title, "bold") for column in columns]
    widths = [
        max(columns_of(line[place].text) for line in (titles, *texts, *([below] if below else [])))
        for place in range(len(columns))
    ]
    kept, widths = _fit(columns, widths, screen.width)
    lines = [titles, *texts]
    if below is not None:
        lines.append(below)
    for line in lines:
        for part in _wrapped(columns, line, kept, widths):
            write(screen, _line(screen, columns, part, kept, widths))
    return len(columns) - len(kept)


def write_list(
    session: Session, screen: Screen, columns: Sequence[Column], rows: Sequence[Row], *, sums: Row | None = None
) -> None:
    """Write a table, and on stderr how many of its columns the terminal has no place for."""
    left_out = write_table(screen, columns, rows, sums=sums)
    if left_out:
        hint(session, f"({count(left_out, 'more column')} in a wider terminal, or with --json)")


def answer_list(
    session: Session,
    found: Sequence[T],
    columns: Sequence[Column],
    row: Callable[[T], Row],
    *,
    empty: str,
    advice: str = "",
) -> int:
    """Write a list, for programs its data, as a table; the sentence `empty` if it is. Gives exit code 0."""
    if session.json or not found:
        return answer(session, found, empty, advice=advice)
    write_list(session, screen_of(session), columns, [row(one) for one in found])
    return 0


def _cell(value: str | TableCell) -> TableCell:
    return TableCell(clean(value)) if isinstance(value, str) else TableCell(clean(value.text), value.colour)


def _fit(columns: Sequence[Column], widths: list[int], limit: int | None) -> tuple[list[int], list[int]]:
    """Choose the columns that fit, then shorten the texts that may be cut."""
    kept = list(range(len(columns)))
    if limit is None:
        return kept, widths
    least = [_least(column, width) for column, width in zip(columns, widths, strict=True)]
    while _total([least[i] for i in kept]) > limit:
        light = [i for i in kept if columns[i].weight]
        if not light:
            break
        kept.remove(min(light, key=lambda i: columns[i].weight))
    widths = list(widths)
    over = _total([widths[i] for i in kept]) - limit
    for i in sorted(kept, key=lambda i: (not columns[i].wraps, -widths[i])):
        if over > 0 and least[i] < widths[i]:
            cut = min(over, widths[i] - least[i])
            widths[i] -= cut
            over -= cut
    return kept, widths


def _least(column: Column, width: int) -> int:
    """Give the least width of a column: half of a text that may be cut, and enough to tell texts apart."""
    if column.wraps:
        return min(width, _PROSE_MIN)
    return min(width, max(_TEXT_MIN, width // 2)) if column.shrinks else width


def _wrapped(
    columns: Sequence[Column], cells: Sequence[TableCell], kept: Sequence[int], widths: list[int]
) -> list[list[TableCell]]:
    """Spread a row over as many lines as its last column needs."""
    last = kept[-1]
    if not columns[last].wraps or columns_of(cells[last].text) <= widths[last]:
        return [list(cells)]

    spread: list[list[TableCell]] = []
    for number, text in enumerate(textwrap.wrap(cells[last].text, widths[last])):
        line = list(cells) if number == 0 else [TableCell("")] * len(cells)
        line[last] = TableCell(text, cells[last].colour)
        spread.append(line)
    return spread


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _line(
    screen: Screen, columns: Sequence[Column], cells: Sequence[TableCell], kept: Sequence[int], widths: list[int]
) -> str:
    parts: list[str] = []
    for i in kept:
        text = shortened(cells[i].text, widths[i])
        space = " " * (widths[i] - columns_of(text))
        last = i == kept[-1]
        painted = _painted(screen, text, cells[i].colour)
        parts.append(f"{space}{painted}" if columns[i].right else painted + ("" if last else space))
    return _GAP.join(parts).rstrip()


def _painted(screen: Screen, text: str, colour: str) -> str:
    if not colour:
        return text
    return screen.paint(text, **({colour: True} if colour in {"bold", "dim"} else {"fg": colour}))


def shortened(text: str, width: int) -> str:
    """Cut text to so many columns, with an ellipsis if something is lost."""
    if columns_of(text) <= width:
        return text
    while text and columns_of(text) > width - 1:
        text = text[:-1]
    return f"{text}…"
