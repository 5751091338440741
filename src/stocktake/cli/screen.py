"""
Where an answer goes: the terminal or a pipe, its width, its colours; and the one shape of `--json`.

Invariant: a pipe gets everything in full width and no colour; names from outside can't steer the terminal.
"""

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import click
import msgspec

from stocktake.cli.session import Session
from stocktake.errors import StocktakeError
from stocktake.model.value import plain

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
        """Style text, where colours are wanted."""
        return click.style(text, **style) if self.colour and text and any(style.values()) else text  # type: ignore[arg-type]


def screen_of(session: Session) -> Screen:
    """Look at stdout."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size((80, 24)).columns if terminal else None
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower().replace("-", "")
    return Screen(width=width, colour=terminal and not session.no_color, unicode=encoding.startswith("utf"))


def write(screen: Screen, text: str = "") -> None:
    """Write one line or more of an answer."""
    if not screen.unicode:
        text = ascii_of(text)
    click.echo(text, color=screen.colour)


_ASCII = str.maketrans(dict(zip("█▒░…─→▲▼»▏", "#=.~->^v>|", strict=True)))


def ascii_of(text: str) -> str:
    """Write text with what every terminal has, as wide as before unless its letters are wide."""
    return text.translate(_ASCII).encode("ascii", "replace").decode()


def wrapped(screen: Screen, text: str, *, indent: int = 0) -> list[str]:
    """Break running text where a terminal ends; words such as paths stay whole, and a pipe gets one line."""
    if screen.width is None:
        return [text]
    width = max(min(screen.width, PROSE_COLUMNS) - indent, _PROSE_COLUMNS_MIN)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def write_prose(screen: Screen, text: str, *, indent: int = 0, colour: str = "", bold: bool = False) -> None:
    """Write running text, every line with the indent and in the colour."""
    for line in wrapped(screen, text, indent=indent):
        write(screen, f"{'':{indent}}{screen.paint(line, fg=colour or None, bold=bold)}")


def hint(session: Session, text: str) -> None:
    """Say on stderr what to try next; not with --quiet and not to programs."""
    if not session.quiet and not session.json:
        screen = screen_of(session)
        painted = sys.stderr.isatty() and screen.colour
        for line in wrapped(screen, text):
            click.echo(click.style(line, dim=True) if painted else line, err=True, color=painted)


def write_json(session: Session, data: object, *, exit_code: int = 0, error: StocktakeError | None = None) -> None:
    """
    Write an answer for programs: one object with `command`, `exit_code`, `error` and `data`.

    `data` is a list where there may be several, an object where there is one; null with an `error`, which has
    `code`, `what`, `where`, `remedy`. Times are ISO 8601 in UTC; units are in the names.
    """
    told = None
    if error is not None:
        told = {"code": error.code, "what": error.what, "where": error.where, "remedy": error.remedy}
    answer = {"command": session.command, "exit_code": exit_code, "error": told, "data": plain(data)}
    click.echo(msgspec.json.encode(answer))


def clean(text: str) -> str:
    """Make control characters visible, so that a name can neither paint nor move the cursor."""
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def columns_of(text: str) -> int:
    """Count the columns that text takes on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(letter) for letter in text)


def _columns(letter: str) -> int:
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1
