"""
The terminal, by curses: put lines on it, take keys from it. Invariant: however the program ends, the terminal is as
before.
"""

import contextlib
import curses
import locale
import signal
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

from stocktake.cli.screen import ascii_of, columns_of
from stocktake.cli.text import clean
from stocktake.cli.watch.frame import Size
from stocktake.cli.watch.table import Line

# How long curses waits for the rest of a key that begins with Esc.
_ESCAPE_MS = 25
_NAMED: Mapping[int, str] = {
    curses.KEY_UP: "up",
    curses.KEY_DOWN: "down",
    curses.KEY_PPAGE: "pgup",
    curses.KEY_NPAGE: "pgdn",
    curses.KEY_HOME: "home",
    curses.KEY_END: "end",
    curses.KEY_ENTER: "enter",
    curses.KEY_BACKSPACE: "backspace",
    curses.KEY_RESIZE: "resize",
}
_LETTERS: Mapping[str, str] = {"\n": "enter", "\r": "enter", "\x1b": "escape", "\x7f": "backspace", "\b": "backspace"}
_COLOURS: Mapping[str, int] = {
    "red": curses.COLOR_RED,
    "green": curses.COLOR_GREEN,
    "yellow": curses.COLOR_YELLOW,
    "cyan": curses.COLOR_CYAN,
}
_EFFECTS: Mapping[str, int] = {"bold": curses.A_BOLD, "dim": curses.A_DIM, "reverse": curses.A_REVERSE}


class Terminal:
    """
    A screen under curses.

    Attributes:
        ended_by: the signal that asked the program to end; the next wait for a key says so.
    """

    def __init__(self, window: curses.window, *, colour: bool, unicode: bool) -> None:
        self.ended_by: int | None = None
        self._window = window
        self._unicode = unicode
        self._styles = dict(_EFFECTS)
        if colour and curses.has_colors():
            curses.start_color()
            curses.use_default_colors()
            for pair, (name, number) in enumerate(_COLOURS.items(), 1):
                curses.init_pair(pair, number, -1)
                self._styles[name] = curses.color_pair(pair)

    def size(self) -> Size:
        """Measure the screen."""
        rows, columns = self._window.getmaxyx()
        return Size(columns, rows)

    def draw(self, lines: Sequence[Line]) -> None:
        """Show these lines; curses sends only what differs from what is there."""
        self._window.erase()
        for y, line in enumerate(lines):
            x = 0
            for span in line:
                text = clean(span.text)
                text = text if self._unicode else ascii_of(text)
                style = 0
                for name in span.style.split():
                    style |= self._styles.get(name, 0)
                # The last cell of all can't be written without an error, nor one that a smaller screen no longer has.
                with contextlib.suppress(curses.error):
                    self._window.addstr(y, x, text, style)
                x += columns_of(text)
        self._window.refresh()

    def key(self, timeout_s: float) -> str | None:
        """
        Wait for a key, or for a new size, which is the key `resize`; None if there was none in time.

        Raises:
            Ended: a signal asked for it.
        """
        pressed: str | int | None = None
        if self.ended_by is None:
            self._window.timeout(round(timeout_s * 1000))
            with contextlib.suppress(curses.error):
                pressed = self._window.get_wch()
        if self.ended_by is not None:
            # What a shell reports for it.
            raise Ended(128 + self.ended_by)
        if pressed is None:
            return None
        if isinstance(pressed, int):
            return _NAMED.get(pressed, "")
        return _LETTERS.get(pressed, pressed)


class Ended(SystemExit):
    """A signal ended the program."""


@contextlib.contextmanager
def terminal(*, colour: bool, unicode: bool) -> Iterator[Terminal]:
    """Take the terminal over, and give it back: at the end, after an error, and on SIGTERM, SIGHUP and Ctrl-C."""
    shown: Terminal | None = None

    def end(number: int, _frame: FrameType | None) -> None:
        # An error raised from here could come up, and be passed over, anywhere.
        if shown is None:
            raise Ended(128 + number)
        shown.ended_by = number

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    # Curses writes in the locale's encoding, which nobody has set before.
    locale.setlocale(locale.LC_ALL, "")
    window = curses.initscr()
    try:
        curses.noecho()
        curses.cbreak()
        curses.set_escdelay(_ESCAPE_MS)
        window.keypad(True)
        with contextlib.suppress(curses.error):
            curses.curs_set(0)
        shown = Terminal(window, colour=colour, unicode=unicode)
        yield shown
    finally:
        # A second signal must not come between.
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        window.keypad(False)
        curses.endwin()
        for number, handler in before.items():
            signal.signal(number, handler)


def can_be_moved_in() -> bool:
    """Say whether this terminal is one whose cursor can be put anywhere."""
    try:
        curses.setupterm()
    except curses.error:
        return False
    return curses.tigetstr("cup") is not None
