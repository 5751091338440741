"""
Step 2: one pass over the nodes. Law: one node's trouble is no other's, and all are asked, read and saved at once.

audit -> verify -> read -> tally -> desired -> save -> sync; each step takes what the one before gave.
"""

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

from stocktake import __version__, identity
from stocktake.accounting.orphans import adopted
from stocktake.accounting.tally import tally
from stocktake.audit import TimeLimit, audit
from stocktake.clock import Clock, Ids
from stocktake.drivers.base import Driver
from stocktake.errors import (
    DriverUnreachable,
    IdentityError,
    NodeNotFound,
    NotFound,
    PlacementUnreachable,
    ReportRefused,
    StocktakeError,
)
from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode
from stocktake.model.hypervisor import Guest, Host, HostView
from stocktake.model.problem import Problem
from stocktake.model.rules import Rules
from stocktake.model.value import replace
from stocktake.model.workload import NodeWork, Service
from stocktake.monitors.base import Monitor
from stocktake.placement import Overrides, Scheduler
from stocktake.placement.desired import desired
from stocktake.placement.overrides import overrides_for
from stocktake.report import Books, Reported, carried, save, sync
from stocktake.settings import Settings
from stocktake.verify import verify

LOG = logging.getLogger(__name__)
VANISHED = "node-vanished"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a pass works with; the agent and the commands put it together."""

    settings: Settings
    rules: Rules
    overrides: Overrides
    driver: Driver
    monitors: Sequence[Monitor]
    ledger: Ledger
    scheduler: Scheduler
    clock: Clock
    ids: Ids
    limit: TimeLimit


@dataclass(slots=True)
class Pass:
    """
    What one pass did.

    Attributes:
        nodes: the records as they are now, by name.
        failed: why a node could not be refreshed; its record stays, marked.
        unsynced: why the scheduler does not have a saved record.
        deleted, kept: nodes that are gone, and those that should be and why they are not.
        moved: nodes taken over, and the host that had them.
        adopted: uuids of guests that became instances.
        seconds: how long each step took.
    """

    nodes: dict[str, ComputeNode] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)
    failed: dict[str, StocktakeError] = field(default_factory=dict)
    unsynced: dict[str, StocktakeError] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    adopted: list[str] = field(default_factory=list)
    writes: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def fine(self) -> bool:
        """Say whether everything was refreshed and reported."""
        return not (self.failed or self.unsynced)


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
    parts: Parts, *, only: str | None = None, full: bool = False, stop: Callable[[], bool] = lambda: False
) -> Pass:
    """
    Take stock of all nodes, or of one.

    Args:
        only: a node's name; then no other is touched and none is deleted.
        full: read everything back from the scheduler, whatever its generations say.
        stop: asked between steps; once it says yes, what is not saved yet is left for the next pass.

    Raises:
        IdentityError: this host is not who the ledger says it is; nothing was written.
        LedgerUnreachable, LedgerError: nothing was saved; nothing was sent to the scheduler.
        DriverUnreachable, DriverError: the driver could not list its nodes; their rows carry that.
        NodeNotFound: the driver has no node named `only`.
    """
    result = Pass()
    timer = _Timer(parts.clock, result, parts.clock.monotonic_s())
    host = parts.rules.host
    ours = parts.ledger.nodes(host=host, replica=True)
    _guard_host(parts, ours)
    timer.lap("read")
    _guard_driver(parts, ours)
    names = _listed(parts, ours)
    timer.lap("list")
    if only is not None and only not in names:
        raise NodeNotFound(f"the driver has no node {only!r}; it has {', '.join(names[:5]) or 'none'}", where=only)
    wanted = names if only is None else (only,)
    views = audit(parts.driver, parts.monitors, wanted, my_ip=parts.settings.my_ip, limit=parts.limit)
    timer.lap("audit")
    hosts, refused = _verified(views)
    result.failed |= refused
    timer.lap("verify")
    uuids = _identified(parts, names, hosts, ours, result)
    service = parts.ledger.service(host) or parts.ledger.heartbeat(host, version=__version__)
    _count(parts, hosts, uuids, service, result=result, timer=timer, full=full, stop=stop)
    _note(parts, ours, result)
    if only is None and not stop():
        _delete_vanished(parts, names, ours, result)
    timer.lap("save")
    return result


def _count(
    parts: Parts,
    hosts: Mapping[str, Host],
    uuids: Mapping[str, str],
    service: Service,
    *,
    result: Pass,
    timer: _Timer,
    full: bool,
    stop: Callable[[], bool],
) -> None:
    """Read, tally, save and report the nodes whose hosts are verified."""

    def books_of(nodes: Sequence[str]) -> dict[str, Books]:
        guests = {node: frozenset(guest.uuid for guest in hosts[node].guests or ()) for node in nodes}
        works = parts.ledger.work(parts.rules.host, nodes, guests)
        return {node: _books(parts, hosts[node], works[node], uuids[node], service) for node in nodes}

    books = books_of(tuple(hosts))
    if parts.settings.adopt == "auto":
        result.adopted = _adopt(parts, hosts, books)
        if _let_go(parts, hosts, books) or result.adopted:
            books.update(books_of(tuple(hosts)))
    timer.lap("tally")
    if stop():
        return
    done = save(parts.ledger, books, books_of)
    timer.lap("save")
    if not stop():
        sync(parts.ledger, parts.scheduler, books, done, full=full)
    timer.lap("report")
    _merge(done, result)


def _merge(done: Reported, result: Pass) -> None:
    result.nodes.update(done.saved)
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


def _guard_driver(parts: Parts, ours: Sequence[ComputeNode]) -> None:
    """Stop where `compute_driver = "auto"` found no hypervisor and the ledger knows that there is one: it is down."""
    if parts.settings.compute_driver != "auto" or parts.driver.name != "host":
        return
    known = {row.hypervisor_type for row in ours} - {None, "host"}
    if known:
        error = DriverUnreachable(
            f"no hypervisor answers, and the ledger knows this host as {', '.join(sorted(map(str, known)))}",
            where=parts.rules.host,
            remedy='Start it; or, if it is gone for good, set `compute_driver = "host"`.',
        )
        parts.ledger.note_failures({row.uuid: failure_of(error) for row in ours})
        raise error


def _listed(parts: Parts, ours: Sequence[ComputeNode]) -> tuple[str, ...]:
    """Ask the driver for its nodes; if it can't say, every node of ours carries that and nothing else happens."""
    try:
        return parts.limit.call(parts.driver.node_names)
    except StocktakeError as error:
        parts.ledger.note_failures({row.uuid: failure_of(error) for row in ours})
        raise


def _verified(
    views: Mapping[str, HostView | StocktakeError],
) -> tuple[dict[str, Host], dict[str, StocktakeError]]:
    hosts: dict[str, Host] = {}
    failed: dict[str, StocktakeError] = {}
    for node, view in views.items():
        if isinstance(view, StocktakeError):
            failed[node] = view
            continue
        verdict = verify(view)
        if isinstance(verdict, Host):
            hosts[node] = verdict
        else:
            remedy = "The node keeps its last record, marked stale, until its driver reports sense."
            failed[node] = ReportRefused(verdict.reasons, where=node, remedy=remedy)
    return hosts, failed


def _identified(
    parts: Parts, names: Sequence[str], hosts: dict[str, Host], ours: Sequence[ComputeNode], result: Pass
) -> dict[str, str]:
    """Settle the nodes' uuids, or stop. A node whose driver gives it another uuid than its record has drops out."""
    reported = {node: host.uuid for node, host in hosts.items() if host.uuid is not None}
    saved = {row.hypervisor_hostname: row.uuid for row in ours}
    for node, uuid in reported.items():
        if saved.get(node, uuid) != uuid:
            what = f"the driver gives it the uuid {uuid}, and the ledger knows it as {saved[node]}"
            remedy = f"If the machine was replaced, `stocktake nodes --delete {node}` makes room for the new one."
            result.failed[node] = IdentityError(what, where=node, remedy=remedy)
            del hosts[node]
    _take_over(parts, {uuid for node, uuid in reported.items() if node not in saved}, result)
    if reported.keys() >= hosts.keys() and hosts:
        return {node: reported[node] for node in hosts}
    own = identity.compute_id(parts.settings.state_path, ours, parts.ids)
    identity.guard_nodes(own, names, ours)
    return identity.node_uuids(own, tuple(hosts), reported, ours)


def _guard_host(parts: Parts, ours: Sequence[ComputeNode]) -> None:
    """Stop if this host's id is another host's node; asks the ledger only where the id is none of our rows'."""
    own = identity.read_compute_id(parts.settings.state_path)
    if own is None or any(row.uuid == own for row in ours):
        return
    try:
        holder = parts.ledger.node(own)
    except NotFound:
        return
    identity.guard_host(parts.rules.host, own, holder)


def _take_over(parts: Parts, uuids: Collection[str], result: Pass) -> None:
    """Move nodes that are ours now and were another service's before: record, provider and allocations stay."""
    if not uuids:
        return
    for row in parts.ledger.nodes():
        if row.uuid in uuids and row.host != parts.rules.host:
            parts.ledger.move_node(row.uuid, parts.rules.host)
            result.moved[row.hypervisor_hostname] = row.host
            LOG.warning("took a node over from %s", row.host, extra={"node": row.hypervisor_hostname})


def _books(parts: Parts, host: Host, work: NodeWork, uuid: str, service: Service) -> Books:
    """Tally one node and work out what the scheduler should hold."""
    counted = tally(host, work, parts.rules, uuid=uuid)
    own = overrides_for(parts.overrides, host.hypervisor_hostname, counted.node.uuid)
    tree, problems = desired(host, counted, parts.rules, disabled=service.disabled, overrides=own)
    node = replace(counted.node, problems=(*counted.node.problems, *problems))
    node = carried(node, tree, work.record)
    return Books(work=work, tally=replace(counted, node=node), tree=tree)


def _adopt(parts: Parts, hosts: Mapping[str, Host], books: Mapping[str, Books]) -> list[str]:
    """Make instances of the running guests that nobody promised (setting `adopt = "auto"`)."""
    instances = []
    for node, book in books.items():
        orphans = {entry.id for entry in book.tally.entries if entry.kind == "orphan"}
        known = {instance.uuid for instance in book.work.instances} | book.work.places.keys()
        guests: Collection[Guest] = hosts[node].guests or ()
        instances += [
            adopted(guest, host=parts.rules.host, node=node, now=parts.clock.now())
            for guest in guests
            if guest.uuid in orphans - known and guest.active
        ]
    if instances:
        parts.ledger.put_instances(instances)
    return [instance.uuid for instance in instances]


def _let_go(parts: Parts, hosts: Mapping[str, Host], books: Mapping[str, Books]) -> list[str]:
    """Delete the adopted instances whose guests the hypervisor no longer has: nobody else keeps their books."""
    gone: list[str] = []
    for node, book in books.items():
        guests = hosts[node].guests
        if guests is not None:
            there = {guest.uuid for guest in guests}
            gone += [one.uuid for one in book.work.instances if one.adopted and one.uuid not in there]
    if gone:
        parts.ledger.delete_instances(gone)
    return gone


def failure_of(error: StocktakeError) -> Problem:
    """Make what a node carries while it can't be refreshed."""
    return Problem(code=error.code, about=error.where, text=error.what, remedy=error.remedy, severity="error")


def _note(parts: Parts, ours: Sequence[ComputeNode], result: Pass) -> None:
    """Mark the rows of nodes that could not be refreshed; a row that says so already is not written."""
    rows = {row.hypervisor_hostname: row for row in ours}
    failures = {rows[node].uuid: failure_of(error) for node, error in result.failed.items() if node in rows}
    if failures:
        parts.ledger.note_failures(failures)


def _delete_vanished(parts: Parts, names: Sequence[str], ours: Sequence[ComputeNode], result: Pass) -> None:
    """
    Delete compute nodes that the driver no longer reports, record first, then provider; see docs/accounting.md.

    Kept are nodes that the driver still has (they moved), that still have instances, and, if more than a set share
    vanishes at once, all of them until a second pass agrees.
    """
    gone = [row for row in ours if row.hypervisor_hostname not in names]
    if gone:
        # What the replica said may be old: another service may own the node by now.
        still = {row.uuid for row in parts.ledger.nodes(host=parts.rules.host)}
        gone = [row for row in gone if row.uuid in still]
    many = len(gone) > len(ours) * parts.settings.vanish_share_max and len(ours) > 1
    marks: dict[str, Problem] = {}
    for row in gone:
        name = row.hypervisor_hostname
        why = _why_kept(parts, row, many=many)
        if why is None:
            parts.ledger.delete_node(row.uuid)
            result.deleted.append(name)
            LOG.warning("deleted a compute node that the driver no longer reports", extra={"node": name})
            continue
        result.kept[name] = why
        marks[row.uuid] = Problem(code=VANISHED, about=name, text=f"the driver no longer reports it; {why}")
    if marks:
        parts.ledger.note_failures(marks)
    for pending in parts.ledger.deleted_nodes(parts.rules.host):
        try:
            parts.scheduler.delete_tree(pending.uuid)
        except StocktakeError as error:
            result.unsynced[pending.hypervisor_hostname] = error
            if isinstance(error, PlacementUnreachable):
                return
        else:
            parts.ledger.note_provider_deleted([pending.uuid])


def _why_kept(parts: Parts, row: ComputeNode, *, many: bool) -> str | None:
    """Say why a node that is not reported is kept; None if it goes."""
    if parts.limit.call(lambda: parts.driver.node_exists(row.hypervisor_hostname)):
        return "it still exists: it moved to another service"
    instances = parts.ledger.instances(host=row.host, node=row.hypervisor_hostname)
    if instances:
        return f"it still has {len(instances)} instances; move or delete them"
    seen_before = row.failure is not None and row.failure.code == VANISHED
    if many and not seen_before:
        return "many nodes vanished at once; it goes if the next pass agrees"
    return None
