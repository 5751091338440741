"""Defaults that depend on the machine. Invariant: nothing is sent over the network to find them."""

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
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Connecting a datagram socket sets its own address and sends nothing.
            probe.connect(_ANYWHERE)
            return str(probe.getsockname()[0])
    except OSError:
        return _LOOPBACK


def state_path(environ: Mapping[str, str]) -> Path:
    """Give root's or the user's place for state."""
    if os.geteuid() == 0:
        return Path("/var/lib/stocktake")
    state = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME') or '~'}/.local/state"
    return expanded(state) / "stocktake"


def expanded(path: str | Path) -> Path:
    """Put a user's home for a leading `~`; one that nobody has is kept as it is."""
    # pathlib's own raises where there is no such user.
    return Path(os.path.expanduser(path))  # noqa: PTH111


def sqlite_url(state: Path, name: str) -> str:
    """Give the URL of a SQLite file in the state path."""
    return f"sqlite:///{state / name}"
