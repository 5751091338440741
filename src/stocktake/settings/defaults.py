"""Defaults that depend on the machine. Law: nothing is sent over the network to find them."""

import os
import socket
from collections.abc import Mapping
from pathlib import Path

_LOOPBACK = "127.0.0.1"
# An address for documentation (RFC 5737): the kernel looks up the route, nobody is asked.
_ANYWHERE = ("192.0.2.1", 9)


def host_name() -> str:
    """Give the machine's host name."""
    return socket.gethostname()


def address() -> str:
    """Give the address of the default route's interface, or 127.0.0.1 without a route."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            # Connecting a datagram socket sets its own address and sends nothing.
            probe.connect(_ANYWHERE)
            return str(probe.getsockname()[0])
        except OSError:
            return _LOOPBACK


def state_path(environ: Mapping[str, str]) -> Path:
    """Give root's or the user's place for state."""
    if os.geteuid() == 0:
        return Path("/var/lib/stocktake")
    home = environ.get("XDG_STATE_HOME") or os.path.join(environ.get("HOME") or "~", ".local", "state")  # noqa: PTH118
    return Path(home).expanduser() / "stocktake"


def sqlite_url(state: Path, name: str) -> str:
    """Give the URL of a SQLite file in the state path."""
    return f"sqlite:///{state / name}"
