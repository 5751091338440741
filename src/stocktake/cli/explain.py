"""
`explain`: the entries that make each number. Invariant: what does not add up is said loudly.
"""

from collections import Counter
from collections.abc import Sequence

import click

from stocktake.cli.commands import Command
from stocktake.cli.options import complete_node
from stocktake.cli.screen import Column, Row, Screen, TableCell, screen_of, write, write_json, write_prose, write_table
from stocktake.cli.session import Session
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.topology import format_cpu_set
from stocktake.model.value import plain
from stocktake.views.explain import Figure, FigurePart, explained
from stocktake.views.finding import find_node

_SHORT_UUID = 8


@click.command(
    "explain",
    cls=Command,
    example="""
    $ stocktake explain compute-7
    $ stocktake explain compute-7 memory_mb_used
    $ stocktake explain compute-7 numa.0.pinned_cpus
    """,
)
@click.argument("node_name", metavar="NODE", shell_complete=complete_node)
@click.argument("field", metavar="[FIELD]", required=False)
@click.pass_obj
def explain_command(session: Session, node_name: str, field: str | None) -> int:
    """Say why NODE's numbers are what they are: who takes what, and why he counts.

    Without FIELD: everybody who takes something, and the sums. With one, such as
    vcpus_used, memory_mb_used, local_gb_used, free_ram_mb, free_disk_gb,
    running_vms, numa.0.memory_usage, numa.0.pinned_cpus or pci.8086_1572: the
    parts of that number and the arithmetic. A FIELD there is not lists those
    there are. Exit code 1 if the entries do not add up to the record.
    """
    node = find_node(session.ledger, node_name)
    devices = session.ledger.devices([node.uuid])[node.uuid]
    answer = explained(node, session.ledger.entries(node.uuid), devices, field)
    code = 0 if answer.agrees else 1
    if session.json:
        write_json(session, plain(answer), exit_code=code)
        return code
    screen = screen_of(session)
    if field is None:
        _write_all(screen, node, answer.entries)
    else:
        _write_one(screen, answer.figures[0])
    for figure in answer.figures:
        if not figure.agrees:
            text = (
                f"!! {figure.field} DOES NOT ADD UP: the record says {figure.recorded}, its entries {figure.sum}. "
                "Run `stocktake refresh`; if it stays, `stocktake ledger export` and report it."
            )
            write_prose(screen, text, colour="red", bold=True)
    if code == 0 and field is None:
        write(screen)
        write_prose(screen, f"All {len(answer.figures)} figures add up. One by one: {_listed(answer.figures)}.")
    return code


def _listed(figures: Sequence[Figure]) -> str:
    """Name the fields; cells and devices by their first."""
    known = [figure.field for figure in figures]
    plain = [name for name in known if "." not in name]
    others = [next((name for name in known if name.startswith(prefix)), "") for prefix in ("numa.", "pci.")]
    return ", ".join([*plain, *(f"{name} …" for name in others if name)])


def who(holders: Sequence[Entry | FigurePart]) -> list[str]:
    """Name the holders: kind and name; the beginning of the uuid where two have one name, all of it without one."""
    names = Counter((holder.kind, holder.name) for holder in holders)

    def named(holder: Entry | FigurePart) -> str:
        if holder.kind == "reserved":
            return "reserved for the host"
        if not holder.name:
            return f"{holder.kind} {holder.id}"
        again = f" ({holder.id[:_SHORT_UUID]})" if names[holder.kind, holder.name] > 1 else ""
        return f"{holder.kind} {holder.name}{again}"

    return [named(holder) for holder in holders]


def _write_all(screen: Screen, node: ComputeNode, entries: Sequence[Entry]) -> None:
    """Write everybody with what he takes, the sums, and what is free."""
    write(screen, screen.paint(f"What is used of {node.hypervisor_hostname}, and by whom", bold=True))
    write(screen)
    columns = (
        Column("WHO", shrinks=True),
        Column("VCPUS", right=True),
        Column("MEMORY MiB", right=True),
        Column("DISK MiB", right=True),
        Column("WHY", wraps=True),
    )
    rows: list[list[str | TableCell]] = [
        [
            name,
            f"{entry.vcpus:,}",
            f"{entry.memory_mb:,}",
            f"{entry.disk_mb:,}",
            _why(entry),
        ]
        for name, entry in zip(who(entries), entries, strict=True)
    ]
    disk_mb = sum(entry.disk_mb for entry in entries)
    disk_gb = -(-disk_mb // 1024)
    sums = [
        "sum",
        f"{sum(entry.vcpus for entry in entries):,}",
        f"{sum(entry.memory_mb for entry in entries):,}",
        f"{disk_mb:,}",
        f"disk: {disk_gb:,} GB, rounded up" if disk_mb % 1024 else f"disk: {disk_gb:,} GB",
    ]
    rows.append([TableCell(text, "bold") for text in sums])
    there = (f"{node.vcpus:,}", f"{node.memory_mb:,}", f"{node.local_gb * 1024:,}")
    rows.append(["total", *there, f"disk: {node.local_gb:,} GB"])
    rest = (f"{node.vcpus - node.vcpus_used:,}", f"{node.free_ram_mb:,}", "", f"disk: {node.free_disk_gb:,} GB")
    rows.append(["total - sum", *rest])
    write_table(screen, columns, rows)


def _why(entry: Entry) -> str:
    extra = [
        f"cell {take.cell}" + (f" CPUs {format_cpu_set(take.pinned_cpus)}" if take.pinned_cpus else "")
        for take in entry.cells
    ]
    extra += [f"PCI {address}" for address in entry.pci]
    return f"{entry.why}; {', '.join(extra)}" if extra else entry.why


def _write_one(screen: Screen, figure: Figure) -> None:
    """Write the parts of one number and how it is made of them."""
    recorded = f"{figure.recorded:,}" if isinstance(figure.recorded, int) else figure.recorded or "no"
    write(screen, screen.paint(f"{figure.field} = {recorded} {figure.whole_unit}", bold=True))
    if figure.parts:
        write(screen)
    numbers = all(isinstance(part.amount, int) for part in figure.parts)
    columns = (Column(figure.unit, right=numbers), Column("WHO", shrinks=True), Column("WHY", wraps=True))
    rows: list[Row] = [
        (
            f"{part.amount:,}" if isinstance(part.amount, int) else part.amount,
            name,
            part.why,
        )
        for name, part in zip(who(figure.parts), figure.parts, strict=True)
    ]
    if numbers and figure.parts:
        total = sum(part.amount for part in figure.parts if isinstance(part.amount, int))
        rows.append((TableCell(f"{total:,}", "bold"), TableCell("sum", "bold"), ""))
    if figure.parts:
        write_table(screen, columns, rows)
    if figure.steps:
        write(screen)
    for step in figure.steps:
        write(screen, step)
