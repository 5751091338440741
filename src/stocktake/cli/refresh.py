"""
`refresh`: take stock once, now. Invariant: it says what changed, and its exit code says whether all is well.
"""

import signal
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from stocktake.cli.commands import Command
from stocktake.cli.nodes import write_nodes
from stocktake.cli.screen import error_shown, hint, screen_of, write, write_json, write_prose
from stocktake.cli.session import Session
from stocktake.clock import Clock
from stocktake.errors import StocktakeError
from stocktake.model.books import ComputeNode
from stocktake.model.value import plain
from stocktake.refresh.context import Override, Pass
from stocktake.refresh.run import refresh
from stocktake.views.finding import entries_shown
from stocktake.views.nodes import called, machine, views_of
from stocktake.views.quantities import count

# A fleet's first refresh must not scroll the rest away.
_LINES_MAX = 20
_TABLE_MAX = 50
# The fields whose changes are shown.
_TOLD = (
    "vcpus",
    "vcpus_used",
    "memory_mb",
    "memory_mb_used",
    "local_gb",
    "local_gb_used",
    "disk_available_least",
    "running_vms",
    "cpu_allocation_ratio",
    "ram_allocation_ratio",
    "disk_allocation_ratio",
)


@click.command(
    "refresh",
    cls=Command,
    example="""
    $ stocktake refresh
    $ stocktake refresh --node compute-7.example.org
    $ stocktake --set compute_driver=host --set placement.mode=none refresh
    """,
)
@click.option("--node", "only", metavar="NAME", help="Only this node; no other is changed or deleted.")
@click.option(
    "--full", is_flag=True, help="Read everything back from Placement, even if its generations are unchanged."
)
@click.option(
    "--force-provider",
    metavar="UUID",
    help="Write the node's resource provider of this uuid even if it is Nova's or others hold something of it.",
)
@click.option(
    "--adopt-identity", is_flag=True, help="This machine replaces the one that had this host's name in the ledger."
)
@click.pass_obj
def refresh_command(
    session: Session, only: str | None, force_provider: str | None, *, full: bool, adopt_identity: bool
) -> int:
    """Take stock now: ask the hypervisor, add up, save, report to Placement.

    Ledger and Placement are embedded unless the settings say otherwise: the first
    refresh makes them. Exit code 1 if a node has an error, or is gone but could
    not be deleted; 3 if something could not be reached.
    """
    context = session.context
    before = {node.hypervisor_hostname: node for node in context.ledger.nodes(host=context.rules.host)}
    only = next((name for name, node in before.items() if called(node) == only), only)
    with progress_of(session.clock, quiet=session.quiet) as progress:
        override = Override(provider=force_provider, identity=adopt_identity)
        result = refresh(context, only=only, full=full, override=override, stop=progress.stop, progress=progress)
    code = INTERRUPTED if progress.interrupted else exit_code_of(result)
    if session.json:
        write_json(session, _plain(result, before), exit_code=code)
        return code

    screen = screen_of(session)
    names = sorted({*result.nodes, *result.failed}, key=lambda name: _called(name, result, before))
    told = [_told(name, result, before) for name in names]
    # Errors come first, and none is left out.
    told = sorted((line for line in told if line[0]), key=lambda line: line[1] != "red")
    shown = max(_LINES_MAX, sum(colour == "red" for _, colour in told))
    for text, colour in told[:shown]:
        write_prose(screen, text, colour=colour)
    if len(told) > shown:
        write(screen, f"… and {len(told) - shown:,} more")
    for text, colour in _others(result, before):
        write_prose(screen, text, colour=colour)
    now = session.clock.now()
    nodes = [result.nodes[name] for name in names if name in result.nodes]
    if nodes and len(nodes) <= _TABLE_MAX:
        write(screen)
        entries = entries_shown(context.ledger, nodes)
        views = views_of(nodes, context.ledger.services(), entries, now, context.settings.service_down_time)
        write_nodes(session, screen, views, now)
        write(screen)
    write_prose(screen, _summary(result, context.driver.name))
    if progress.interrupted:
        known = f"{progress.done:,} of {progress.total:,} nodes" if progress.total else "no new node"
        text = f"Interrupted: Placement has {known}; the next refresh continues."
        write_prose(screen, text, colour="yellow")
        return code
    if nodes:
        name = called(nodes[0])
        hint(session, f"Next: `stocktake show {name}`, `stocktake explain {name} memory_mb_used`.")
    return code


def exit_code_of(result: Pass) -> int:
    """Give 3 if something could not be reached, 1 if a node has an error or could not be deleted, else 0."""
    if not result.fine:
        return 3
    errors = any(problem.severity == "error" for node in result.nodes.values() for problem in node.problems)
    return 1 if errors or result.kept or result.left else 0


def _changes(name: str, result: Pass, before: Mapping[str, ComputeNode]) -> dict[str, list[object]]:
    """List what changed of a node: field to before and after."""
    old, new = before.get(name), result.nodes.get(name)
    if old is None or new is None:
        return {}
    changes: dict[str, list[object]] = {
        field: [getattr(old, field), getattr(new, field)]
        for field in _TOLD
        if getattr(old, field) != getattr(new, field)
    }
    if machine(old) != machine(new):
        changes["machine"] = [", ".join(machine(old)), ", ".join(machine(new))]
    if len(old.problems) != len(new.problems):
        changes["problems"] = [len(old.problems), len(new.problems)]
    return changes


def _called(name: str, result: Pass, before: Mapping[str, ComputeNode]) -> str:
    node = result.nodes.get(name) or before.get(name)
    return called(node) if node is not None else name


def _others(result: Pass, before: Mapping[str, ComputeNode]) -> list[tuple[str, str]]:
    """Say which nodes came and went, and which guests were adopted."""
    told = [
        (f"{_called(name, result, before)}: deleted, the driver no longer reports it", "") for name in result.deleted
    ]
    for name, why in result.left.items():
        told.append((f"{_called(name, result, before)}: its resource provider stays: {why}", "yellow"))
    for name, why in result.kept.items():
        told.append((f"{_called(name, result, before)}: no longer reported, but kept: {why}", "yellow"))
    for host, number in Counter(result.moved.values()).items():
        told.append((f"took over {count(number, 'node')} from {host}", ""))
    for host, number in Counter(result.handed_over.values()).items():
        told.append((f"handed over {count(number, 'node')} to {host}", ""))
    told += [(f"adopted guest {uuid} as an instance", "") for uuid in result.adopted]
    return told


def _told(name: str, result: Pass, before: Mapping[str, ComputeNode]) -> tuple[str, str]:
    """Say in a line what happened to a node, and in which colour."""
    who = _called(name, result, before)
    if name in result.failed:
        return f"{who}: not refreshed: {result.failed[name]}", "red"
    if name in result.unsynced:
        return f"{who}: saved, but not in Placement: {result.unsynced[name]}", "red"
    if name not in before:
        return f"{who}: {'taken over' if name in result.moved else 'new'}", "green"
    if name not in result.changed:
        return ("", "") if len(result.nodes) > 1 else (f"{who}: nothing changed", "")
    changes = _changes(name, result, before)
    told = ", ".join(f"{field} {old} -> {new}" for field, (old, new) in changes.items())
    return f"{who}: {told or 'changed, but no figure'}", ""


def _summary(result: Pass, driver: str) -> str:
    steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in result.seconds.items() if seconds >= 0.005)
    total = sum(result.seconds.values())
    changed = f"{len(result.changed)} changed" if result.changed else "nothing changed"
    return (
        f"Driver {driver}: {len(result.nodes)} of {len(result.nodes) + len(result.failed)} nodes refreshed, {changed}, "
        f"{result.writes} writes to Placement; {total:.2f} s{f' ({steps})' if steps else ''}."
    )


def _plain(result: Pass, before: Mapping[str, ComputeNode]) -> dict[str, object]:
    def errors(found: Mapping[str, StocktakeError]) -> dict[str, object]:
        return {name: error_shown(error) for name, error in found.items()}

    nodes = [
        {**plain(node), "changed": name in result.changed, "changes": _changes(name, result, before)}
        for name, node in sorted(result.nodes.items())
    ]
    return {
        "nodes": nodes,
        "failed": errors(result.failed),
        "unsynced": errors(result.unsynced),
        "deleted": result.deleted,
        "kept": result.kept,
        "left": result.left,
        "moved": result.moved,
        "handed_over": result.handed_over,
        "adopted": result.adopted,
        "placement_writes": result.writes,
        "seconds": result.seconds,
    }


# The exit code of a program that Ctrl-C ended.
INTERRUPTED = 130
# A shorter wait needs no bar.
BAR_AFTER_S = 1.0
_STEP_S = 0.1


class Progress:
    """
    A bar on stderr.

    Attributes:
        done, total: how many nodes were synced with Placement, and of how many.
        interrupted: Ctrl-C was pressed; the pass ends after the current node.
    """

    def __init__(self, clock: Clock, *, quiet: bool) -> None:
        self._clock = clock
        self._shown = sys.stderr.isatty() and not quiet
        self._bar: Any = None
        self._begun_s = clock.monotonic_s()
        self._drawn_s = 0.0
        self.done = self.total = 0
        self.interrupted = False

    def __call__(self, done: int, total: int) -> None:
        """Note how far the pass is."""
        self.done, self.total = done, total
        now_s = self._clock.monotonic_s()
        if not self._shown or now_s - self._begun_s < BAR_AFTER_S or now_s - self._drawn_s < _STEP_S:
            return
        self._drawn_s = now_s
        if self._bar is None:
            label = "Syncing with Placement (Ctrl-C stops it, the next refresh continues)"
            self._bar = click.progressbar(length=total, label=label, file=sys.stderr, show_pos=True, width=20)
            self._bar.__enter__()
        self._bar.update(done - self._bar.pos)

    def stop(self) -> bool:
        """Say whether the pass is to end."""
        return self.interrupted

    def close(self) -> None:
        """End the bar's line."""
        if self._bar is not None:
            self._bar.update(self.done - self._bar.pos)
            self._bar.render_finish()
            self._bar = None


@contextmanager
def progress_of(clock: Clock, *, quiet: bool) -> Iterator[Progress]:
    """Show progress, and let the first Ctrl-C end the pass between two nodes; a second one ends the program."""
    progress = Progress(clock, quiet=quiet)

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if progress.interrupted:
            raise KeyboardInterrupt
        progress.interrupted = True

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield progress
    finally:
        signal.signal(signal.SIGINT, before)
        progress.close()
