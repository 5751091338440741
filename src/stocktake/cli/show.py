"""
`show`: everything about one node on a page. Invariant: the ledger is read, nobody else is asked.
"""

from collections.abc import Sequence
from datetime import datetime

import click

from stocktake.cli.commands import Command
from stocktake.cli.options import complete_node
from stocktake.cli.screen import (
    COLOURS,
    Column,
    Row,
    Screen,
    TableCell,
    clean,
    screen_of,
    write,
    write_json,
    write_prose,
    write_table,
)
from stocktake.cli.session import Session
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciRecord
from stocktake.model.topology import format_cpu_set
from stocktake.model.workload import Service
from stocktake.views.finding import find_node
from stocktake.views.nodes import State, capacity_of, detail_of, machine_facts, sold_of, state_of
from stocktake.views.quantities import count, moment, ratio, since


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

    What there is, what is kept for the host, promised and free; NUMA cells; PCI
    devices; traits; metrics; problems and what to do about them. Exit code 1 if
    it carries a problem that is an error.
    """
    ledger = session.ledger
    node = find_node(ledger, node_name)
    service = ledger.service(node.host)
    now = session.clock.now()
    state = state_of(node, service, now, session.settings.service_down_time)
    entries = tuple(ledger.entries(node.uuid))
    devices = ledger.devices([node.uuid])[node.uuid]
    code = 1 if any(problem.severity == "error" for problem in node.problems) else 0
    if session.json:
        write_json(session, detail_of(node, service, state, entries, devices), exit_code=code)
        return code
    screen = screen_of(session)
    write_head(screen, node, service, state, now)
    write_amounts(screen, node, entries)
    write_cells(screen, node)
    write_devices(screen, node, devices)
    write_rest(screen, node, now)
    write_problems(screen, node)
    return code


def write_head(screen: Screen, node: ComputeNode, service: Service | None, state: State, now: datetime) -> None:
    """Write who the node is and how it is."""
    disabled = service is not None and service.disabled
    status = screen.paint("disabled", fg="yellow") if disabled else "enabled"
    name = screen.paint(clean(node.hypervisor_hostname), bold=True)
    write(screen, f"{name}  {screen.paint(state.word, fg=COLOURS[state.word])}, {status}")
    if state.reason:
        write_prose(screen, clean(state.reason), indent=2, colour="yellow")
    if service is not None and disabled and service.disabled_reason:
        write_prose(screen, clean(f"disabled: {service.disabled_reason}"), indent=2, colour="yellow")
    kind = " ".join(text for text in (node.hypervisor_type, _version(node.hypervisor_version)) if text)
    facts = [
        ("uuid", node.uuid),
        ("service", f"{node.host}, last seen {_ago(since(service.last_seen_up if service else None, now))}"),
        ("address", node.host_ip or ""),
        ("hypervisor", kind),
        *machine_facts(node),
        ("booted", f"{moment(node.booted_at)}, up {since(node.booted_at, now)}" if node.booted_at else ""),
        ("changed", f"{moment(node.updated_at)}, {_ago(since(node.updated_at, now))}" if node.updated_at else ""),
        ("instances", f"{node.running_vms}, {node.current_workload} with a task"),
    ]
    for title, text in facts:
        if text:
            write(screen, f"  {title:<11}{clean(text)}")


def _ago(text: str) -> str:
    return text if text == "never" else f"{text} ago"


def _version(number: int | None) -> str:
    """Write Nova's packed version: 7002000 is 7.2.0."""
    if number is None or number < 1_000:
        return "" if number is None else str(number)
    return f"{number // 1_000_000}.{number // 1_000 % 1_000}.{number % 1_000}"


def write_amounts(screen: Screen, node: ComputeNode, entries: Sequence[Entry]) -> None:
    """Write what there is, what is kept, promised and left, and what may be promised in all."""
    used = {
        "vcpus": node.vcpus_used,
        "memory_mb": node.memory_mb_used,
        "local_gb": node.local_gb_used,
    }
    titles = {"vcpus": "vCPUs", "memory_mb": "memory MiB", "local_gb": "disk GB"}
    rows: list[Row] = []
    for name, (total, reserved, times) in sold_of(node, entries).items():
        capacity = capacity_of(total, reserved, times)
        free = total - used[name]
        left = capacity - (used[name] - reserved)
        rows.append(
            (
                titles[name],
                f"{total:,}",
                f"{reserved:,}",
                f"{used[name]:,}",
                TableCell(f"{free:,}", "red" if free < 0 else ""),
                ratio(times),
                f"{capacity:,}",
                TableCell(f"{left:,}", "red" if left < 0 else ""),
                bar(screen, total, used[name], reserved),
            )
        )
    right = ("USED", "FREE")
    columns = (
        Column(""),
        Column("TOTAL", right=True),
        Column("RESERVED", right=True, weight=6),
        *(Column(title, right=True) for title in right),
        Column("RATIO", right=True, weight=3),
        Column("CAPACITY", right=True, weight=4),
        Column("LEFT", right=True, weight=5),
        Column("", weight=1),
    )
    write(screen)
    if screen.width is None:
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    write_table(screen, columns, rows)
    if node.disk_available_least is not None:
        least = f"disk_available_least {node.disk_available_least:,} GB: free, less what thin images may still take"
        write_prose(screen, least)


def bar(screen: Screen, total: int, used: int, reserved: int, length: int = 16) -> str:
    """Draw what is reserved, promised and free of a total."""
    del screen
    if total <= 0:
        return ""
    kept, full = filled(total, used, reserved, length)
    return "▒" * kept + "█" * (full - kept) + "░" * (length - full)


def filled(total: int, used: int, reserved: int, length: int) -> tuple[int, int]:
    """Say how far a bar of a total above 0 is filled: by what is reserved, and by all that is used."""
    kept = min(length, round(reserved * length / total))
    # What is used at all is seen, however little.
    return kept, min(length, max(round(used * length / total), kept + (used > reserved)))


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
            write_prose(screen, clean(", ".join(words)), indent=2)


def write_problems(screen: Screen, node: ComputeNode) -> None:
    """Write what is inconsistent, and what to do about it."""
    write(screen)
    if not node.wrong:
        write(screen, screen.paint("No problems.", fg="green"))
        return
    write(screen, screen.paint(count(len(node.wrong), "problem"), bold=True))
    for problem in sorted(node.wrong, key=lambda found: found.severity != "error"):
        colour = "red" if problem.severity == "error" else "yellow"
        about = f" ({problem.about})" if problem.about not in {"", node.hypervisor_hostname} else ""
        write(screen, f"  {screen.paint(problem.severity, fg=colour)} {problem.code}{clean(about)}")
        for text in (problem.text, problem.remedy):
            if text:
                write_prose(screen, clean(text), indent=4)
