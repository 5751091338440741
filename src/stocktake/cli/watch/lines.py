"""Lines of styled text, as wide as a terminal allows. Invariant: no line is ever wider than it was told."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from stocktake.cli.screen import clean, columns_of
from stocktake.cli.tables import shortened


class Span(NamedTuple):
    """Text in a style: colours (`red`, `yellow`, `green`, `cyan`), `bold`, `dim`, `reverse`, several with spaces."""

    text: str
    style: str = ""


Line = tuple[Span, ...]
EMPTY: Line = ()


def width_of(line: Iterable[Span]) -> int:
    """Count a line's columns."""
    return sum(columns_of(span.text) for span in line)


def text_of(line: Iterable[Span]) -> str:
    """Give a line without its styles."""
    return "".join(span.text for span in line)


def cell(text: str, width: int, style: str = "", *, right: bool = False) -> Span:
    """Put text from anywhere into so many columns, cut or filled up."""
    shown = shortened(clean(text), width) if width > 0 else ""
    space = " " * (width - columns_of(shown))
    return Span(space + shown if right else shown + space, style)


def cut(line: Iterable[Span], columns: int) -> Line:
    """Cut a line to so many columns, with an ellipsis if something is lost."""
    return tuple(_cut(line, columns))


def _cut(line: Iterable[Span], columns: int) -> Iterator[Span]:
    spans = [span for span in line if span.text]
    if width_of(spans) <= columns:
        yield from spans
        return
    left = columns
    for place, span in enumerate(spans):
        wide = columns_of(span.text)
        # One column is kept for the ellipsis as long as something follows.
        if wide < left or (wide == left and place == len(spans) - 1):
            yield span
            left -= wide
            continue
        if left > 0:
            yield Span(shortened(span.text + "…", left), span.style)
        return


def apart(left: Iterable[Span], right: Iterable[Span], columns: int) -> Line:
    """Put two texts to the ends of a line; the left one gives way, and the right one too if it has to."""
    ending = cut(right, columns)
    room = columns - width_of(ending)
    start = cut(left, max(room - 1, 0))
    return (*start, Span(" " * (room - width_of(start))), *ending)
