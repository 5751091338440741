"""
Hearing from afar that promises changed. Invariant: as in `ledger.watch`; whoever was not heard for a while is read
again.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable
from urllib.parse import urlencode

import requests

from stocktake.client.transport import CONNECT_S, Transport
from stocktake.clock import Clock
from stocktake.errors import StocktakeError

LOG = logging.getLogger(__name__)

PATH = "/v1/ledger/changes"
# The server says at least every 15 s that it lives.
SILENCE_S = 45.0
BACK_OFF_FIRST_S = 1.0
BACK_OFF_LONGEST_S = 30.0


class RemoteWatch:
    """
    Calls `wake` soon after somebody changed promises of a host, until it is closed; from a thread of its own.

    It is called too whenever the server is heard anew, for what was changed before nobody told.
    """

    def __init__(self, transport: Transport, clock: Clock, host: str, wake: Callable[[], None]) -> None:
        self._transport = transport
        self._clock = clock
        self._path = f"{PATH}?{urlencode({'host': host})}"
        self._wake = wake
        self._ended = threading.Event()
        self._answer: requests.Response | None = None
        self._thread = threading.Thread(target=self._run, name="stocktake-ledger-watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; nobody is woken afterwards."""
        self._ended.set()
        answer = self._answer
        connection = getattr(answer.raw, "connection", None) if answer is not None else None
        if connection is not None and connection.sock is not None:
            # Closing a socket wakes nobody who reads from it; this does.
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=CONNECT_S)

    def _run(self) -> None:
        back_off_s = 0.0
        while not self._clock.wait(self._ended, back_off_s):
            try:
                heard = self._listen()
            except (requests.RequestException, StocktakeError, OSError) as error:
                LOG.debug("the ledger tells of no changes: %s", error)
                heard = False
            # A stream that has lasted its time ends; that is no failure.
            back_off_s = 0.0 if heard else min(max(back_off_s * 2, BACK_OFF_FIRST_S), BACK_OFF_LONGEST_S)

    def _listen(self) -> bool:
        """Listen to one stream until it ends; say whether it was one."""
        heard = False
        try:
            with self._transport.stream(self._path, silence_s=SILENCE_S) as self._answer:
                for line in self._answer.iter_lines(chunk_size=None):
                    if self._ended.is_set():
                        break
                    if line.startswith(b"data:"):
                        heard = True
                        self._wake()
        except (requests.RequestException, OSError):
            if not heard:
                raise
        finally:
            self._answer = None
        return heard
