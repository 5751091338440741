"""
A terminal with a program in it: a real pseudo-terminal, and pyte, which understands what the program writes there.

It says that it is `screen`: pyte does not know all that xterm has, such as repeating a letter.

    with Terminal(["stocktake", "watch"], columns=80, rows=24) as terminal:
        terminal.until("CHANGES")
        terminal.type("q")
        assert terminal.end() == 0
"""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import pyte

WAIT_S = 150.0


class Terminal:
    """
    Runs a program, and keeps what its terminal shows.

    Attributes:
        raw: every byte that the program wrote.
    """

    def __init__(
        self, command: Sequence[str], environ: Mapping[str, str], *, columns: int = 80, rows: int = 24
    ) -> None:
        self.raw = b""
        self._screen = pyte.Screen(columns, rows)
        self._stream = pyte.ByteStream(self._screen)
        self._changed = threading.Condition()
        self._master, slave = pty.openpty()
        self._set_size(columns, rows)
        self.before: list[Any] = termios.tcgetattr(slave)
        # The terminal is the program's own: it gets the signals of a new size and of Ctrl-C.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env={**environ, "TERM": "screen"}
        )
        # Kept open, so that the terminal can be asked how it was left.
        self._slave = slave
        self._closing = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        """Use it in a `with`."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Kill the program if it still runs."""
        self.process.kill()
        self.process.wait()
        self._closing.set()
        self._reader.join()
        os.close(self._master)
        os.close(self._slave)

    @property
    def lines(self) -> list[str]:
        """What the terminal shows now."""
        with self._changed:
            return [line.rstrip() for line in self._screen.display]

    @property
    def text(self) -> str:
        """The same in one."""
        return "\n".join(self.lines)

    def until(self, *texts: str, gone: str = "") -> list[str]:
        """Wait until it shows all of these, and no longer what is to be gone."""
        limit_s = time.monotonic() + WAIT_S
        with self._changed:
            while True:
                shown = "\n".join(line.rstrip() for line in self._screen.display)
                if all(text in shown for text in texts) and not (gone and gone in shown):
                    return shown.splitlines()
                left_s = limit_s - time.monotonic()
                assert left_s > 0, f"{texts} (without {gone!r}) were not shown within {WAIT_S} s:\n{shown}"
                self._changed.wait(min(left_s, 0.2))

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def resize(self, columns: int, rows: int) -> None:
        """Give the terminal another size, of which the kernel tells the program."""
        with self._changed:
            self._screen.resize(rows, columns)
        self._set_size(columns, rows)

    def end(self) -> int:
        """Wait for the program's end; gives its exit code."""
        code = self.process.wait(WAIT_S)
        self._closing.set()
        self._reader.join()
        return code

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def after(self) -> list[Any]:
        """Say how the terminal is set now."""
        return termios.tcgetattr(self._slave)

    def _set_size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def _read(self) -> None:
        while True:
            ready, _, _ = select.select([self._master], [], [], 0.05)
            if not ready:
                # What was written before the end is read first.
                if self._closing.is_set():
                    return
                continue
            data = os.read(self._master, 65536)
            with self._changed:
                self.raw += data
                self._stream.feed(data)
                self._changed.notify_all()
