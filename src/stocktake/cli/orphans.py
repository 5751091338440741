"""
`orphans`: guests that nobody promised, and those that are elsewhere than the ledger thinks. Law: adopting is asked for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from stocktake.cli.options import Commands, nearest
from stocktake.cli.session import Session
from stocktake.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from stocktake.cli.tables import Row
    from stocktake.model.books import Entry
    from stocktake.model.hypervisor import Guest
    from stocktake.model.workload import Instance
    from stocktake.refresh import Parts


@dataclass(frozen=True, slots=True)
class Found:
    """An orphan's or misplaced guest's entry, and where it is."""

    host: str
    node: str
    entry: "Entry"

    @property
    def active(self) -> bool:
        """Say whether it runs: one that is off takes nothing."""
        return bool(self.entry.vcpus or self.entry.memory_mb or self.entry.disk_mb)


@click.group(
    "orphans",
    short_help="List guests that nobody promised; adopt them.",
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
    """List guests that nobody promised, with what each takes; or adopt some.

    `orphan`: the ledger does not know it. `misplaced`: the ledger has it
    elsewhere. Both take room and count, unless they are off. As of the last
    refresh. Exit code 1 if there are any.
    """
    if context.invoked_subcommand is not None:
        return 0
    from stocktake.cli.screen import screen_of, write_json

    session = context.ensure_object(Session)
    session.command = "orphans"
    found = _found(session, node_name)
    code = 1 if found else 0
    if session.json:
        write_json(session, [_plain(one) for one in found], exit_code=code)
        return code
    _write(session, screen_of(session), found)
    return code


def _found(session: Session, node_name: str | None) -> list[Found]:
    from stocktake.cli.nodes import find_node

    ledger = session.ledger
    nodes = ledger.nodes() if node_name is None else [find_node(ledger, node_name)]
    return [
        Found(node.host, node.hypervisor_hostname, entry)
        for node in sorted(nodes, key=lambda node: node.hypervisor_hostname)
        for entry in ledger.entries(node.uuid)
        if entry.kind in {"orphan", "misplaced"}
    ]


def _plain(found: Found) -> dict[str, object]:
    from stocktake.model.value import plain

    entry = plain(found.entry)
    return {**entry, "host": found.host, "node": found.node, "active": found.active}


def _write(session: Session, screen: "object", found: Sequence[Found]) -> None:
    from stocktake.cli.screen import Screen, hint, write
    from stocktake.cli.tables import Cell, Column, write_table
    from stocktake.cli.words import gib

    assert isinstance(screen, Screen)
    if not found:
        write(screen, "No orphans: everything that runs was promised.")
        return
    nodes = len({one.node for one in found})
    columns = (
        Column("UUID"),
        Column("NAME", shrinks=True),
        Column("NODE", shrinks=True, weight=6 if nodes > 1 else 1),
        Column("VCPUS", right=True, weight=5),
        Column("MEMORY GiB", right=True, weight=5),
        Column("DISK GB", right=True, weight=3),
        Column("WHY", weight=2, wraps=True),
    )
    rows: list[Row] = [
        (
            one.entry.id,
            Cell(one.entry.name or "", "" if one.active else "dim"),
            one.node,
            *((str(one.entry.vcpus), gib(one.entry.memory_mb), gib(one.entry.disk_mb)) if one.active else ("off",) * 3),
            f"{one.entry.kind}: {one.entry.why}",
        )
        for one in found
    ]
    left_out = write_table(screen, columns, rows)
    if left_out:
        hint(session, "(more columns in a wider terminal, or with --json)")
    orphans = [one for one in found if one.entry.kind == "orphan" and one.active]
    if orphans:
        hint(
            session,
            f"`stocktake orphans adopt {orphans[0].entry.id}` makes an instance of one, --all of those that run.",
        )


@orphans_command.command(
    "adopt",
    example="""
    $ stocktake orphans adopt 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10
    $ stocktake orphans adopt --all --yes
    """,
)
@click.argument("uuids", metavar="UUID...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Every orphan that runs on this host.")
@click.option("--yes", is_flag=True, help="With --all: do not ask.")
@click.pass_obj
def adopt_command(session: Session, uuids: tuple[str, ...], *, everything: bool, yes: bool) -> int:
    """Make instances of orphans on this host: promised what they take now.

    Run it where the guests are. A misplaced guest is not adopted: the ledger has
    it elsewhere, and one of the two is wrong. A refresh follows.
    """
    session.command = "orphans adopt"
    if bool(uuids) == everything:
        raise click.UsageError("Name the guests by UUID, or give --all.")
    from stocktake.cli.refresh import exit_code_of
    from stocktake.cli.screen import screen_of, write, write_json
    from stocktake.refresh import refresh

    parts = session.parts
    guests = _guests(parts)
    chosen = _chosen(guests, _orphans(parts, guests), uuids)
    if everything and chosen and not yes:
        from stocktake.cli.options import confirm

        confirm(f"Make instances of {len(chosen)} guests?")
    if chosen:
        parts.ledger.put_instances([_instance(parts, node, guest) for node, guest in chosen])
    result = refresh(parts)
    code = exit_code_of(result)
    if session.json:
        adopted = [{"uuid": guest.uuid, "name": guest.name, "node": node} for node, guest in chosen]
        write_json(session, {"adopted": adopted}, exit_code=code)
        return code
    screen = screen_of(session)
    for node, guest in chosen:
        write(screen, f"Adopted {guest.name} ({guest.uuid}) on {node}: {guest.vcpus} vCPUs, {guest.memory_mb:,} MiB.")
    if not chosen:
        write(screen, "No orphan runs on this host.")
    return code


def _instance(parts: "Parts", node: str, guest: "Guest") -> "Instance":
    from stocktake.accounting.orphans import adopted

    return adopted(guest, host=parts.rules.host, node=node, now=parts.clock.now())


def _guests(parts: "Parts") -> dict[str, tuple[str, "Guest"]]:
    """
    Ask the driver for all guests of this host, by uuid.

    Raises:
        DriverUnreachable, DriverError: of any node; adopting from a part of the truth would be a guess.
    """
    from stocktake.model.hypervisor import Survey

    names = parts.limit.call(parts.driver.node_names)
    guests: dict[str, tuple[str, Guest]] = {}
    for node, survey in parts.limit.call(lambda: parts.driver.survey(names)).items():
        if not isinstance(survey, Survey):
            raise survey
        if survey.guests is None:
            remedy = "Only a driver that can list its guests has orphans, such as libvirt."
            raise InvalidInput(f"driver {parts.driver.name} can't list guests", where=node, remedy=remedy)
        guests |= {guest.uuid: (node, guest) for guest in survey.guests}
    return guests


def _orphans(parts: "Parts", guests: dict[str, tuple[str, "Guest"]]) -> dict[str, str]:
    """Say of every guest why it can't be adopted; empty if it can."""
    from stocktake.accounting.instances import counts

    nodes: dict[str, frozenset[str]] = {}
    for uuid, (node, _) in guests.items():
        nodes[node] = nodes.get(node, frozenset()) | {uuid}
    works = parts.ledger.work(parts.rules.host, tuple(nodes), nodes)
    reasons = dict.fromkeys(guests, "")
    for work in works.values():
        for instance in (*work.instances, *work.moving.values()):
            counted = "is an instance already" if counts(instance) else f"is in the ledger as {instance.vm_state}"
            reasons[instance.uuid] = counted
        for uuid, place in work.places.items():
            if not place.deleted and not reasons.get(uuid):
                reasons[uuid] = (
                    f"is misplaced: the ledger has it on {place.host or 'no host'} ({place.node or 'no node'})"
                )
    return reasons


def _chosen(
    guests: dict[str, tuple[str, "Guest"]], reasons: dict[str, str], uuids: Sequence[str]
) -> list[tuple[str, "Guest"]]:
    """
    Pick the guests to adopt: those named, or all that run.

    Raises:
        NotFound, InvalidInput: one that is named is not there, or is no orphan; then none is adopted.
    """
    if not uuids:
        return [(node, guest) for uuid, (node, guest) in sorted(guests.items()) if guest.active and not reasons[uuid]]
    for uuid in uuids:
        if uuid not in guests:
            orphans = [known for known, reason in reasons.items() if not reason]
            remedy = nearest(uuid, orphans).strip() or "`stocktake orphans` lists them; run this where the guest is."
            raise NotFound(f"the hypervisor has no guest {uuid!r}", remedy=remedy)
        if reasons[uuid]:
            raise InvalidInput(f"guest {uuid} {reasons[uuid]}", remedy="Nothing was adopted.")
    return [guests[uuid] for uuid in dict.fromkeys(uuids)]
