"""
What the agent tells systemd, over a datagram socket. Invariant: it waits a second at most, and never fails.

The protocol is that of sd_notify(3): lines of `NAME=value` in one datagram.
"""

import logging
import socket

LOG = logging.getLogger(__name__)
_STATUS_MAX = 500
_WAIT_S = 1.0


class Notifier:
    """
    The way to systemd.

    Args:
        address: what $NOTIFY_SOCKET says, a path or `@` and an abstract name; empty if nobody listens.
    """

    def __init__(self, address: str = "") -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, *lines: str, status: str = "") -> None:
        """Send lines, such as `READY=1`, and a sentence for `systemctl status`; one that can't be sent is lost."""
        if not self._address:
            return
        if status:
            lines = (*lines, f"STATUS={' '.join(status.split())[:_STATUS_MAX]}")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(_WAIT_S)
                out.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            LOG.debug("systemd did not get %s: %s", lines, error)
