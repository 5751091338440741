"""What the program's supervisor, systemd, asks of it. Invariant: it comes from the environment, and is no setting."""

import os
from collections.abc import Mapping
from typing import NamedTuple


class Supervisor(NamedTuple):
    """
    What systemd told this process.

    Attributes:
        notify_socket: where it wants to be told how the program does; empty if it does not.
        watchdog_s: within how many seconds it wants a sign of life, again and again; None if it does not.
    """

    notify_socket: str = ""
    watchdog_s: float | None = None


def read_supervisor(environ: Mapping[str, str] | None = None, *, pid: int | None = None) -> Supervisor:
    """
    Read what systemd asks; nothing where it did not start this program.

    Args:
        environ: None takes the process's.
        pid: of the process that is meant; None takes this one.
    """
    variables = os.environ if environ is None else environ  # noqa: TID251
    address = variables.get("NOTIFY_SOCKET", "")
    # Other kinds of addresses are for virtual machines.
    known = address if address.startswith(("/", "@")) else ""
    meant = variables.get("WATCHDOG_PID", "") in {"", str(pid or os.getpid())}
    usec = variables.get("WATCHDOG_USEC", "")
    asked = known and meant and usec.isdecimal() and int(usec) > 0
    return Supervisor(known, int(usec) / 1e6 if asked else None)
