"""
`nodes`: all nodes at a glance. Invariant: the ledger is read, nobody else is asked.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import partial

import click

from stocktake.accounting.capacity import ResourceTotals, added
from stocktake.cli.commands import Command, confirm
from stocktake.cli.options import choice_options
from stocktake.cli.screen import (
    COLOURS,
    Column,
    Screen,
    TableCell,
    hint,
    screen_of,
    write,
    write_json,
    write_list,
    write_prose,
)
from stocktake.cli.session import Session
from stocktake.errors import NotFound
from stocktake.views.choosing import Choice, counted
from stocktake.views.finding import find_node, read_fleet
from stocktake.views.nodes import NodeView, machine, summary_of
from stocktake.views.quantities import count, gib, nearest, since

# How a resource's column is called, and how readily it goes where it is narrow.
RESOURCE_COLUMNS: Mapping[str, tuple[str, int]] = {
    "vcpus": ("VCPUS", 0),
    "pcpus": ("PCPUS", 0),
    "memory_mb": ("MEMORY GiB", 0),
    "local_gb": ("DISK GB", 7),
}


@click.command(
    "nodes",
    cls=Command,
    example="""
    $ stocktake nodes
    $ stocktake nodes --host compute-7
    $ stocktake nodes --state available --trait CUSTOM_FAST --name 'rack7-*'
    $ stocktake nodes --problem '*' --limit 50
    $ stocktake nodes --json | jq -r '.data[] | select(.state != "up") | .hypervisor_hostname'
    $ stocktake nodes --delete compute-7.example.org
    """,
)
@click.option("--host", metavar="HOST", help="Only the nodes of this service.")
@choice_options
@click.option("--delete", "doomed", metavar="NODE", help="Delete a node's record and its resource provider.")
@click.option("--force", is_flag=True, help="With --delete: even if its service is alive and will make it again.")
@click.option(
    "--force-provider",
    metavar="UUID",
    help="With --delete: its resource provider of this uuid goes even if it is Nova's or others hold something of it.",
)
@click.option("--yes", is_flag=True, help="With --delete: do not ask.")
@click.pass_obj
def nodes_command(
    session: Session,
    host: str | None,
    doomed: str | None,
    force_provider: str | None,
    *,
    choice: Choice,
    force: bool,
    yes: bool,
) -> int:
    """List the nodes: state, how full they are, problems.

    \b
    STATE is `up`; `manual` (no agent ever ran, somebody refreshes it by hand);
    `stale` (a part could not be reached, the last figures are
    kept); `failed` (somebody has to do something); or `down` (its agent has
    not reported within service_down_time).
    Figures are allocated/capacity: what instances were given of what may be given
    out. CHANGED is when the record last did.

    Of bare metal MACHINE is what Ironic says: its state, its power, maintenance;
    --state takes these words too. The sums are of all nodes that match, also
    where --limit shows fewer.

    A resource provider that is Nova's, or of which consumers that the ledger does
    not know hold something, is left where it is when its node is deleted: exit
    code 1, and why.
    """
    if doomed is not None:
        return _delete(session, doomed, force=force, force_provider=force_provider, yes=yes)
    if force or yes or force_provider:
        raise click.UsageError("--force, --force-provider and --yes go with --delete NODE.")

    now = session.clock.now()
    views = read_fleet(session.ledger, now, session.settings.service_down_time, host=host)
    if host is not None and not views:
        known = sorted({node.host for node in session.ledger.nodes_in_brief()})
        raise NotFound(f"host {host!r} has no nodes.{nearest(host, known)}", remedy="")
    matching = choice.chosen(views)
    page = choice.page(matching)
    if session.json:
        write_json(session, [summary_of(view) for view in page])
        return 0
    screen = screen_of(session)
    if not views:
        write(screen, f"The ledger {session.ledger.name} has no nodes yet.")
        hint(session, "`stocktake refresh` takes stock of this machine; `stocktake agent` keeps doing so.")
    elif not page:
        write(screen, f"None of {count(len(views), 'node')} matches.")
    else:
        write_nodes(session, screen, page, now, matching=matching)
        if page[-1] is not matching[-1]:
            hint(session, f"Next page: --marker {page[-1].name}")
    return 0


def write_nodes(
    session: Session,
    screen: Screen,
    views: Sequence[NodeView],
    now: datetime,
    *,
    matching: Sequence[NodeView] | None = None,
) -> None:
    """
    Write the table, its sums, and why nodes are not up.

    Args:
        matching: of whom the sums are, if that is more than what is shown.
    """
    matching = matching or views
    columns = _columns(views, matching, now)
    sums = _sums(views, matching) if len(matching) > 1 else {}
    write_list(
        session,
        screen,
        [column for column, _ in columns],
        [[text(view) for _, text in columns] for view in views],
        sums=[TableCell(sums.get(column.title, ""), "bold") for column, _ in columns] if sums else None,
    )
    for line in (*_states(matching), *_reasons(matching)):
        write_prose(screen, line, colour="yellow")


def _columns(
    views: Sequence[NodeView], matching: Sequence[NodeView], now: datetime
) -> list[tuple[Column, Callable[[NodeView], str | TableCell]]]:
    """Give the columns that these nodes need, each with what stands in it."""
    hosts_differ = any(view.node.host != view.node.hypervisor_hostname.partition(".")[0] for view in views)
    any_disabled = any(view.disabled for view in views)
    columns: list[tuple[Column, Callable[[NodeView], str | TableCell]]] = [
        (Column("NODE", shrinks=True), lambda view: view.name),
        (Column("HOST", weight=4 if hosts_differ else 1, shrinks=True), lambda view: view.node.host),
        (Column("STATE"), lambda view: TableCell(view.state.word, COLOURS[view.state.word])),
    ]
    if any(machine(view.node) for view in views):
        columns.append((Column("MACHINE", weight=9), lambda view: ", ".join(machine(view.node))))
    columns.append((Column("STATUS", weight=5 if any_disabled else 2), _status))
    known = {name for view in matching for name in view.resources}
    columns += [
        (Column(title, right=True, weight=weight), partial(_full, name))
        for name, (title, weight) in RESOURCE_COLUMNS.items()
        if name in known
    ]
    columns += [
        (Column("VMS", right=True, weight=8), lambda view: str(view.node.running_vms)),
        (Column("PROBLEMS", right=True, weight=6), _problems),
        (
            Column("CHANGED", right=True, weight=3),
            lambda view: since(view.node.updated_at or view.node.created_at, now),
        ),
    ]
    if any(view.name != view.node.hypervisor_hostname for view in views):
        columns.append((Column("UUID", weight=1), lambda view: view.node.uuid))
    return columns


def _status(view: NodeView) -> TableCell:
    status = "disabled" if view.disabled else "enabled"
    return TableCell(status, COLOURS[status])


def _full(name: str, view: NodeView) -> str | TableCell:
    one = view.resources.get(name)
    return TableCell(allocated_text(one), "red" if one.over_allocated else "") if one else ""


def _problems(view: NodeView) -> TableCell:
    colour = {"error": "red", "warning": "yellow", None: "dim"}[view.severity]
    return TableCell(str(len(view.problems)), colour)


def allocated_text(one: ResourceTotals) -> str:
    """Write allocated/capacity, memory in GiB."""
    shown = gib if one.name == "memory_mb" else str
    return f"{shown(one.allocated)}/{shown(one.capacity)}"


def _sums(views: Sequence[NodeView], matching: Sequence[NodeView]) -> dict[str, str]:
    """Give the sums of all that match, by the titles of their columns."""
    shown = f"{len(views):,} of " if len(views) < len(matching) else ""
    totals = added(view.resources.values() for view in matching)
    return {
        "NODE": f"{shown}{len(matching):,} nodes",
        **{RESOURCE_COLUMNS[one.name][0]: allocated_text(one) for one in totals},
        "VMS": str(sum(view.node.running_vms for view in matching)),
        "PROBLEMS": str(sum(len(view.problems) for view in matching)),
    }


def _states(views: Sequence[NodeView]) -> list[str]:
    """Count the states, where there are several, and what machines do."""
    told = [
        counted(view.state.word for view in views),
        counted(machine(view.node)[0] for view in views if machine(view.node)),
    ]
    return [text for text in told if "," in text]


def _reasons(views: Sequence[NodeView]) -> list[str]:
    """Say why nodes are not up: each reason once, however many nodes have it."""
    shown_max = 5
    nodes_of: dict[str, list[str]] = {}
    for view in views:
        if view.state.reason:
            nodes_of.setdefault(f"{view.state.word}: {view.state.reason}", []).append(view.name)
        if view.service is not None and view.disabled:
            reason = f"disabled: {view.service.disabled_reason or 'no reason was given'}"
            nodes_of.setdefault(reason, []).append(view.name)
    texts: list[str] = []
    for reason, names in list(nodes_of.items())[:shown_max]:
        who = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        texts.append(f"{who} {reason}")
    if len(nodes_of) > shown_max:
        texts.append(f"… and {len(nodes_of) - shown_max} more reasons: see --json")
    return texts


def _delete(session: Session, name: str, *, force: bool, force_provider: str | None, yes: bool) -> int:
    """Delete the record, then the resource provider; one that still has instances stays."""
    from stocktake.refresh.node_removal import check_removable, remove
    from stocktake.report.notifications import open_bus

    ledger = session.ledger
    node = find_node(ledger, name)
    name = node.hypervisor_hostname
    check_removable(ledger, node, session.clock.now(), session.settings.service_down_time, force=force)
    if not yes:
        confirm(f"Delete node {name} of host {node.host} and its resource provider {node.uuid}?")
    settings = session.settings
    if session.server is not None:
        left = session.fleet.delete_node(node.uuid, force=force, force_provider=force_provider)
    else:
        told = partial(open_bus, settings.notifications, settings.host, session.clock, session.ids)
        left = remove(ledger, session.scheduler, node, told, force_provider=force_provider)
    data = {"deleted": name, "uuid": node.uuid, "provider_left": left}
    code = 0 if left is None else 1
    if session.json:
        write_json(session, data, exit_code=code)
    elif left is None:
        write(screen_of(session), f"Deleted node {name} and its resource provider.")
    else:
        screen = screen_of(session)
        write(screen, f"Deleted node {name}; its resource provider stays.")
        write_prose(screen, f"{left}.", colour="yellow")
    return code
