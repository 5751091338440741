"""
The ledger behind a server. Invariant: each call means what it means in a database, and a pass in which nothing happened
is one.

What a pass reads is kept with its digest: the server says "the same" and sends nothing, and nothing is decoded.
"""

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import requests

from stocktake.client.transport import Transport
from stocktake.clock import Clock
from stocktake.errors import StocktakeError
from stocktake.exchange.adapter import CONNECT_S, read_lines
from stocktake.ledger import Ledger, NodeSave, SaveOutcome, Snapshot
from stocktake.ledger.calls import LedgerCall
from stocktake.ledger.snapshot import unmanaged_of
from stocktake.model.books import ComputeNode

LOG = logging.getLogger(__name__)

# For how long what the last pass read serves who says that it may be old; a server's replica may lag as much.
KEPT_S = 300.0
# How much of a save is sent at once. A node is never in two.
BATCH_BYTES = 1024 * 1024
HOSTS_KEPT = 4
# They change nothing that a pass reads.
_HARMLESS = frozenset({"heartbeat", "thin_history"})
CHANGES_PATH = "/v1/ledger/changes"
# The server says at least every 15 s that it lives.
SILENCE_S = 45.0
LINE_BYTES_MAX = 64 * 1024
BACK_OFF_FIRST_S = 1.0
BACK_OFF_LONGEST_S = 30.0


class _Asked(NamedTuple):
    """What a pass wanted to read of a host."""

    nodes: tuple[str, ...]
    guests: Mapping[str, frozenset[str]]


class _Kept:
    """What a host's last pass read."""

    def __init__(self, asked: _Asked, digest: str, snapshot: Snapshot, since_s: float) -> None:
        self.asked = asked
        self.digest = digest
        self.snapshot = snapshot
        self.since_s = since_s

    @property
    def nodes(self) -> tuple[ComputeNode, ...]:
        """The host's nodes, by name."""
        records = (work.record for work in self.snapshot.works.values())
        found = [*(record for record in records if record is not None), *self.snapshot.others]
        return tuple(sorted(found, key=lambda node: node.hypervisor_hostname))


class RemoteLedger(Ledger):
    """A ledger behind a server. Threads may share one."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self.name = transport.url
        self._transport = transport
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()
        self._watch: RemoteWatch | None = None

    def carry(self, call: LedgerCall, arguments: msgspec.Struct) -> Any:
        """Send a call, and read its answer."""
        if call.writes and call.name not in _HARMLESS:
            self._forget()
        return self._transport.ask("POST", call.path, arguments, call.answer, retryable=call.retryable)

    def close(self) -> None:
        """Close the connections."""
        if self._watch is not None:
            self._watch.close()
        self._transport.close()

    def watch(self, host: str, wake: Callable[[], None]) -> None:
        """Call `wake` soon after somebody changed promises on a host, or its service."""
        self._watch = RemoteWatch(self._transport, self._clock, host, wake)

    def nodes(self, *, host: str | None = None, replica: bool = False) -> tuple[ComputeNode, ...]:
        """Read nodes; if they may be old, those that the host's last pass saw."""
        kept = self._recent(host) if replica else None
        return kept.nodes if kept is not None else super().nodes(host=host, replica=replica)

    def nodes_in_brief(
        self, *, host: str | None = None, uuids: Collection[str] | None = None, replica: bool = False
    ) -> tuple[ComputeNode, ...]:
        """Read nodes without what is large; if they may be old, those that the host's last pass saw, as a whole."""
        kept = self._recent(host) if replica and uuids is None else None
        return kept.nodes if kept is not None else super().nodes_in_brief(host=host, uuids=uuids, replica=replica)

    def snapshot(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> Snapshot:
        """Read all that a pass needs, or learn that it is what was read last."""
        kept, asked = self._kept.get(host), _Asked(tuple(sorted(nodes)), guests)
        if kept is not None and kept.asked == asked:
            unmanaged = unmanaged_of(kept.snapshot, guests)
            said = self.changed_snapshot(host, asked.nodes, guests, known=kept.digest, unmanaged=unmanaged)
        else:
            said = self.changed_snapshot(host, asked.nodes, guests)
        snapshot = said.snapshot
        if snapshot is None:
            assert kept is not None, "no answer is the same as nothing"
            snapshot = kept.snapshot
        with self._lock:
            self._kept.pop(host, None)
            self._kept[host] = _Kept(asked, said.digest, snapshot, self._clock.monotonic_s())
            while len(self._kept) > HOSTS_KEPT:
                del self._kept[next(iter(self._kept))]
        return snapshot

    def save(self, saves: Sequence[NodeSave]) -> SaveOutcome:
        """Save nodes; many are sent in parts, each of them all or nothing."""
        saved: dict[str, ComputeNode] = {}
        conflicts: set[str] = set()
        for part in batches(saves):
            outcome = super().save(part)
            saved |= outcome.saved
            conflicts |= outcome.conflicts
        return SaveOutcome(saved=saved, conflicts=frozenset(conflicts))

    def _recent(self, host: str | None) -> _Kept | None:
        """Give what a host's last pass read, if it is not too old."""
        kept = self._kept.get(host) if host is not None else None
        return kept if kept is not None and self._clock.monotonic_s() - kept.since_s < KEPT_S else None

    def _forget(self) -> None:
        """Let who may be told what is old be told what is new."""
        with self._lock:
            for kept in self._kept.values():
                kept.since_s = float("-inf")


def batches(saves: Sequence[NodeSave]) -> list[list[NodeSave]]:
    """Cut a save into parts that a server takes."""
    parts: list[list[NodeSave]] = []
    size = BATCH_BYTES
    for one in saves:
        mine = len(msgspec.json.encode(one))
        if size + mine > BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += mine
    return parts


class RemoteWatch:
    """
    Calls `wake` soon after somebody changed promises of a host, until it is closed; from a thread of its own.

    It is called too whenever the server is heard again: nobody told what was changed before.
    """

    def __init__(self, transport: Transport, clock: Clock, host: str, wake: Callable[[], None]) -> None:
        self._transport = transport
        self._clock = clock
        self._path = f"{CHANGES_PATH}?{urlencode({'host': host})}"
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
                LOG.debug("can't listen to the ledger's changes: %s", error)
                heard = False
            # A stream that has lasted its time ends; that is no failure.
            back_off_s = 0.0 if heard else min(max(back_off_s * 2, BACK_OFF_FIRST_S), BACK_OFF_LONGEST_S)

    def _listen(self) -> bool:
        """Listen to one stream until it ends; say whether it was one."""
        heard = False
        try:
            with self._transport.stream(self._path, silence_s=SILENCE_S) as self._answer:
                for line in read_lines(self._answer, bytes_max=LINE_BYTES_MAX):
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
