"""
`show`: everything about one node on a page. Invariant: the ledger is read, nobody else is asked.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import groupby

import click

from stocktake.accounting.capacity import RESOURCES, Resource, ResourceTotals
from stocktake.cli.commands import Command
from stocktake.cli.options import complete_node
from stocktake.cli.screen import (
    COLOURS,
    Column,
    Row,
    Screen,
    TableCell,
    screen_of,
    write,
    write_json,
    write_prose,
    write_table,
)
from stocktake.cli.session import Session
from stocktake.model.books import ComputeNode
from stocktake.model.pci import PciRecord
from stocktake.model.topology import format_cpu_set
from stocktake.views.finding import find_node
from stocktake.views.nodes import NodeView, detail_of, facts_of, view_of
from stocktake.views.quantities import count, ratio, since


@click.command(
    "show",
    cls=Command,
    example="""
    $ stocktake show compute-7.example.org
    $ stocktake show compute-7 --json | jq .data.numa_topology
    """,
)
@click.argument("node_name", metavar="NODE", shell_complete=complete_node)
@click.pass_obj
def show_command(session: Session, node_name: str) -> int:
    """Show everything about NODE (a name, the first part of one, or a uuid).

    Of each resource total, reserved, capacity, allocated and free; NUMA cells; PCI
    devices; traits; metrics; problems and what to do about them. Exit code 1 if
    a refresh found a problem that is an error.
    """
    ledger = session.ledger
    node = find_node(ledger, node_name)
    now = session.clock.now()
    service, entries = ledger.service(node.host), ledger.entries(node.uuid)
    view = view_of(node, service, entries, now, session.settings.service_down_time)
    devices = ledger.devices([node.uuid])[node.uuid]
    code = 1 if any(problem.severity == "error" for problem in node.problems) else 0
    if session.json:
        write_json(session, detail_of(view, devices), exit_code=code)
        return code
    screen = screen_of(session)
    write_head(screen, view, now)
    write_resources(screen, view)
    write_cells(screen, node)
    write_devices(screen, node, devices)
    write_rest(screen, node, now)
    write_problems(screen, view)
    return code


def write_head(screen: Screen, view: NodeView, now: datetime) -> None:
    """Write who the node is and how it is."""
    node, service, state = view.node, view.service, view.state
    status = screen.paint("disabled", fg="yellow") if view.disabled else "enabled"
    name = screen.paint(node.hypervisor_hostname, bold=True)
    write(screen, f"{name}  {screen.paint(state.word, fg=COLOURS[state.word])}, {status}")
    if state.reason:
        write_prose(screen, state.reason, indent=2, colour="yellow")
    if service is not None and service.disabled and service.disabled_reason:
        write_prose(screen, f"disabled: {service.disabled_reason}", indent=2, colour="yellow")
    for title, text in facts_of(view, now):
        write(screen, f"  {title:<11}{text}")


def write_resources(screen: Screen, view: NodeView) -> None:
    """Write of each resource total, reserved, ratio, capacity, allocated and free."""
    rows: list[Row] = [
        (
            title_of(RESOURCES[name]),
            f"{one.total:,}",
            f"{one.reserved:,}",
            ratio(one.ratio),
            f"{one.capacity:,}",
            f"{one.allocated:,}",
            TableCell(f"{one.free:,}", "red" if one.over_allocated else ""),
            "".join(text for text, _ in bar(one)),
        )
        for name, one in view.resources.items()
    ]
    columns: Sequence[Column] = (
        Column(""),
        Column("TOTAL", right=True),
        Column("RESERVED", right=True, weight=6),
        Column("RATIO", right=True, weight=3),
        Column("CAPACITY", right=True),
        Column("ALLOCATED", right=True),
        Column("FREE", right=True),
        Column("", weight=1),
    )
    write(screen)
    if screen.width is None:
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    write_table(screen, columns, rows)
    if view.node.disk_available_least is not None:
        least = view.node.disk_available_least
        write_prose(screen, f"disk_available_least {least:,} GB: free, less what thin images may still grow by")


def title_of(resource: Resource) -> str:
    """Give a resource's title, with its unit where that is another word."""
    return resource.title if resource.name in {"vcpus", "pcpus"} else f"{resource.title} {resource.unit}"


def bar(one: ResourceTotals, length: int = 16) -> tuple[tuple[str, str], ...]:
    """
    Draw what is reserved, allocated and free, and where the hardware's total is if more may be given out.

    Returns:
        Texts and what each is: `reserved`, `allocated`, `free`, `total`; one that is over-allocated ends in `»`.
    """
    most = one.reserved + one.capacity
    if one.total <= 0 or most <= 0:
        return ((" " * length, "free"),)
    kept = min(length, round(one.reserved * length / most))
    # What is allocated at all is seen, however little.
    full = min(length, max(round((one.reserved + one.allocated) * length / most), kept + (one.allocated > 0)))
    cells = ["reserved"] * kept + ["allocated"] * (full - kept) + ["free"] * (length - full)
    if one.total < most:
        cells[min(one.total * length // most, length - 1)] = "total"
    if one.over_allocated:
        cells[-1] = "over"
    signs = {"reserved": "▒", "allocated": "█", "free": "░", "total": "│", "over": "»"}
    return tuple((signs[what] * len(list(same)), what) for what, same in groupby(cells))


def write_cells(screen: Screen, node: ComputeNode) -> None:
    """Write the NUMA cells: CPUs, who is pinned, memory, pages."""
    if node.numa_topology is None or not node.numa_topology.cells:
        return
    write(screen)
    # What is used of the smallest pages is what is used of memory.
    smallest = min((pages.size_kb for cell in node.numa_topology.cells for pages in cell.pages), default=0)
    rows: list[Row] = [
        (
            str(cell.id),
            "" if cell.socket is None else str(cell.socket),
            format_cpu_set(cell.cpuset) or "none",
            str(cell.cpu_usage),
            format_cpu_set(cell.pcpuset) or "none",
            format_cpu_set(cell.pinned_cpus) or "none",
            f"{cell.memory_usage_mb:,}/{cell.memory_mb:,}",
            ", ".join(
                f"{_size(pages.size_kb)} {pages.used:,}/{pages.total:,}"
                for pages in cell.pages
                if pages.total and pages.size_kb > smallest
            ),
        )
        for cell in node.numa_topology.cells
    ]
    columns: tuple[Column, ...] = (
        Column("NUMA CELL", right=True),
        Column("SOCKET", right=True, weight=1),
        Column("SHARED", shrinks=True),
        Column("USED", right=True),
        Column("DEDICATED", shrinks=True),
        Column("PINNED", shrinks=True),
        Column("MEMORY MiB", right=True),
        Column("HUGE PAGES", wraps=True),
    )
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    write_table(screen, columns, rows)


def _size(size_kb: int) -> str:
    for unit, size in (("G", 1024**2), ("M", 1024)):
        if size_kb % size == 0:
            return f"{size_kb // size}{unit}"
    return f"{size_kb}K"


def write_devices(screen: Screen, node: ComputeNode, devices: Sequence[PciRecord]) -> None:
    """Write the pools of free PCI devices, then those that are not free."""
    if not (node.pci_device_pools or devices):
        return
    write(screen)
    rows: list[Row] = [
        (
            f"{pool.vendor_id}:{pool.product_id}",
            pool.tags.get("dev_type", ""),
            "" if pool.numa_node is None else str(pool.numa_node),
            f"{pool.count} free",
            ", ".join(f"{key}={value}" for key, value in sorted(pool.tags.items()) if key != "dev_type"),
        )
        for pool in node.pci_device_pools
    ]
    held = sorted((device for device in devices if device.status != "available"), key=lambda device: device.address)
    for device in held:
        by = f"by {device.instance_uuid}" if device.instance_uuid else ""
        rows.append(
            (
                f"{device.vendor_id}:{device.product_id}",
                device.dev_type,
                "" if device.numa_node is None else str(device.numa_node),
                TableCell(device.status, "yellow"),
                " ".join(text for text in (device.address, by) if text),
            )
        )
    columns = (
        Column("PCI"),
        Column("TYPE"),
        Column("NUMA", right=True),
        Column("STATUS"),
        Column("", wraps=True),
    )
    write_table(screen, columns, rows)


def write_rest(screen: Screen, node: ComputeNode, now: datetime) -> None:
    """Write metrics and traits."""
    blocks = [
        (
            "metric",
            [f"{metric.name} {metric.value:g}" for metric in node.metrics],
            f" ({since(max(metric.timestamp for metric in node.metrics), now)} ago)" if node.metrics else "",
        ),
        ("trait", sorted(node.traits), ""),
    ]
    for title, words, more in blocks:
        if words:
            write(screen)
            write(screen, screen.paint(f"{count(len(words), title)}{more}", bold=True))
            write_prose(screen, ", ".join(words), indent=2)


def write_problems(screen: Screen, view: NodeView) -> None:
    """Write what is wrong, and what to do about it."""
    write(screen)
    if not view.problems:
        write(screen, screen.paint("No problems.", fg="green"))
        return
    write(screen, screen.paint(count(len(view.problems), "problem"), bold=True))
    for problem in sorted(view.problems, key=lambda found: found.severity != "error"):
        colour = "red" if problem.severity == "error" else "yellow"
        about = f" ({problem.about})" if problem.about not in {"", view.node.hypervisor_hostname} else ""
        write(screen, f"  {screen.paint(problem.severity, fg=colour)} {problem.code}{about}")
        for text in (problem.text, problem.remedy):
            if text:
                write_prose(screen, text, indent=4)
