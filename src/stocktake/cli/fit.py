"""
`fit`: where an instance would go, and why not elsewhere. Invariant: nothing is claimed; every node asked for is
answered.
"""

import math
from collections.abc import Sequence
from typing import Any

import click

from stocktake.accounting.fit.placement import Placed
from stocktake.claims.candidates import Candidates, FittingNode, UnfitNode, candidates
from stocktake.cli.commands import Command
from stocktake.cli.options import complete_node, flavor_of, flavor_options
from stocktake.cli.screen import Column, Row, Screen, TableCell, hint, screen_of, write, write_json, write_table
from stocktake.cli.session import Session
from stocktake.model.fitting import NoRoom
from stocktake.model.topology import format_cpu_set
from stocktake.views.finding import find_node
from stocktake.views.fitting import answer_of, wanted_of
from stocktake.views.quantities import count

# Where a terminal is narrower, the numbers of a lack are in its text only.
_WIDE_COLUMNS = 120


@click.command(
    "fit",
    cls=Command,
    example="""
    $ stocktake fit --vcpus 4 --memory 8G --disk 40G
    $ stocktake fit --vcpus 4 --memory 8G --spec hw:cpu_policy=dedicated --trait HW_CPU_X86_AVX2 --pci gpu:1
    $ stocktake fit --vcpus 4 --memory 8G --pack --json | jq -r '.data.fitting[0].hypervisor_hostname'
    """,
)
@flavor_options
@click.option(
    "--node", "names", multiple=True, metavar="NODE", help="Only this node; may be repeated.",
    shell_complete=complete_node,
)  # fmt: skip
@click.option(
    "--pack/--spread", default=None, help="Prefer full nodes, or empty ones; the settings decide unless given."
)
@click.pass_obj
def fit_command(
    session: Session, /, *, names: tuple[str, ...], pack: bool | None, volume_backed: bool, **options: Any
) -> int:
    """List the nodes that an instance fits, the best first, and what the others lack.

    Room is what Placement would grant, capacity less allocated: capacity is
    (total - reserved) x allocation ratio. NUMA cells, PCI devices and traits
    count as in Nova. A node that is down, disabled or could not be refreshed has
    no room. The figures are what would be free afterwards. SCORE is the sum of
    Nova's weighers (settings: filter_scheduler); -v shows each one. Nothing is
    claimed. Exit code 1 if the instance fits nowhere.
    """
    wanted = wanted_of(flavor_of(**options), session.settings, volume_backed=volume_backed)
    nodes = {find_node(session.ledger, name).uuid for name in names} or None
    found = candidates(session.ledger, session.settings, wanted, now=session.clock.now(), nodes=nodes, pack=pack)
    code = 0 if found.fitting else 1
    if session.json:
        write_json(session, answer_of(wanted, found), exit_code=code)
    else:
        write_candidates(session, screen_of(session), found)
    return code


def write_candidates(session: Session, screen: Screen, found: Candidates) -> None:
    """Write the nodes that the instance fits, then the others."""
    every = len(found.fitting) + len(found.refused)
    if not every:
        write(screen, f"The ledger {session.ledger.name} has no nodes yet.")
        hint(session, "`stocktake refresh` takes stock of this host; `stocktake agent` does so every minute.")
        return
    if found.fitting:
        title = f"Fits {len(found.fitting):,} of {count(every, 'node')}; free afterwards:"
        write(screen, screen.paint(title, bold=True))
        write_fitting(screen, found.fitting)
        if session.verbose:
            write(screen)
            write_parts(screen, found.fitting)
    if found.refused:
        if found.fitting:
            write(screen)
        title = f"Does not fit {count(len(found.refused), 'node')}:"
        write(screen, screen.paint(title, bold=True))
        write_refused(screen, found.refused)


def write_fitting(screen: Screen, fitting: Sequence[FittingNode]) -> None:
    """Write nodes with what would be free on them, and where on them the instance would be."""
    apart = any(room.what == "PCPU" and room.total for one in fitting for room in one.resources)
    places = [_place(one.placed) for one in fitting]
    rows: list[Row] = []
    for rank, (one, place) in enumerate(zip(fitting, places, strict=True), start=1):
        free = {room.what: f"{math.floor(room.free_after or 0):,}" for room in one.resources}
        rows.append(
            (
                str(rank),
                one.node.hypervisor_hostname,
                one.node.host,
                f"{one.weighed.score:.2f}",
                free["VCPU"],
                *((free["PCPU"],) if apart else ()),
                free["MEMORY_MB"],
                free["DISK_GB"],
                place,
            )
        )
    columns = (
        Column("#", right=True),
        Column("NODE", shrinks=True),
        Column("HOST", shrinks=True, weight=1),
        Column("SCORE", right=True, weight=2),
        Column("VCPUS", right=True),
        *((Column("PCPUS", right=True),) if apart else ()),
        Column("MEMORY MiB", right=True),
        Column("DISK GB", right=True, weight=3),
        Column("ON", wraps=True),
    )
    if not any(places):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    write_table(screen, columns, rows)


def write_parts(screen: Screen, fitting: Sequence[FittingNode]) -> None:
    """Write what each weigher adds to each node's score; one that adds nothing to any is left out."""
    scores = [{part.weigher: part.score for part in one.weighed.parts} for one in fitting]
    telling = [name for name in scores[0] if any(parts[name] for parts in scores)]
    columns = (
        Column("SCORE OF", shrinks=True),
        *(Column(name, right=True) for name in telling),
        Column("SUM", right=True),
    )
    rows: list[Row] = [
        (
            one.node.hypervisor_hostname,
            *(f"{parts[name]:+,.2f}" for name in telling),
            f"{one.weighed.score:,.2f}",
        )
        for one, parts in zip(fitting, scores, strict=True)
    ]
    write_table(screen, columns, rows)


def _place(placed: Placed) -> str:
    """Name the cells, CPUs and devices that an instance would get."""
    texts: list[str] = []
    for cell in placed.numa.cells if placed.numa else ():
        cpus = frozenset((cell.cpu_pinning or {}).values()) | (cell.cpuset_reserved or frozenset())
        texts.append(f"cell {cell.id}" + (f" CPUs {format_cpu_set(cpus)}" if cpus else ""))
    texts += [f"{chosen.alias} {address}" for chosen in placed.devices for address in chosen.addresses]
    return ", ".join(texts)


def write_refused(screen: Screen, refused: Sequence[UnfitNode]) -> None:
    """Write nodes that the instance does not fit: a line for every reason, whose text has the numbers too."""
    wide = screen.width is None or screen.width >= _WIDE_COLUMNS
    rows: list[Row] = [
        (
            one.node.hypervisor_hostname if number == 0 else "",
            TableCell(reason.what, "yellow"),
            *(_numbers(reason) if wide else ()),
            reason.text,
        )
        for one in refused
        for number, reason in enumerate(one.reasons)
    ]
    columns = (
        Column("NODE", shrinks=True),
        Column("LACKS", shrinks=True),
        *(Column(title, right=True) for title in ("ASKED", "FREE", "TOTAL") if wide),
        Column("WHY", wraps=True),
    )
    write_table(screen, columns, rows)


def _numbers(reason: NoRoom) -> Row:
    """Write a reason's numbers; a trait and a state have none."""
    if reason.what.startswith(("trait.", "state.")):
        return "", "", ""
    numbers = (reason.asked, reason.free, reason.total)
    return [f"{number:,.3f}".rstrip("0").rstrip(".") for number in numbers]
