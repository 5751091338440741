"""
`watch`: the fleet, live. Invariant: the ledger is read, nobody else is asked.
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import click

from stocktake.cli.commands import Command
from stocktake.cli.screen import Screen, screen_of, write, write_json
from stocktake.cli.session import Session, open_books
from stocktake.cli.watch.fleet_snapshot import FleetSnapshot, changes
from stocktake.cli.watch.frame import Size, View, frame, pressed
from stocktake.cli.watch.reader import Look, Reader, Watcher
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.ledger.engine import parse_url
from stocktake.settings import redact_url
from stocktake.views.nodes import summary_of

# How often keys and looks are asked for, how many changes are remembered, and how late a look may be.
_TICK_S = 0.1
_CHANGES_MAX = 500
_LATE_S = 5.0


@click.command(
    "watch",
    cls=Command,
    example="""
    $ stocktake watch
    $ stocktake watch --interval 5
    $ stocktake watch --once | less
    """,
)
@click.option(
    "--interval",
    "interval_s",
    type=click.FloatRange(min=0.1, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to read the ledger.",
)
@click.option("--once", is_flag=True, help="Print one picture and exit; so it does without a terminal.")
@click.pass_obj
def watch_command(session: Session, interval_s: float, *, once: bool) -> int:
    """Watch all nodes: what is reserved, allocated and free, what changes, what is wrong.

    \b
    q ends. Arrows, j and k, PgUp and PgDn scroll; g and G go to the ends.
    s sorts by name, vCPUs, memory, disk, VMs, problems; S goes back.
    / filters by name, host or state while you type; Esc shows all again.
    Figures are allocated/capacity. A bar is as long as what is reserved and the
    capacity; │ is where the hardware's total is, and » ends one that is
    over-allocated.
    """

    reader = _reader(session)
    screen = screen_of(session)
    if session.json:
        write_json(session, [summary_of(row) for row in _read_once(reader).rows])
        return 0
    if not once and screen.width is not None and sys.stdin.isatty():
        from stocktake.cli.watch.terminal import can_be_moved_in

        if can_be_moved_in():
            _live(session, reader, screen, interval_s)
            return 0
    _write_once(session, screen, _read_once(reader))
    return 0


def _reader(session: Session) -> Reader:
    settings = session.settings
    if session.server is not None:
        return Reader(
            lambda: open_books(settings, session.clock, session.ids), None, session.clock, settings.service_down_time
        )
    url = parse_url(settings.database.connection)
    file = Path(url.database) if url.get_backend_name() == "sqlite" and url.database else None

    def opened() -> DatabaseLedger:
        # Who only looks makes nothing.
        return open_ledger(settings.database.connection, clock=session.clock, ids=session.ids, upgrade=False)

    return Reader(opened, file, session.clock, settings.service_down_time)


def _read_once(reader: Reader) -> FleetSnapshot:
    try:
        return reader.read()
    finally:
        reader.close()


def _view(session: Session) -> View:
    where = session.server or session.settings.database.connection
    return View(ledger=redact_url(where), now=session.clock.now())


def _write_once(session: Session, screen: Screen, fleet: FleetSnapshot) -> None:
    columns = shutil.get_terminal_size((80, 24)).columns
    for line in frame(replace(_view(session), fleet=fleet), Size(columns)):
        write(screen, "".join(_painted(screen, span.text, span.style) for span in line).rstrip())


def _painted(screen: Screen, text: str, style: str) -> str:
    names = style.split()
    effects = {name: True for name in names if name in {"bold", "dim", "reverse"}}
    colour = next((name for name in names if name not in effects), None)
    return screen.paint(text, fg=colour, **effects)


def _live(session: Session, reader: Reader, screen: Screen, interval_s: float) -> None:
    """Show the picture until `q`; a new one for every look, every key and every second."""
    from stocktake.cli.watch.terminal import terminal

    view: View | None = _view(session)
    with terminal(colour=screen.colour, unicode=screen.unicode) as shown:
        watcher = Watcher(reader, session.clock, interval_s)
        try:
            while view is not None:
                size = shown.size()
                shown.draw(frame(view, size))
                key = look = None
                second = view.now.replace(microsecond=0)
                while key is None and look is None and session.clock.now().replace(microsecond=0) == second:
                    key, look = shown.key(_TICK_S), watcher.taken()
                view = replace(view, now=session.clock.now())
                view = looked(view, look) if look is not None else waited(view, interval_s)
                view = pressed(view, key, size) if key else view
        finally:
            watcher.stop()


def looked(view: View, look: Look) -> View:
    """Take a look over into the view, with what changed since the one before."""
    told = view.changes
    if view.fleet is not None and look.fleet is not None and look.fleet is not view.fleet:
        told = (*reversed(changes(view.fleet, look.fleet)), *told)[:_CHANGES_MAX]
    return replace(view, fleet=look.fleet, trouble=look.trouble, changes=told)


def waited(view: View, interval_s: float) -> View:
    """Say that the ledger does not answer, if by now it should have."""
    if view.fleet is None or view.trouble:
        return view
    late = (view.now - view.fleet.at).total_seconds() > 2 * interval_s + _LATE_S
    return replace(view, trouble="no answer yet") if late else view
