"""
Tables for people. Invariant: a pipe gets every column in full; a terminal gets the columns that fit, the weightiest
first.

Ours and not a library's: five thousand rows are written in a moment, and nothing has to be imported for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from stocktake.cli.screen import Screen, clean, columns_of, write

_GAP = "  "
_TEXT_MIN = 8
_PROSE_MIN = 16


@dataclass(frozen=True, slots=True)
class Column:
    """
    One column.

    Attributes:
        right: numbers stand right.
        weight: where the terminal is too narrow, the lightest columns go first; 0 never goes.
        shrinks: text that may be cut rather than a column lost.
        wraps: text that goes on below itself; for the last column.
    """

    title: str
    right: bool = False
    weight: int = 0
    shrinks: bool = False
    wraps: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """Text in a colour (click's names); `bold` and `dim` too."""

    text: str
    colour: str = ""


Row = Sequence["str | Cell"]


def write_table(screen: Screen, columns: Sequence[Column], rows: Sequence[Row], *, sums: Row | None = None) -> int:
    """
    Write a table with its sums below.

    Returns:
        How many columns were left out for want of room.
    """
    texts = [[_cell(value) for value in row] for row in rows]
    below = [_cell(value) for value in sums] if sums is not None else None
    titles = [Cell(column.title, "bold") for column in columns]
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


def _cell(value: "str | Cell") -> Cell:
    return Cell(clean(value)) if isinstance(value, str) else Cell(clean(value.text), value.colour)


def _fit(columns: Sequence[Column], widths: list[int], limit: int | None) -> tuple[list[int], list[int]]:
    """Choose the columns, then cut the texts that may be cut."""
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
    """A text may be cut to half of what it is, never to less than can be told apart."""
    if column.wraps:
        return min(width, _PROSE_MIN)
    return min(width, max(_TEXT_MIN, width // 2)) if column.shrinks else width


def _wrapped(
    columns: Sequence[Column], cells: Sequence[Cell], kept: Sequence[int], widths: list[int]
) -> list[list[Cell]]:
    """Spread a row over as many lines as its last column needs."""
    last = kept[-1]
    if not columns[last].wraps or columns_of(cells[last].text) <= widths[last]:
        return [list(cells)]
    import textwrap

    spread: list[list[Cell]] = []
    for number, text in enumerate(textwrap.wrap(cells[last].text, widths[last])):
        line = list(cells) if number == 0 else [Cell("")] * len(cells)
        line[last] = Cell(text, cells[last].colour)
        spread.append(line)
    return spread


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _line(
    screen: Screen, columns: Sequence[Column], cells: Sequence[Cell], kept: Sequence[int], widths: list[int]
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
