"""`/nodes/<name or uuid>`: everything about a node. Invariant: every number leads to why it is so, on the same page."""

from collections.abc import Sequence
from datetime import datetime

from starlette.responses import Response

from stocktake.ledger import DatabaseLedger
from stocktake.model.access import READERS
from stocktake.model.books import ComputeNode, Entry
from stocktake.views.explain import explained
from stocktake.views.finding import find_node
from stocktake.views.nodes import called, machine_facts, state_of
from stocktake.views.problems import fleet_problems
from stocktake.web.calls import Call, route
from stocktake.web.pages.drawings import (
    DAY,
    HEIGHT,
    LENGTH,
    MONTH,
    PARTS,
    UNITS,
    WIDTH,
    Plot,
    bars_of,
    map_of,
    plot,
    points_of,
)
from stocktake.web.pages.frame import MEDIA, ago, page, refused
from stocktake.web.pages.tiles import TITLES


def node(call: Call[None, None]) -> Response:
    """Show a node."""
    ledger, now = call.web.ledger, call.web.clock.now()
    found = find_node(ledger, call.path["node"])
    service = ledger.service(found.host)
    entries = ledger.entries(found.uuid)
    devices = ledger.devices([found.uuid])[found.uuid]
    down_s = call.web.settings.service_down_time
    state = state_of(found, service, now, down_s)
    # Of an agent that is silent it is told how many nodes it leaves alone.
    nodes = ledger.nodes_in_brief(host=found.host) if state.word == "down" else [found]
    wrong = fleet_problems(nodes, [service] if service else [], {found.uuid: entries}, now, down_s)
    return page(
        call,
        "node.html",
        node=found,
        title=called(found),
        service=service,
        state=state,
        facts=_facts(found, now),
        problems=[problem for problem in wrong if problem.node_uuid in {None, found.uuid}],
        bars=bars_of(found, entries),
        length=LENGTH,
        parts=PARTS,
        map=map_of(found, entries),
        entries=_by_size(entries),
        devices=devices,
        names={entry.id: entry.name or entry.id for entry in entries},
        why=explained(found, entries, devices),
        plots=_plots(ledger, found, now),
        plot_width=WIDTH,
        plot_height=HEIGHT,
        seen=ago(max(metric.timestamp for metric in found.metrics), now) if found.metrics else "",
    )


def _facts(found: ComputeNode, now: datetime) -> tuple[tuple[str, str], ...]:
    kind = " ".join(text for text in (found.hypervisor_type, _version(found.hypervisor_version)) if text)
    facts = (
        ("name", found.hypervisor_hostname if called(found) != found.hypervisor_hostname else ""),
        ("uuid", found.uuid),
        ("address", found.host_ip or ""),
        ("hypervisor", kind),
        *machine_facts(found),
        ("booted", ago(found.booted_at, now) if found.booted_at else ""),
        ("changed", ago(found.updated_at, now) if found.updated_at else ""),
        ("instances", f"{found.running_vms}, {found.current_workload} with a task"),
    )
    return tuple((title, text) for title, text in facts if text)


def _version(number: int | None) -> str:
    """Write Nova's packed version: 7002000 is 7.2.0."""
    if number is None or number < 1_000:
        return "" if number is None else str(number)
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def _by_size(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Put what takes most memory first, what is reserved before all."""
    return tuple(sorted(entries, key=lambda entry: (entry.kind != "reserved", -entry.memory_mb, entry.id)))


def _plots(ledger: DatabaseLedger, found: ComputeNode, now: datetime) -> tuple[tuple[str, tuple[Plot, ...]], ...]:
    """Draw a day and a month; nothing of which there is no history."""
    then = ledger.history(found.uuid, since_s=MONTH.total_seconds())
    drawn = (
        (
            title,
            tuple(
                one
                for what in TITLES
                if (one := plot(points_of(then, what), TITLES[what], UNITS[what], now=now, span=span)) is not None
            ),
        )
        for title, span in (("The last day", DAY), ("The last month", MONTH))
    )
    return tuple((title, plots) for title, plots in drawn if plots)


ROUTES = (route("GET", "/nodes/{node}", node, READERS, media=MEDIA, hidden=True, errors=refused),)
