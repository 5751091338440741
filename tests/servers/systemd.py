"""
The end of systemd's notification socket: what a service tells is read here, as systemd reads it.

    with listening(tmp_path) as systemd:
        ...  # start something with NOTIFY_SOCKET = systemd.address
        systemd.until("READY=1")
"""

import contextlib
import socket
import time
from collections.abc import Iterator
from pathlib import Path

WAIT_S = 150.0


class Systemd:
    """What was told so far; a message is the list of its lines."""

    def __init__(self, address: str, listener: socket.socket) -> None:
        self.address = address
        self.messages: list[list[str]] = []
        self._listener = listener

    def next(self, *, timeout_s: float = WAIT_S) -> list[str] | None:
        """Wait for a message; None if none came in time."""
        self._listener.settimeout(timeout_s)
        try:
            message = self._listener.recv(65536).decode().split("\n")
        except TimeoutError:
            return None
        self.messages.append(message)
        return message

    def until(self, line: str, *, timeout_s: float = WAIT_S) -> list[str]:
        """Read messages until one has a line that begins so; gives that one."""
        limit_s = time.monotonic() + timeout_s
        while (left_s := limit_s - time.monotonic()) > 0:
            message = self.next(timeout_s=left_s)
            if message is not None and any(one.startswith(line) for one in message):
                return message
        raise AssertionError(f"nobody said {line!r} within {timeout_s} s: {self.messages}")

    def none_for(self, line: str, seconds: float) -> bool:
        """Read messages for so long; say whether none has a line that begins so."""
        limit_s = time.monotonic() + seconds
        while (left_s := limit_s - time.monotonic()) > 0:
            message = self.next(timeout_s=left_s)
            if message is not None and any(one.startswith(line) for one in message):
                return False
        return True

    def drain(self) -> list[list[str]]:
        """Read what has come already."""
        there: list[list[str]] = []
        self._listener.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                there.append(self._listener.recv(65536).decode().split("\n"))
        self.messages += there
        return there


def status_of(message: list[str]) -> str:
    """Give a message's sentence for `systemctl status`."""
    return next((line.removeprefix("STATUS=") for line in message if line.startswith("STATUS=")), "")


@contextlib.contextmanager
def listening(folder: Path, *, abstract: bool = False) -> Iterator[Systemd]:
    """Listen on a socket in a folder, or on one that is in no folder."""
    name = f"@stocktake-test-{folder.name}-{id(folder)}" if abstract else str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name[1:]}" if abstract else name)
        yield Systemd(name, listener)
