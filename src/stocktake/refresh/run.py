"""
Step 2: one pass over the nodes. Invariant: one node's trouble is no other's, and all are asked, read and saved at once.

audit -> verify -> read -> tally -> desired -> save -> sync; each step takes what the one before gave.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from stocktake import __version__
from stocktake.audit import audit
from stocktake.clock import Clock
from stocktake.errors import NodeNotFound, ReportRefused, StocktakeError
from stocktake.ledger import SaveOutcome
from stocktake.model.books import ComputeNode
from stocktake.model.hypervisor import Host, HostView
from stocktake.model.workload import NodeWork
from stocktake.placement.overrides import NodeOverrides, overrides_for
from stocktake.refresh.adoption import adopt, let_go
from stocktake.refresh.cache import RefreshCache
from stocktake.refresh.claim_expiry import settle_claims
from stocktake.refresh.context import Context, Pass, failure_of
from stocktake.refresh.identity import check_driver, check_host, identified
from stocktake.refresh.locked import books_of, count_locked, guests_of
from stocktake.refresh.orphan_nodes import delete_orphan_nodes
from stocktake.refresh.ownership import divided, hand_over, join, still_ours
from stocktake.report.save import Books, Reported, save, sync
from stocktake.verify import verify

LOG = logging.getLogger(__name__)


@dataclass(slots=True)
class _Timer:
    clock: Clock
    result: Pass
    since_s: float

    def lap(self, step: str) -> None:
        now_s = self.clock.monotonic_s()
        self.result.seconds[step] = self.result.seconds.get(step, 0.0) + now_s - self.since_s
        self.since_s = now_s


def refresh(
    context: Context,
    *,
    only: str | None = None,
    full: bool = False,
    stop: Callable[[], bool] = lambda: False,
    cache: RefreshCache | None = None,
    into: Pass | None = None,
    progress: Callable[[int, int], object] = lambda _done, _total: None,
) -> Pass:
    """
    Take stock of all nodes, or of one.

    Args:
        only: a node's name; then no other is touched and none is deleted.
        full: read everything back from the scheduler, whatever its generations say.
        stop: asked between steps; once it says yes, what is not saved yet is left for the next pass.
        cache: of the passes before this one, with the same context.
        into: is filled as the pass goes, so that one that raises still tells what it did.
        progress: told how many nodes the scheduler has heard of, and of how many it will.

    Raises:
        IdentityError: this host is not who the ledger says it is; nothing was written.
        LedgerUnreachable, LedgerError: nothing was saved; nothing was sent to the scheduler.
        DriverUnreachable, DriverError: the driver could not list its nodes; their rows carry that.
        NodeNotFound: the driver has no node named `only`.
    """
    result = into if into is not None else Pass()
    timer = _Timer(context.clock, result, context.clock.monotonic_s())
    ours = _known(context, result)
    timer.lap("read")
    check_driver(context, ours)
    listed = _listed(context, ours)
    division = divided(context, listed)
    names = division.mine
    timer.lap("list")
    if stop():
        return result
    if only is not None and only not in names:
        raise NodeNotFound(f"the driver has no node {only!r}; it has {', '.join(names[:5]) or 'none'}", where=only)
    wanted = names if only is None else (only,)
    views = audit(context.driver, context.monitors, wanted, my_ip=context.settings.my_ip, limit=context.limit)
    timer.lap("audit")
    cache = cache or RefreshCache()
    hosts = _verified(views, cache, result)
    timer.lap("verify")
    uuids = identified(context, names, hosts, ours, result)
    said = {node: view for node, view in views.items() if isinstance(view, HostView)}
    facts = _Facts(said, hosts, uuids)
    agree = partial(sync, context.ledger, context.scheduler, full=full, stop=stop, progress=progress)
    gone = _count(context, facts, result=result, timer=timer, stop=stop, cache=cache, agree=agree)
    if only is None:
        cache.keep(names)
    _note(context, ours, result)
    if only is None and not stop():
        delete_orphan_nodes(context, listed, ours, result, stop, gone=gone)
        hand_over(context, division, result)
    _announce(context, result)
    timer.lap("save")
    return result


def _known(context: Context, result: Pass) -> Sequence[ComputeNode]:
    """Read this host's nodes as they were saved, and stop if they are another's."""
    # What a bus is told of is compared whole.
    read = context.ledger.nodes_in_brief if context.bus is None else context.ledger.nodes
    ours = read(host=context.rules.host, replica=True)
    result.known = tuple(ours)
    if context.bus is not None:
        context.bus.begin(ours)
    check_host(context, ours)
    return ours


def _count(
    context: Context,
    facts: "_Facts",
    *,
    result: Pass,
    timer: _Timer,
    stop: Callable[[], bool],
    cache: RefreshCache,
    agree: Callable[..., None],
) -> bool:
    """Read, tally, save and report the nodes whose hosts are verified; say if providers of deleted ones may be left."""
    host, hosts = context.rules.host, facts.hosts
    snapshot = context.ledger.snapshot(host, tuple(hosts), guests_of(hosts))
    service = snapshot.service or context.ledger.register(host, version=__version__)
    join(context, service)
    counting = _Counting(context, facts, cache, disabled=service.disabled)
    books = counting.counted(snapshot.works)
    for settle in (_adopted, settle_claims):
        if settle(context, hosts, books, result):
            books.update(counting.again(tuple(hosts)))
    timer.lap("tally")
    if not stop():
        done = save(context.ledger, books, counting.again_if_ours, counting.held)
        timer.lap("save")
        if not stop():
            agree(done, own=context.settings.allocations == "own")
        timer.lap("report")
        _merge(done, result)
    return bool(snapshot.gone)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the hypervisor said, verified, by node name: as it came, as it is believed, and the nodes' uuids."""

    views: Mapping[str, HostView]
    hosts: Mapping[str, Host]
    uuids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class _Counting:
    """Counts nodes of one pass, each as often as others change what is promised on it."""

    context: Context
    facts: _Facts
    cache: RefreshCache
    disabled: bool

    def counted(self, works: Mapping[str, NodeWork]) -> dict[str, Books]:
        """Tally what was read."""
        return {node: self._one(node, work) for node, work in works.items()}

    def again(self, nodes: Sequence[str]) -> dict[str, Books]:
        """Read and tally anew."""
        guests = guests_of({node: self.facts.hosts[node] for node in nodes})
        return self.counted(self.context.ledger.work(self.context.rules.host, nodes, guests))

    def again_if_ours(self, nodes: Sequence[str]) -> dict[str, Books]:
        """The same, without those that other services took meanwhile."""
        return self.again(still_ours(self.context, nodes, self.facts.uuids))

    def held(self, nodes: Sequence[str]) -> tuple[dict[str, Books], SaveOutcome]:
        """The same, with their rows held, and save them."""
        done = count_locked(
            self.context.ledger,
            host=self.context.rules.host,
            views={node: self.facts.views[node] for node in nodes},
            uuids={node: self.facts.uuids[node] for node in nodes},
            rules=self.context.rules,
            overrides={node: self._overrides(node) for node in nodes},
            disabled=self.disabled,
        )
        ours = still_ours(self.context, nodes, self.facts.uuids)
        return self.counted({node: done.works[node] for node in ours}), done.outcome

    def _one(self, node: str, work: NodeWork) -> Books:
        host, uuid, rules = self.facts.hosts[node], self.facts.uuids[node], self.context.rules

        def count() -> Books:
            return books_of(host, work, rules, self._overrides(node), uuid=uuid, disabled=self.disabled)

        return self.cache.books(host, work, uuid, disabled=self.disabled, count=count)

    def _overrides(self, node: str) -> NodeOverrides:
        return overrides_for(self.context.overrides, self.facts.hosts[node].hypervisor_hostname, self.facts.uuids[node])


def _adopted(context: Context, hosts: Mapping[str, Host], books: Mapping[str, Books], result: Pass) -> bool:
    """Make instances of guests that nobody promised, if the settings say so; say whether promises changed."""
    if context.settings.adopt != "auto":
        return False
    result.adopted = adopt(context, hosts, books)
    return bool(let_go(context, hosts, books) or result.adopted)


def _merge(done: Reported, result: Pass) -> None:
    result.nodes.update(done.saved)
    result.entries.update({name: done.books[name].tally.entries for name in done.saved})
    result.saves += done.saves
    result.conflicts += done.conflicts
    result.changed |= done.changed
    result.failed |= done.failed
    result.unsynced |= done.unsynced
    result.writes += done.writes
    for name in sorted(done.changed):
        node = done.saved[name]
        LOG.info(
            "final resource view",
            extra={
                "node": name,
                "vcpus_used": node.vcpus_used,
                "memory_mb_used": node.memory_mb_used,
                "local_gb_used": node.local_gb_used,
                "problems": len(node.problems),
            },
        )


def _listed(context: Context, ours: Sequence[ComputeNode]) -> tuple[str, ...]:
    """Ask the driver for its nodes; if it can't say, every node of ours carries that and nothing else happens."""
    try:
        return context.limit.call(context.driver.node_names)
    except StocktakeError as error:
        context.ledger.note_failures({row.uuid: failure_of(error) for row in ours})
        _announce(context, Pass())
        raise


def _verified(views: Mapping[str, HostView | StocktakeError], cache: RefreshCache, result: Pass) -> dict[str, Host]:
    """Give the hosts that can be believed, and note why the others can't, and how many guests each runs."""
    hosts: dict[str, Host] = {}
    for node, view in views.items():
        if isinstance(view, StocktakeError):
            result.failed[node] = view
            continue
        verdict = cache.verdict(view, verify)
        if isinstance(verdict, Host):
            hosts[node] = verdict
            if verdict.guests is not None:
                result.guests[node] = sum(guest.active for guest in verdict.guests)
        else:
            remedy = "The node keeps its last record, marked stale, until its driver reports sense."
            result.failed[node] = ReportRefused(verdict.reasons, where=node, remedy=remedy)
    return hosts


def _note(context: Context, ours: Sequence[ComputeNode], result: Pass) -> None:
    """Mark the rows of nodes that could not be refreshed; a row that says so already is not written."""
    rows = {row.hypervisor_hostname: row for row in ours}
    failures = {rows[node].uuid: failure_of(error) for node, error in result.failed.items() if node in rows}
    if failures:
        context.ledger.note_failures(failures)


def _announce(context: Context, result: Pass) -> None:
    """Put what the ledger says now, and what was measured, before the message bus; whether it is there or not."""
    if context.bus is not None:
        context.bus.announce(context.ledger.nodes(host=context.rules.host), tuple(result.nodes.values()))
