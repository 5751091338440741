"""
`orphans`: unmanaged guests, and those that the ledger has elsewhere. Invariant: a guest is adopted only when asked for.
"""

import sys
from collections.abc import Sequence

import click

from stocktake.accounting.instance_usage import counts
from stocktake.accounting.orphans import adopted
from stocktake.cli.commands import Commands, confirm
from stocktake.cli.refresh import exit_code_of
from stocktake.cli.screen import Column, Row, Screen, TableCell, hint, screen_of, write, write_json, write_list
from stocktake.cli.session import Session
from stocktake.errors import InvalidInput, NotFound
from stocktake.model.hypervisor import Guest, Survey
from stocktake.model.workload import Instance
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.views.finding import find_node
from stocktake.views.problems import UnmanagedGuest, unmanaged_guests
from stocktake.views.quantities import gib, nearest


@click.group(
    "orphans",
    cls=Commands,
    invoke_without_command=True,
    example="""
    $ stocktake orphans
    $ stocktake orphans --node compute-7.example.org --json
    $ stocktake orphans adopt 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10
    """,
)
@click.option("--node", "node_name", metavar="NODE", help="Only those on this node.")
@click.pass_context
def orphans_command(context: click.Context, node_name: str | None) -> int:
    """List unmanaged guests (no instance stands for them), or adopt them.

    `orphan`: the ledger does not know it. `misplaced`: the ledger has it on
    another node. Both count as allocated while they run. As of the last refresh.
    Exit code 1 if there are any.
    """
    if context.invoked_subcommand is not None:
        return 0
    session = context.ensure_object(Session)
    found = _found(session, node_name)
    code = 1 if found else 0
    if session.json:
        write_json(session, found, exit_code=code)
        return code
    _write(session, screen_of(session), found)
    return code


def _found(session: Session, node_name: str | None) -> tuple[UnmanagedGuest, ...]:
    ledger = session.ledger
    nodes = ledger.nodes() if node_name is None else (find_node(ledger, node_name),)
    return unmanaged_guests(nodes, ledger.unmanaged([node.uuid for node in nodes]))


def _write(session: Session, screen: Screen, found: Sequence[UnmanagedGuest]) -> None:
    if not found:
        write(screen, "No orphans: every running guest has an instance.")
        return
    nodes = len({one.node for one in found})
    columns = (
        Column("UUID", weight=2),
        Column("NAME", shrinks=True),
        Column("NODE", shrinks=True, weight=6 if nodes > 1 else 1),
        Column("VCPUS", right=True, weight=4),
        Column("MEMORY GiB", right=True, weight=5),
        Column("DISK GB", right=True, weight=3),
        Column("WHY", wraps=True),
    )
    rows: list[Row] = [
        (
            one.id,
            TableCell(one.name or one.id, "" if one.active else "dim"),
            one.node,
            *((str(one.vcpus), gib(one.memory_mb), gib(one.disk_mb)) if one.active else ("off",) * 3),
            f"{one.kind}: {one.why}",
        )
        for one in found
    ]
    write_list(session, screen, columns, rows)
    orphans = [one for one in found if one.kind == "orphan" and one.active]
    if orphans:
        name = orphans[0].name or orphans[0].id
        hint(session, f"`stocktake orphans adopt {name}` makes it an instance; --all adopts every orphan that runs.")


@orphans_command.command(
    "adopt",
    example="""
    $ stocktake orphans adopt 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10
    $ stocktake orphans adopt --all
    """,
)
@click.argument("guests_named", metavar="UUID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Adopt every orphan that runs on this host.")
@click.option("--yes", is_flag=True, help="With --all: do not ask for confirmation.")
@click.pass_obj
def adopt_command(session: Session, guests_named: tuple[str, ...], *, everything: bool, yes: bool) -> int:
    """Make orphans on this host instances, with the resources they have now.

    Name a guest by its uuid, or by its name if that is unique. Run this on the
    guests' host. A misplaced guest is not adopted: the ledger has it elsewhere,
    and one of the two is wrong. A refresh follows.
    """
    if bool(guests_named) == everything:
        raise click.UsageError("Name the guests by uuid or name, or give --all.")
    context = session.context
    guests = _guests(context)
    chosen = _chosen(guests, _orphans(context, guests), guests_named)
    if everything and chosen and not yes and sys.stdin.isatty():
        confirm(f"Make instances of {len(chosen)} guests?")
    # A refresh first: it fails if this host is not who the ledger says it is, and then nothing is written.
    result = refresh(context)
    new = [_instance(context, node, guest) for node, guest in chosen if guest.uuid not in result.adopted]
    if new:
        context.ledger.put_instances(new)
        result = refresh(context)
    code = exit_code_of(result)
    if session.json:
        adopted = [{"uuid": guest.uuid, "name": guest.name, "node": node} for node, guest in chosen]
        write_json(session, {"adopted": adopted}, exit_code=code)
        return code
    screen = screen_of(session)
    for node, guest in chosen:
        write(screen, f"Adopted {guest.name} ({guest.uuid}) on {node}: {guest.vcpus} vCPUs, {guest.memory_mb:,} MiB.")
    if not chosen:
        write(screen, "No orphans run on this host.")
    return code


def _instance(context: Context, node: str, guest: Guest) -> Instance:
    return adopted(guest, host=context.rules.host, node=node, now=context.clock.now())


def _guests(context: Context) -> dict[str, tuple[str, Guest]]:
    """
    Ask the driver for all guests of this host, by uuid.

    Raises:
        DriverUnreachable, DriverError: of any node; some of the guests are not enough to tell an orphan.
    """
    names = context.limit.call(context.driver.node_names)
    guests: dict[str, tuple[str, Guest]] = {}
    for node, survey in context.limit.call(lambda: context.driver.survey(names)).items():
        if not isinstance(survey, Survey):
            raise survey
        if survey.guests is None:
            remedy = "Use a driver that lists guests, such as libvirt."
            raise InvalidInput(f"driver {context.driver.name} can't list guests", where=node, remedy=remedy)
        guests |= {guest.uuid: (node, guest) for guest in survey.guests}
    return guests


def _orphans(context: Context, guests: dict[str, tuple[str, Guest]]) -> dict[str, str]:
    """Say of every guest why it can't be adopted; empty if it can."""
    nodes: dict[str, frozenset[str]] = {}
    for uuid, (node, _) in guests.items():
        nodes[node] = nodes.get(node, frozenset()) | {uuid}
    works = context.ledger.work(context.rules.host, tuple(nodes), nodes)
    reasons = dict.fromkeys(guests, "")
    for node, work in works.items():
        # A guest may be known on another node of this host: then it is misplaced, as on another host.
        here = {instance.uuid: instance for instance in (*work.moving.values(), *work.instances)}
        for uuid in nodes[node] & here.keys():
            known = here[uuid]
            reasons[uuid] = "is an instance already" if counts(known) else f"is in the ledger as {known.vm_state}"
        for uuid, place in work.places.items():
            if not place.deleted:
                where = f"{place.host or 'no host'} ({place.node or 'no node'})"
                reasons[uuid] = f"is misplaced: the ledger has it on {where}"
    return reasons


def _chosen(
    guests: dict[str, tuple[str, Guest]], reasons: dict[str, str], named: Sequence[str]
) -> list[tuple[str, Guest]]:
    """
    Pick the guests to adopt: those named, or all that run.

    Raises:
        NotFound, InvalidInput: one that is named does not exist or is not an orphan; then none is adopted.
    """
    if not named:
        return [(node, guest) for uuid, (node, guest) in sorted(guests.items()) if guest.active and not reasons[uuid]]
    uuids = [_uuid(name, guests, reasons) for name in named]
    for uuid in uuids:
        if reasons[uuid]:
            raise InvalidInput(f"guest {uuid} {reasons[uuid]}", remedy="Nothing was adopted.")
    return [guests[uuid] for uuid in dict.fromkeys(uuids)]


def _uuid(name: str, guests: dict[str, tuple[str, Guest]], reasons: dict[str, str]) -> str:
    if name in guests:
        return name
    alike = [uuid for uuid, (_, guest) in guests.items() if guest.name == name]
    if len(alike) > 1:
        raise InvalidInput(f"{len(alike)} guests are named {name!r}", remedy=f"Give the uuid: {', '.join(alike)}.")
    if not alike:
        orphans = [known for uuid, (_, guest) in guests.items() if not reasons[uuid] for known in (guest.name, uuid)]
        remedy = nearest(name, orphans).strip() or "`stocktake orphans` lists them; run this on the guest's host."
        raise NotFound(f"the hypervisor has no guest {name!r}", remedy=remedy)
    return alike[0]
