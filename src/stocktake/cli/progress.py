"""
How far a long pass is, and ending it early. Invariant: shown to people at a terminal only, and only where it takes a
while.

What was saved stays saved, and who Placement knows it knows: the next refresh goes on where this one was interrupted.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from stocktake.clock import Clock

# What a shell reports for a program that Ctrl-C ended.
INTERRUPTED = 130
# Who waits for less than this wants no bar.
PATIENCE_S = 1.0
_STEP_S = 0.1


class Progress:
    """
    A bar on stderr.

    Attributes:
        done, total: how many nodes Placement was told of, and of how many it is to be told.
        interrupted: somebody pressed Ctrl-C: the pass is to end after the node at hand.
    """

    def __init__(self, clock: "Clock", *, quiet: bool) -> None:
        self._clock = clock
        self._shown = sys.stderr.isatty() and not quiet
        self._bar: Any = None
        self._begun_s = clock.monotonic_s()
        self._drawn_s = 0.0
        self.done = self.total = 0
        self.interrupted = False

    def __call__(self, done: int, total: int) -> None:
        """Note how far the pass is."""
        self.done, self.total = done, total
        now_s = self._clock.monotonic_s()
        if not self._shown or now_s - self._begun_s < PATIENCE_S or now_s - self._drawn_s < _STEP_S:
            return
        self._drawn_s = now_s
        if self._bar is None:
            label = "Telling Placement (Ctrl-C ends it, the next refresh goes on)"
            self._bar = click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True, width=20)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)

    def stop(self) -> bool:
        """Say whether the pass is to end."""
        return self.interrupted

    def close(self) -> None:
        """Take the bar away from the line below it."""
        if self._bar is not None:
            self._bar.update(self.done - self._bar.pos)
            self._bar.render_finish()
            self._bar = None


@contextmanager
def progress_of(clock: "Clock", *, quiet: bool) -> Iterator[Progress]:
    """Show progress, and let the first Ctrl-C end the pass between two nodes; a second one ends the program."""
    progress = Progress(clock, quiet=quiet)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if progress.interrupted:
            raise KeyboardInterrupt
        progress.interrupted = True

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield progress
    finally:
        signal.signal(signal.SIGINT, before)
        progress.close()
