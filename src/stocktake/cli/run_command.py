"""
A command that runs under a claim. Invariant: it succeeds and the claim is kept, or the claim is released.
"""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

from stocktake.claims import Claimed
from stocktake.claims.pending import renewed
from stocktake.cli.screen import complain
from stocktake.cli.session import Session
from stocktake.errors import InvalidInput, StocktakeError

# What a shell says of a command that a signal ended.
_BY_SIGNAL = 128
_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def run_under(session: Session, claimed: Claimed, command: Sequence[str]) -> int:
    """
    Run a command under a claim, and give its exit code; the claim is renewed for as long as it runs.

    Raises:
        InvalidInput: there is no such command; the claim was released.
    """
    instance = claimed.instance
    names = {"uuid": instance.uuid, "name": instance.name or instance.uuid, "node": instance.node or ""}
    kept = False
    with _passing_on() as started:
        try:
            with renewed(session.claims, instance.uuid):
                code = _run(_filled(command, names), names, started)
            if code == 0:
                session.claims.keep(instance.uuid)
                kept = True
        finally:
            if not kept:
                _give_back(session, instance.uuid)
    return code


def _filled(command: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Replace {uuid}, {name} and {node}; other braces are the command's own."""
    filled = list(command)
    for name, value in names.items():
        filled = [word.replace(f"{{{name}}}", value) for word in filled]
    return filled


def _run(command: Sequence[str], names: Mapping[str, str], started: "_Started") -> int:
    environ = {**os.environ, **{f"STOCKTAKE_{name.upper()}": value for name, value in names.items()}}
    try:
        child = subprocess.Popen(command, env=environ)  # noqa: S603 - what the caller typed, and no shell
    except OSError as error:
        raise InvalidInput(f"can't be run: {error.strerror}; the claim was released", where=command[0]) from error
    started.runs(child)
    code = child.wait()
    return code if code >= 0 else _BY_SIGNAL - code


class _Started:
    """The command's process; a signal that comes before it has started is sent once it has."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._missed: list[int] = []

    def runs(self, child: subprocess.Popen[bytes]) -> None:
        """Take the process, and send it what came before."""
        self._child = child
        for number in self._missed:
            child.send_signal(number)

    def send(self, number: int) -> None:
        """Send the process a signal."""
        if self._child is None:
            self._missed.append(number)
        else:
            self._child.send_signal(number)


@contextmanager
def _passing_on() -> Iterator[_Started]:
    """
    Pass signals on to the command: it decides how it ends, and its end decides what becomes of the claim.

    Until then no signal ends this program: it often gets the same one twice, itself and with its group.
    """
    started = _Started()

    def pass_on(number: int, _frame: FrameType | None) -> None:
        started.send(number)

    before = {number: signal.signal(number, pass_on) for number in _PASSED_ON}
    try:
        yield started
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _give_back(session: Session, uuid: str) -> None:
    try:
        session.claims.release(uuid)
    except StocktakeError as error:
        complain(f"the claim could not be released and will expire: {error}")
