"""
Look at the ledger again and again, in a thread of its own. Invariant: nobody waits for the ledger, and only the last
look counts.

A ledger that is unreachable is said to be, with the last look kept, and tried again; its schema is never touched.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from stocktake.accounting.capacity import has_dedicated_cpus
from stocktake.cli.watch.fleet_snapshot import FleetSnapshot
from stocktake.clock import Clock
from stocktake.errors import LedgerUnreachable, StocktakeError
from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode, Entry
from stocktake.views.finding import entries_shown
from stocktake.views.nodes import views_of


@dataclass(frozen=True, slots=True)
class Look:
    """What the ledger said, or why it said nothing."""

    fleet: FleetSnapshot | None
    trouble: str = ""


class Reader:
    """
    Reads all nodes with what they may give out and gave; entries are read again only where they changed.

    Args:
        open_ledger: opens the ledger without making or upgrading anything.
        file: the ledger's file, if it is one; whoever has it open does not notice that another takes its place.
    """

    def __init__(self, open_ledger: Callable[[], Ledger], file: Path | None, clock: Clock, down_time_s: float) -> None:
        self._open = open_ledger
        self._file = file
        self._clock = clock
        self._down_time_s = down_time_s
        self._ledger: Ledger | None = None
        self._opened: tuple[int, int] | None = None
        self._entries: dict[str, tuple[tuple[str, bool], Sequence[Entry]]] = {}

    def read(self) -> FleetSnapshot:
        """
        Read everything now.

        Raises:
            LedgerUnreachable, LedgerError: as the ledger's.
        """
        ledger = self._current()
        nodes = ledger.nodes()
        services = ledger.services()
        self._read_entries(ledger, nodes)
        now = self._clock.now()
        entries = {uuid: known for uuid, (_, known) in self._entries.items()}
        return FleetSnapshot(at=now, rows=views_of(nodes, services, entries, now, self._down_time_s))

    def close(self) -> None:
        """Close the ledger; the next look opens it again."""
        if self._ledger is not None:
            self._ledger.close()
        self._ledger = None

    def _current(self) -> Ledger:
        """Give the ledger, opened anew where another file is in its place."""
        there = _identity(self._file)
        if self._ledger is None or there != self._opened:
            self.close()
            if self._file is not None and there is None:
                remedy = "`stocktake refresh` makes it."
                raise LedgerUnreachable("there is no such file", where=str(self._file), remedy=remedy)
            self._ledger, self._opened = self._open(), there
        return self._ledger

    def _read_entries(self, ledger: Ledger, nodes: Sequence[ComputeNode]) -> None:
        known = self._entries
        # Which entries are shown depends on the node's CPUs too.
        keys = {node.uuid: (node.entries_digest, has_dedicated_cpus(node)) for node in nodes}
        changed = [node for node in nodes if node.uuid not in known or known[node.uuid][0] != keys[node.uuid]]
        entries = entries_shown(ledger, changed)
        fresh = {node.uuid: (keys[node.uuid], entries.get(node.uuid, ())) for node in changed}
        self._entries = {node.uuid: fresh.get(node.uuid) or known[node.uuid] for node in nodes}


def _identity(file: Path | None) -> tuple[int, int] | None:
    try:
        found = file.stat() if file is not None else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found is not None else None


class Watcher:
    """The thread: one look per interval, longer where a look takes longer than that."""

    def __init__(self, reader: Reader, clock: Clock, interval_s: float) -> None:
        self._reader = reader
        self._clock = clock
        self._interval_s = interval_s
        self._lock = threading.Lock()
        self._look: Look | None = None
        self._fleet: FleetSnapshot | None = None
        self._bug: BaseException | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def taken(self) -> Look | None:
        """
        Give the last look if it was not given before.

        Raises:
            Exception: what a bug raised in the thread.
        """
        with self._lock:
            look, self._look = self._look, None
            bug = self._bug
        if bug is not None:
            raise bug
        return look

    def stop(self) -> None:
        """End the thread after the look at hand; nobody waits for that."""
        self._stopping.set()

    def _run(self) -> None:
        try:
            pause_s = 0.0
            while not self._clock.wait(self._stopping, pause_s):
                began_s = self._clock.monotonic_s()
                look = self._one_look()
                with self._lock:
                    self._look = look
                # Half of the time at most is spent on reading, however large the fleet is.
                pause_s = max(self._interval_s, self._clock.monotonic_s() - began_s)
            self._reader.close()
        except Exception as error:  # noqa: BLE001 - it is handed to who looks
            with self._lock:
                self._bug = error

    def _one_look(self) -> Look:
        try:
            self._fleet = self._reader.read()
        except StocktakeError as error:
            self._reader.close()
            # Where it is stands in the picture already.
            return Look(self._fleet, f"{error.what}. {error.remedy}" if error.remedy else error.what)
        return Look(self._fleet)
