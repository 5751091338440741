"""
`nodes`: all nodes at a glance. Invariant: the ledger is read, nobody else is asked.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

import click

from stocktake.cli.commands import Command, confirm
from stocktake.cli.options import choice_options
from stocktake.cli.screen import (
    COLOURS,
    Column,
    Row,
    Screen,
    TableCell,
    clean,
    hint,
    screen_of,
    write,
    write_json,
    write_prose,
    write_table,
)
from stocktake.cli.session import Session
from stocktake.errors import NotFound
from stocktake.model.books import ComputeNode
from stocktake.model.workload import Service
from stocktake.views.choosing import Choice, Line, counted
from stocktake.views.nodes import State, called, machine, states_of, summary_of
from stocktake.views.quantities import count, gib, nearest, since


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
@click.option("--yes", is_flag=True, help="With --delete: do not ask.")
@click.pass_obj
def nodes_command(
    session: Session, host: str | None, doomed: str | None, *, choice: Choice, force: bool, yes: bool
) -> int:
    """List the nodes: state, what is used of what there is, problems.

    \b
    STATE is `up`; `manual` (no agent ever ran, somebody refreshes it by hand);
    `stale` (a part could not be reached, the last figures are
    kept); `failed` (somebody has to do something); or `down` (no sign of life
    from its agent within service_down_time).
    Figures are used/total, reserved for the host included; CHANGED is when one
    last did.

    Of bare metal MACHINE is what Ironic says: its state, its power, maintenance;
    --state takes these words too. The sums are of all nodes that match, also
    where --limit shows fewer.
    """
    if doomed is not None:
        return _delete(session, doomed, force=force, yes=yes)
    if force or yes:
        raise click.UsageError("--force and --yes go with --delete NODE.")

    now = session.clock.now()
    nodes = session.ledger.nodes(host=host)
    if host is not None and not nodes:
        known = sorted({node.host for node in session.ledger.nodes()})
        raise NotFound(f"host {host!r} has no nodes.{nearest(host, known)}", remedy="")
    lines = states_of(nodes, session.ledger.services(), now, session.settings.service_down_time)
    strangers = session.ledger.unmanaged([node.uuid for node in nodes]) if choice.problems else {}
    matching = choice.chosen(lines, strangers)
    page = choice.page(matching)
    if session.json:
        write_json(session, [summary_of(*line) for line in page])
        return 0
    screen = screen_of(session)
    if not lines:
        write(screen, f"The ledger {session.ledger.name} has no nodes yet.")
        hint(session, "`stocktake refresh` takes stock of this machine; `stocktake agent` goes on doing so.")
    elif not page:
        write(screen, f"None of {count(len(lines), 'node')} matches.")
    else:
        write_nodes(session, screen, page, now, matching=matching)
        if page[-1] is not matching[-1]:
            hint(session, f"The next ones: --marker {called(page[-1][0])}")
    return 0


def write_nodes(
    session: Session,
    screen: Screen,
    lines: Sequence[Line],
    now: datetime,
    *,
    matching: Sequence[Line] | None = None,
) -> None:
    """
    Write the table, its sums, and why nodes are not up.

    Args:
        matching: of whom the sums are, if that is more than what is shown.
    """
    matching = matching or lines
    metal = any(machine(node) for node, _, _ in lines)
    renamed = any(called(node) != node.hypervisor_hostname for node, _, _ in lines)
    hosts_differ = any(node.host != node.hypervisor_hostname.partition(".")[0] for node, _, _ in lines)
    any_disabled = any(service is not None and service.disabled for _, service, _ in lines)
    columns = (
        Column("NODE", shrinks=True),
        Column("HOST", weight=4 if hosts_differ else 1, shrinks=True),
        Column("STATE"),
        *((Column("MACHINE", weight=9),) if metal else ()),
        Column("STATUS", weight=5 if any_disabled else 2),
        Column("VCPUS", right=True),
        Column("MEMORY GiB", right=True),
        Column("DISK GB", right=True, weight=7),
        Column("VMS", right=True, weight=8),
        Column("PROBLEMS", right=True, weight=6),
        Column("CHANGED", right=True, weight=3),
        *((Column("UUID", weight=1),) if renamed else ()),
    )
    sums = _sums(lines, matching, metal=metal, renamed=renamed) if len(matching) > 1 else None
    rows = [_row(*line, now, metal=metal, renamed=renamed) for line in lines]
    left_out = write_table(screen, columns, rows, sums=sums)
    for text in (*_states(matching), *_reasons(matching)):
        write_prose(screen, clean(text), colour="yellow")
    if left_out:
        hint(session, f"({left_out} more columns in a wider terminal, or with --json)")


def _row(node: ComputeNode, service: Service | None, state: State, now: datetime, *, metal: bool, renamed: bool) -> Row:
    status = "disabled" if service is not None and service.disabled else "enabled"
    worst = "red" if any(problem.severity == "error" for problem in node.problems) else "yellow"
    return (
        called(node),
        node.host,
        TableCell(state.word, COLOURS[state.word]),
        *((", ".join(machine(node)),) if metal else ()),
        TableCell(status, COLOURS[status]),
        f"{node.vcpus_used}/{node.vcpus}",
        f"{gib(node.memory_mb_used)}/{gib(node.memory_mb)}",
        f"{node.local_gb_used}/{node.local_gb}",
        str(node.running_vms),
        TableCell(str(len(node.problems)), worst if node.problems else "dim"),
        since(node.updated_at or node.created_at, now),
        *((node.uuid,) if renamed else ()),
    )


def _sums(lines: Sequence[Line], matching: Sequence[Line], *, metal: bool, renamed: bool) -> Row:
    nodes = [node for node, _, _ in matching]
    shown = f"{len(lines):,} of " if len(lines) < len(matching) else ""

    def pair(used: int, total: int) -> str:
        return f"{used}/{total}"

    texts = (
        f"{shown}{len(nodes):,} nodes",
        "",
        "",
        *(("",) if metal else ()),
        "",
        pair(sum(node.vcpus_used for node in nodes), sum(node.vcpus for node in nodes)),
        f"{gib(sum(node.memory_mb_used for node in nodes))}/{gib(sum(node.memory_mb for node in nodes))}",
        pair(sum(node.local_gb_used for node in nodes), sum(node.local_gb for node in nodes)),
        str(sum(node.running_vms for node in nodes)),
        str(sum(len(node.problems) for node in nodes)),
        "",
        *(("",) if renamed else ()),
    )
    return [TableCell(text, "bold") for text in texts]


def _states(lines: Sequence[Line]) -> list[str]:
    """Count the states, where there are several, and what machines do."""
    told = [
        counted(state.word for _, _, state in lines),
        counted(machine(node)[0] for node, _, _ in lines if machine(node)),
    ]
    return [text for text in told if "," in text]


def _reasons(lines: Sequence[Line]) -> list[str]:
    """Say why nodes are not up: each reason once, however many nodes have it."""
    shown_max = 5
    nodes_of: dict[str, list[str]] = {}
    for node, service, state in lines:
        if state.reason:
            nodes_of.setdefault(f"{state.word}: {state.reason}", []).append(called(node))
        if service is not None and service.disabled:
            reason = f"disabled: {service.disabled_reason or 'no reason was given'}"
            nodes_of.setdefault(reason, []).append(called(node))
    texts: list[str] = []
    for reason, names in list(nodes_of.items())[:shown_max]:
        who = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        texts.append(f"{who} {reason}")
    if len(nodes_of) > shown_max:
        texts.append(f"… and {len(nodes_of) - shown_max} more reasons: see --json")
    return texts


def _delete(session: Session, name: str, *, force: bool, yes: bool) -> int:
    """Delete the record, then the resource provider; one that still has instances stays."""
    from stocktake.refresh.node_removal import check_removable, remove
    from stocktake.report.notifications import open_bus
    from stocktake.views.finding import find_node

    ledger = session.ledger
    node = find_node(ledger, name)
    name = node.hypervisor_hostname
    check_removable(ledger, node, session.clock.now(), session.settings.service_down_time, force=force)
    if not yes:
        confirm(f"Delete node {name} of host {node.host} and its resource provider {node.uuid}?")
    settings = session.settings
    if session.server is not None:
        session.fleet.delete_node(node.uuid, force=force)
    else:
        told = partial(open_bus, settings.notifications, settings.host, session.clock, session.ids)
        remove(ledger, session.scheduler, node, told)
    if session.json:
        write_json(session, {"deleted": name, "uuid": node.uuid})
    else:
        write(screen_of(session), f"Deleted node {name} and its resource provider.")
    return 0
