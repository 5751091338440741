"""
Step 4, the driver `ironic`: thousands of bare-metal nodes through one service. Invariant: a list that lost a node is no
list; only a node's own 404 removes it.

One listing serves one pass. Between passes a small request asks which nodes changed last (changes.py); whose a node is,
where several agents share one Ironic, is settled by `stocktake.refresh.ownership`. Only GETs are sent.

Several threads meet here: the pass, one call at a time, and the watcher. What they share is under one lock, which is
never held while Ironic is asked.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping
from functools import partial

from stocktake.clock import Clock
from stocktake.drivers.ironic.api import Api, Deadline, Listed, Node, Unreadable
from stocktake.drivers.ironic.changes import changed
from stocktake.drivers.ironic.report import TYPE, survey_of
from stocktake.errors import DriverError, NodeNotFound, StocktakeError
from stocktake.model.hypervisor import Candidate, Survey
from stocktake.model.value import UUID
from stocktake.settings import DEFAULT_INTERVAL_S, Settings

LOG = logging.getLogger(__name__)

# A call that gives up by itself leaves no thread behind: it does so before the audit gives it up.
_BUDGET_SHARE = 0.9
# How many of the nodes that a list lacks are asked for one by one.
_ASKED_MAX = 3
# How long the watcher is waited for: it may be in the middle of a request.
_LEAVE_S = 1.0
# The watcher may take at most so much of Ironic's time.
_PACE = 10
# Soon enough before the next pass of the clock: that one lists anew.
_ONE_INTERVAL = 0.9


def open_driver(settings: Settings, clock: Clock) -> "IronicDriver":
    """Open the Ironic that the settings name; nothing is asked yet."""
    return IronicDriver(settings, clock)


class IronicDriver:
    """
    The nodes of one Ironic, or of one shard or conductor group of it.

    Attributes:
        name: `ironic`.
    """

    name = TYPE

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._section = settings.ironic
        self._clock = clock
        self._budget_s = settings.driver_timeout_s * _BUDGET_SHARE
        self._interval_s = (settings.refresh_interval_s or DEFAULT_INTERVAL_S) * _ONE_INTERVAL
        self._closed = threading.Event()
        self._api = Api(settings.ironic, clock, self._closed)
        self._mutex = threading.Lock()
        self._known: dict[str, Listed] | None = None
        self._listed_s = 0.0
        self._lists = 0
        self._woken = False
        self._lacked: frozenset[str] = frozenset()
        # What the last list of names was made of, until it was surveyed.
        self._listing: Mapping[str, Listed] | None = None
        self._watcher: threading.Thread | None = None

    @property
    def pool(self) -> Mapping[str, str]:
        """Say which nodes are listed: all services that list the same divide them."""
        filters = {"conductor_group": self._section.conductor_group, "shard": self._section.shard}
        return {"driver": TYPE, **{name: value for name, value in filters.items() if value is not None}}

    def node_names(self) -> tuple[str, ...]:
        """
        List the uuids of all nodes of the shard and the conductor group.

        Raises:
            DriverUnreachable, DriverError: no whole list.
        """
        self._listing = self._patched() or self._whole()
        return tuple(self._listing)

    def candidates(self) -> Mapping[str, Candidate]:
        """Tell of the nodes that were listed last what it takes to divide them."""
        return {uuid: Candidate(uuid=uuid) for uuid in self._listing or {}}

    def survey(self, nodes: Collection[str]) -> dict[str, Survey | StocktakeError]:
        """
        Report nodes, as they were listed a moment ago.

        Raises:
            DriverUnreachable, DriverError: as for the list.
        """
        if not nodes:
            return {}
        listing, self._listing = self._listing, None
        if listing is None:
            listing = self._whole()
        return {node: self._answer(node, listing) for node in nodes}

    def node_exists(self, node: str) -> bool:
        """Ask Ironic for this very node, of whatever shard: only its own 404 says that it is gone."""
        return bool(UUID.fullmatch(node)) and self._api.node(node, self._deadline()) is not None

    def uptime_s(self) -> float | None:
        """Know nothing: these are many machines."""
        return None

    def watch(self, wake: Callable[[], None]) -> None:
        """Look every `changes_interval_s` for nodes that changed, and call `wake` if any did; until closed."""
        if self._section.changes_interval_s > 0 and self._watcher is None:
            self._watcher = threading.Thread(target=self._look_on, args=(wake,), name="ironic-changes", daemon=True)
            self._watcher.start()

    def settling(self) -> bool:
        """Say no: what one look finds is told at once, and there is a look a second at most."""
        return False

    def close(self) -> None:
        """End the watcher and close the connections."""
        self._closed.set()
        if self._watcher is not None:
            self._watcher.join(_LEAVE_S)
        self._api.close()

    def _deadline(self) -> Deadline:
        return Deadline(self._clock, self._budget_s)

    def _answer(self, name: str, listing: Mapping[str, Listed]) -> Survey | StocktakeError:
        node = listing.get(name)
        if isinstance(node, Node):
            return survey_of(node, skip_reserve_in_use=self._section.skip_reserve_in_use_ironic_nodes)
        if isinstance(node, Unreadable):
            return node.error
        return NodeNotFound("is not one of the nodes of this shard and conductor group", where=name)

    def _patched(self) -> Mapping[str, Listed] | None:
        """Give what the watcher found, where it woke this pass and the last full list is young enough."""
        with self._mutex:
            woken, self._woken = self._woken, False
            young = self._clock.monotonic_s() - self._listed_s < self._interval_s
            return dict(self._known) if woken and young and self._known is not None else None

    def _whole(self) -> Mapping[str, Listed]:
        """List all nodes, and believe it only if those that are missing are really gone."""
        begun_s, deadline = self._clock.monotonic_s(), self._deadline()
        listing = self._api.nodes(deadline)
        with self._mutex:
            before = self._known or {}
        self._doubt(frozenset(before.keys() - listing.keys()), deadline)
        with self._mutex:
            self._known = dict(listing)
            self._listed_s = begun_s
            self._lists += 1
        return listing

    def _doubt(self, missing: frozenset[str], deadline: Deadline) -> None:
        """
        Ask for some of the nodes that a list lacks and the one before had: gone, moved, or was a page lost?

        If the next list lacks just the same it is believed, as no node should keep all others from being reported;
        what it lacks is then asked for node by node before anything is deleted.
        """
        lacked, self._lacked = self._lacked, missing
        if missing == lacked:
            return
        for uuid in sorted(missing)[:_ASKED_MAX]:
            node = self._api.node(uuid, deadline)
            if isinstance(node, Node) and self._is_listed(node):
                what = f"the list lacks {len(missing)} nodes of the last one, and Ironic still has {uuid}"
                remedy = "A proxy before Ironic loses pages of its answers. Nothing is deleted."
                raise DriverError(what, where=self._api.where, remedy=remedy)

    def _is_listed(self, node: Node) -> bool:
        wanted = self._section
        right_group = wanted.conductor_group is None or (node.conductor_group or "") == wanted.conductor_group.lower()
        return right_group and (wanted.shard is None or node.shard == wanted.shard)

    def _look_on(self, wake: Callable[[], None]) -> None:
        trouble = False
        pace_s = self._section.changes_interval_s
        while not self._clock.wait(self._closed, pace_s):
            begun_s = self._clock.monotonic_s()
            try:
                found = self._look()
            except StocktakeError as error:
                if not trouble:
                    LOG.info("changes between passes can't be read: %s", error)
                trouble = True
            else:
                if found or trouble:
                    # What was missed meanwhile, deletions too, takes a full list.
                    self._note(full=trouble)
                    wake()
                trouble = False
            pace_s = max(self._section.changes_interval_s, (self._clock.monotonic_s() - begun_s) * _PACE)

    def _note(self, *, full: bool) -> None:
        with self._mutex:
            self._woken = not full

    def _look(self) -> bool:
        """Look for changes once, and remember them; say whether there were any."""
        with self._mutex:
            known, lists = self._known, self._lists
        if known is None:
            return False
        deadline = Deadline(self._clock, self._section.timeout_s)
        found = changed(known, partial(self._api.latest, deadline=deadline))
        with self._mutex:
            if not found or lists != self._lists:
                # A full list that was made meanwhile knows better.
                return False
            # Made anew: who has the old one reads it in peace.
            self._known = {**known, **found}
            return True
