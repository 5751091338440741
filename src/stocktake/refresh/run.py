"""
Step 2: one pass over the nodes. Invariant: one node's trouble is no other's, and all are asked, read and saved at once.

audit -> verify -> read -> tally -> desired -> save -> sync; each step takes what the one before gave.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from stocktake import __version__
from stocktake.accounting.orphans import adopted
from stocktake.audit import audit
from stocktake.clock import Clock
from stocktake.errors import NodeNotFound, ReportRefused, StocktakeError
from stocktake.ledger import Ledger, SaveOutcome, Snapshot
from stocktake.model.books import ComputeNode
from stocktake.model.hypervisor import Host, HostView
from stocktake.model.workload import Instance, NodeWork
from stocktake.placement.overrides import NodeOverrides, overrides_for
from stocktake.refresh.cache import RefreshCache
from stocktake.refresh.claim_expiry import claims_due, settle_claims
from stocktake.refresh.context import NOTHING, Context, Override, Pass, failure_of
from stocktake.refresh.identity import check_driver, check_host, identified, machine_of, settle_machine
from stocktake.refresh.locked import books_of, count_locked, guests_of
from stocktake.refresh.orphan_nodes import delete_orphan_nodes
from stocktake.refresh.ownership import Division, divided, hand_over, join, still_ours
from stocktake.report.save import Books, Reported, Terms, report
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

    def saved(self) -> None:
        self.lap("save")


def refresh(
    context: Context,
    *,
    only: str | None = None,
    full: bool = False,
    override: Override = NOTHING,
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
        override: what an operator overrides, this once.
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
    result = Pass() if into is None else into
    timer = _Timer(context.clock, result, context.clock.monotonic_s())
    ours = _known(context, result, first=not (override.identity or (cache and cache.checked)))
    timer.lap("read")
    division = _divided(context, listed := _listed(context, ours))
    timer.lap("list")
    if stop():
        return result
    asked = division.mine if only is None else _only(only, division.mine)
    views = audit(context.driver, context.monitors, asked, my_ip=context.settings.my_ip, limit=context.limit)
    timer.lap("audit")
    hosts = _verified(views, cache := cache or RefreshCache(), result)
    timer.lap("verify")
    uuids = identified(context, division.mine, hosts, ours, result, adopt=override.identity, run=cache.run)
    snapshot, disabled = _snapshot(context, hosts, cache)
    counting = _Counting(context, views, hosts, uuids, cache, disabled=disabled)
    books = _settled(context, counting, counting.counted(snapshot.works), result)
    timer.lap("tally")
    if not stop():
        terms = _terms(context, override, timer, full=full, stop=stop, progress=progress)
        _merge(report(context.ledger, context.scheduler, books, counting, terms), result)
        timer.lap("report")
    _note(context.ledger, ours, result)
    if only is None and not stop():
        cache.keep(division.mine)
        delete_orphan_nodes(context, listed, ours, result, stop, gone=bool(snapshot.gone))
        result.handed_over = hand_over(context.ledger, division, context.rules.host)
    _announce(context, result)
    timer.lap("save")
    return result


def _known(context: Context, result: Pass, *, first: bool) -> Sequence[ComputeNode]:
    """Read this host's nodes as they were saved, and stop if they are another's."""
    # What a bus is told of is compared whole.
    read = context.ledger.nodes_in_brief if context.bus is None else context.ledger.nodes
    ours = read(host=context.rules.host, replica=True)
    result.known = tuple(ours)
    if context.bus is not None:
        context.bus.begin(ours)
    result.compute_id = check_host(context, ours, first=first)
    return ours


def _divided(context: Context, listed: tuple[str, ...]) -> Division:
    me, now, down_time_s = context.rules.host, context.clock.now(), context.settings.service_down_time
    return divided(context.ledger, context.driver, listed, me=me, now=now, down_time_s=down_time_s)


def _snapshot(context: Context, hosts: Mapping[str, Host], cache: RefreshCache) -> tuple[Snapshot, bool]:
    """Read what is allocated on the nodes, and whether this host, registered if it is new, is disabled."""
    snapshot = context.ledger.snapshot(context.rules.host, tuple(hosts), guests_of(hosts))
    host, machine, service = context.rules.host, machine_of(context.settings.machine_id), snapshot.service
    if service is None:
        service = context.ledger.register(host, version=__version__, machine=machine)
    # Who was faster to register has the name.
    settle_machine(context.ledger, service, machine, first=snapshot.service is not None and not cache.checked)
    cache.checked = True
    join(context.ledger, context.driver, service)
    return snapshot, service.disabled


def _terms(
    context: Context,
    override: Override,
    timer: _Timer,
    *,
    full: bool,
    stop: Callable[[], bool],
    progress: Callable[[int, int], object],
) -> Terms:
    """Say how the scheduler is to be told."""
    own = context.settings.allocations == "own"
    return Terms(own=own, full=full, forced=override.provider, saved=timer.saved, stop=stop, progress=progress)


def _only(only: str, names: Sequence[str]) -> tuple[str]:
    """Ask for this node only, which must be one of ours."""
    if only not in names:
        raise NodeNotFound(f"the driver has no node {only!r}; it has {', '.join(names[:5]) or 'none'}", where=only)
    return (only,)


def _settled(context: Context, counting: "_Counting", books: dict[str, Books], result: Pass) -> dict[str, Books]:
    """Adopt guests and settle claims; give the books of the nodes, counted again where either changed something."""
    settings, ledger, hosts = context.settings, context.ledger, counting.hosts
    now, host = context.clock.now(), context.rules.host
    if settings.adopt == "auto":
        new, gone = _to_adopt(hosts, books, host, now), _to_forget(hosts, books)
        if new:
            ledger.put_instances(new)
        if gone:
            ledger.delete_instances(gone)
        result.adopted = [instance.uuid for instance in new]
        if new or gone:
            books = books | counting.read(tuple(hosts))
    due = claims_due(hosts, books, host=host, now=now, own=settings.allocations == "own")
    if not due.uuids:
        return books
    result.expired = settle_claims(ledger, due)
    return books | counting.read(tuple(hosts))


def _to_adopt(hosts: Mapping[str, Host], books: Mapping[str, Books], host: str, now: datetime) -> list[Instance]:
    """Make instances of the running unmanaged guests."""
    new: list[Instance] = []
    for node, book in books.items():
        orphans = {entry.id for entry in book.tally.entries if entry.kind == "orphan"}
        unknown = orphans - {instance.uuid for instance in book.work.instances} - book.work.places.keys()
        guests = (guest for guest in hosts[node].guests or () if guest.uuid in unknown and guest.active)
        new += [adopted(guest, host=host, node=node, now=now) for guest in guests]
    return new


def _to_forget(hosts: Mapping[str, Host], books: Mapping[str, Books]) -> list[str]:
    """Name the adopted instances whose guests the hypervisor no longer has: they are recorded nowhere else."""
    gone: list[str] = []
    for node, book in books.items():
        guests = hosts[node].guests
        if guests is not None:
            there = {guest.uuid for guest in guests}
            gone += [one.uuid for one in book.work.instances if one.adopted and one.uuid not in there]
    return gone


@dataclass(frozen=True, slots=True)
class _Counting:
    """
    Counts nodes of one pass, each as often as others change what is allocated on it.

    Attributes:
        views, hosts: what the hypervisor said, by node name: as it came, and as it is believed.
        uuids: the nodes' own, by name.
    """

    context: Context
    views: Mapping[str, HostView | StocktakeError]
    hosts: Mapping[str, Host]
    uuids: Mapping[str, str]
    cache: RefreshCache
    disabled: bool

    def counted(self, works: Mapping[str, NodeWork]) -> dict[str, Books]:
        """Tally what was read."""
        return {node: self._one(node, work) for node, work in works.items()}

    def read(self, nodes: Sequence[str]) -> dict[str, Books]:
        """Read and tally anew."""
        guests = guests_of({node: self.hosts[node] for node in nodes})
        return self.counted(self.context.ledger.work(self.context.rules.host, nodes, guests))

    def counted_again(self, nodes: Sequence[str]) -> dict[str, Books]:
        """Read and tally anew, without the nodes that other services took meanwhile."""
        return self.read(still_ours(self.context.ledger, nodes, self.uuids, self.context.rules.host))

    def saved_locked(self, nodes: Sequence[str]) -> tuple[dict[str, Books], SaveOutcome]:
        """The same, with the nodes' rows locked, and save them."""
        context = self.context
        done = count_locked(
            context.ledger,
            host=context.rules.host,
            views={node: view for node in nodes if isinstance(view := self.views[node], HostView)},
            uuids={node: self.uuids[node] for node in nodes},
            rules=context.rules,
            overrides={node: self._overrides(node) for node in nodes},
            disabled=self.disabled,
        )
        ours = still_ours(context.ledger, nodes, self.uuids, context.rules.host)
        return self.counted({node: done.works[node] for node in ours}), done.outcome

    def _one(self, node: str, work: NodeWork) -> Books:
        host, uuid, rules = self.hosts[node], self.uuids[node], self.context.rules

        def count() -> Books:
            own = self.context.settings.allocations == "own"
            return books_of(host, work, rules, self._overrides(node), uuid=uuid, disabled=self.disabled, own=own)

        return self.cache.books(host, work, uuid, disabled=self.disabled, count=count)

    def _overrides(self, node: str) -> NodeOverrides:
        return overrides_for(self.context.overrides, self.hosts[node].hypervisor_hostname, self.uuids[node])


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
    check_driver(context, ours)
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
            remedy = "The node keeps its last record, marked stale, until its driver's report can be used."
            result.failed[node] = ReportRefused("; ".join(verdict.reasons), where=node, remedy=remedy)
    return hosts


def _note(ledger: Ledger, ours: Sequence[ComputeNode], result: Pass) -> None:
    """Mark the rows of nodes that could not be refreshed; a row that says so already is not written."""
    rows = {row.hypervisor_hostname: row for row in ours}
    failures = {rows[node].uuid: failure_of(error) for node, error in result.failed.items() if node in rows}
    if failures:
        ledger.note_failures(failures)


def _announce(context: Context, result: Pass) -> None:
    """Put what the ledger says now, and what was measured, before the message bus; whether it is there or not."""
    if context.bus is not None:
        context.bus.announce(context.ledger.nodes(host=context.rules.host), tuple(result.nodes.values()))
