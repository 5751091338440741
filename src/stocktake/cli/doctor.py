"""
`doctor`: what is wrong here, and what to do. Invariant: one line a part, each with its remedy.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import click

from stocktake.accounting.node_availability import is_alive, is_by_hand
from stocktake.audit import TimeLimit
from stocktake.cli.commands import Command
from stocktake.cli.screen import clean, screen_of, wrapped, write, write_json
from stocktake.cli.session import Session, open_placement
from stocktake.drivers.base import Driver, load_driver
from stocktake.errors import StocktakeError, Unreachable
from stocktake.ledger import Ledger, open_ledger
from stocktake.ledger.engine import parse_url
from stocktake.placement.overrides import read_overrides
from stocktake.refresh import identity
from stocktake.settings import Settings, front_of, redacted
from stocktake.views.quantities import count, since

Verdict = Literal["ok", "warn", "fail"]

# Clocks that differ by more make signs of life and the order of events doubtful.
_CLOCK_S_MAX = 5.0
_LIBVIRT_SOCKET = Path("/var/run/libvirt/libvirt-sock")


@dataclass(frozen=True, slots=True)
class Check:
    """One line: which part, how it is, and what to do; `unreachable` makes the exit code 3."""

    part: str
    verdict: Verdict
    text: str
    remedy: str = ""
    unreachable: bool = False


@dataclass(slots=True)
class Host:
    """What the checks have found so far; a part that could not be opened stays None."""

    session: Session
    opened: ExitStack
    settings: Settings | None = None
    ledger: Ledger | None = None
    driver: Driver | None = None
    limit: TimeLimit | None = None
    names: tuple[str, ...] = ()
    clocks: dict[str, datetime] = field(default_factory=dict)


def examine(session: Session) -> Iterator[Check]:
    """Check one part after another; a later one may need an earlier."""
    with ExitStack() as opened:
        host = Host(session, opened)
        for part, check in CHECKS.items():
            try:
                yield from (Check(part, verdict, text, remedy) for verdict, text, remedy in check(host))
            except StocktakeError as error:
                where = f"{error.where}: " if error.where else ""
                yield Check(part, "fail", f"{where}{error.what}", error.remedy, isinstance(error, Unreachable))
            if host.settings is None:
                return


Answers = Iterator[tuple[Verdict, str, str]]


def _settings(host: Host) -> Answers:
    host.settings = settings = host.session.settings
    files = sorted({origin.partition(" line ")[0] for origin in settings.origins.values() if " line " in origin})
    source = f"from {', '.join(files)}" if files else "no file: defaults"
    yield "ok", f"{source}; {len(settings.origins)} set", ""

    overrides = read_overrides(settings.provider_config_location)
    if settings.provider_config_location.is_dir():
        entries = len(overrides.by_id) + (overrides.every_node is not None)
        yield "ok", f"{settings.provider_config_location}: {entries} provider entries", ""


def _ledger(host: Host) -> Answers:
    assert host.settings is not None
    settings, session = host.settings, host.session
    front = front_of(settings)
    if front is not None:
        yield _server(host, front)
        return
    url = parse_url(settings.database.connection)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        yield "ok", f"{url.database} is not there yet; the first refresh makes it", ""
        return
    ledger = open_ledger(
        settings.database.connection,
        replica_url=settings.database.replica_url,
        clock=session.clock,
        ids=session.ids,
        upgrade=False,
    )
    host.opened.callback(ledger.close)
    version = ledger.schema_version()
    if version is None:
        yield "warn", f"{ledger.name} is empty", "`stocktake ledger init` makes it, and so does the first refresh."
        return
    # Begins to write, and writes nothing.
    with ledger.transaction():
        pass
    host.ledger = ledger
    yield "ok", f"{ledger.name}, schema version {version}, can be written", ""


def _server(host: Host, front: str) -> tuple[Verdict, str, str]:
    """Look at who this host is to the server that keeps its books."""
    assert host.settings is not None
    me = host.session.fleet.who_am_i()
    host.ledger = host.session.ledger
    told = f"{front}, signed in as {me.role}{f' of {me.host}' if me.host else ''}"
    if me.role == "agent" and me.host != host.settings.host:
        remedy = f"Take a token for this host: `stocktake token create --role agent --host {host.settings.host}`."
        return "fail", f"{told}, and this host is {host.settings.host}", remedy
    if me.role == "viewer" and host.settings.ledger is not None:
        return "fail", f"{told}, who may not write", "An agent takes a token of role agent."
    return "ok", told, ""


def _hypervisor(host: Host) -> Answers:
    assert host.settings is not None
    driver = load_driver(host.settings, host.session.clock)
    host.opened.callback(driver.close)
    limit = TimeLimit(host.settings.driver_timeout_s, driver.name)
    host.names = limit.call(driver.node_names)
    host.driver, host.limit = driver, limit
    few = ", ".join(host.names[:3]) + (" …" if len(host.names) > 3 else "")
    told = f"driver {driver.name}, {count(len(host.names), 'node')}: {few}"
    if not host.names:
        yield "warn", f"driver {driver.name} has no node", "Check compute_driver: `stocktake config show`."
    elif host.settings.compute_driver == "auto" and driver.name == "host" and _LIBVIRT_SOCKET.exists():
        remedy = 'Set compute_driver = "libvirt" to see why, or "host" if that is meant.'
        yield "warn", f"{told}; libvirtd is here and did not answer", remedy
    else:
        yield "ok", told, ""


def _placement(host: Host) -> Answers:
    assert host.settings is not None

    scheduler = open_placement(host.settings, host.session.clock)
    host.opened.callback(scheduler.close)
    # Something that takes the roles: the version is told to anybody.
    reached = scheduler.check(host.names[0] if host.names else host.settings.host)
    mode = host.settings.placement.mode
    if mode == "none":
        yield "ok", "none: nothing is reported", ""
        return
    front = front_of(host.settings) if mode == "embedded" else None
    # Of a remote one, the address that is used: the settings' or the one that Keystone's catalogue has.
    where = front or (reached.url if mode == "remote" else _shown(host, "placement.connection"))
    yield "ok", f"{mode}{f' at {where}' if where else ''}, version {reached.version}", ""


def _identity(host: Host) -> Answers:
    assert host.settings is not None
    own = identity.read_compute_id(host.settings.state_path)
    if own is None:
        yield "ok", "no compute_id: its driver knows the uuids of nodes, or no refresh ran yet", ""
        return
    if host.ledger is None:
        yield "ok", f"compute_id {own}; not compared, the ledger is not there", ""
        return
    ours = host.ledger.nodes(host=host.settings.host)
    identity.guard_host(host.settings.host, own, host.ledger.owners.read([own]).get(own))
    identity.guard_nodes(own, host.names, ours)
    yield "ok", f"host {host.settings.host}, compute_id {own}", ""


def _clock(host: Host) -> Answers:
    now = host.session.clock.now()
    if host.ledger is not None:
        # Written by whoever saw it last: a sign of life from the future is another machine's clock or ours.
        for service in host.ledger.services():
            seen = service.last_seen_up
            if seen is not None and (seen - now).total_seconds() > _CLOCK_S_MAX:
                host.clocks[f"{service.host}'s sign of life"] = seen
    date = _date_of_placement(host)
    if date is not None:
        host.clocks["Placement's"] = date
    off = {
        who: (seen - now).total_seconds()
        for who, seen in host.clocks.items()
        if abs((seen - now).total_seconds()) > _CLOCK_S_MAX
    }
    for who, seconds in off.items():
        ahead = "ahead of" if seconds > 0 else "behind"
        yield "warn", f"{who} clock is {abs(seconds):.0f} s {ahead} this host's", "Run an NTP client on both."
    if not off:
        compared = f", compared with {', '.join(host.clocks)}" if host.clocks else ""
        yield "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC{compared}", ""


def _date_of_placement(host: Host) -> datetime | None:
    """Read the Date header of a remote Placement; it is accurate to the second."""
    assert host.settings is not None
    url = host.settings.placement.url
    if host.settings.placement.mode != "remote" or url is None:
        return None

    import requests

    section = host.settings.placement
    check: bool | str = str(section.cafile) if section.cafile else not section.insecure
    try:
        header = requests.get(url, timeout=section.timeout_s, verify=check).headers.get("Date", "")
        return parsedate_to_datetime(header)
    except (requests.RequestException, ValueError):
        # That it can't be reached is said by its own check.
        return None


def _permissions(host: Host) -> Answers:
    assert host.settings is not None
    state = host.settings.state_path
    there = next(path for path in (state, *state.parents) if path.exists())
    if os.access(there, os.W_OK | os.X_OK):
        yield "ok", f"{state} {'can be written' if there == state else 'can be made'}", ""
    else:
        user = f"user {os.geteuid()}"
        yield "fail", f"{state} can't be written by {user}", "Run as root, change its owner, or set state_path."
    yield from _libvirt_permissions(host)


def _libvirt_permissions(host: Host) -> Answers:
    assert host.settings is not None
    libvirt = host.settings.libvirt
    wanted = host.settings.compute_driver in {"auto", "libvirt"} and libvirt.connection_uri.endswith(":///system")
    if wanted and _LIBVIRT_SOCKET.exists() and not os.access(_LIBVIRT_SOCKET, os.R_OK | os.W_OK):
        yield "warn", f"{_LIBVIRT_SOCKET} is not for this user", "Add the user to the group libvirt, or run as root."
    if host.driver is None or host.driver.name != "libvirt":
        return
    images = libvirt.instances_path
    if not images.is_dir():
        remedy = "Set libvirt.instances_path to where the guests' images are."
        yield "warn", f"{images} is no directory", remedy
    elif not os.access(images, os.R_OK | os.X_OK):
        yield "warn", f"{images} can't be read", "Add this user to the group that owns it, or run as root."
    else:
        yield "ok", f"{images} can be read", ""


def _agent(host: Host) -> Answers:
    assert host.settings is not None
    if host.ledger is None:
        return
    service = host.ledger.service(host.settings.host)
    now = host.session.clock.now()
    remedy = "Start it: `stocktake agent`, or `systemctl enable --now stocktake-agent`."
    if service is None:
        yield "warn", f"none ever ran for host {host.settings.host}", remedy
    elif is_by_hand(service):
        yield "ok", "none ever ran: refreshed by hand; `stocktake agent` keeps the books by itself", ""
    elif not is_alive(service, now, host.settings.service_down_time):
        yield "warn", f"no sign of life for {since(service.last_seen_up, now)}", remedy
    else:
        yield "ok", f"alive, last seen {since(service.last_seen_up, now)} ago", ""


def _nodes(host: Host) -> Answers:
    assert host.settings is not None
    if host.ledger is None:
        return
    nodes = host.ledger.nodes(host=host.settings.host)
    troubled = [node for node in nodes if node.wrong]
    errors = any(node.failure or any(found.severity == "error" for found in node.problems) for node in troubled)
    if troubled:
        name = troubled[0].hypervisor_hostname
        number = sum(len(node.wrong) for node in troubled)
        text = f"{count(number, 'problem')} on {len(troubled)} of {count(len(nodes), 'node')}"
        yield "fail" if errors else "warn", text, f"`stocktake show {name}` says which and what to do."
    else:
        yield (
            "ok",
            f"{count(len(nodes), 'node')} without problems" if nodes else "none yet: `stocktake refresh` makes them",
            "",
        )


CHECKS: dict[str, Callable[[Host], Answers]] = {
    "settings": _settings,
    "ledger": _ledger,
    "hypervisor": _hypervisor,
    "permissions": _permissions,
    "placement": _placement,
    "identity": _identity,
    "clock": _clock,
    "agent": _agent,
    "nodes": _nodes,
}


def _shown(host: Host, name: str) -> str:
    assert host.settings is not None
    value = next(shown.value for shown in redacted(host.settings) if shown.name == name)
    return "" if value is None else str(value)


_MARKS = {"ok": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}
# Where the text begins, after mark and part.
_INDENT = 19


@click.command(
    "doctor",
    cls=Command,
    example="""
    $ stocktake doctor
    $ stocktake --config /etc/stocktake/new.toml doctor
    $ stocktake doctor --json | jq -r '.data[] | select(.verdict != "ok") | .remedy'
    """,
)
@click.pass_obj
def doctor_command(session: Session) -> int:
    """Check everything this host needs, and say what to do.

    Settings, permissions, ledger, hypervisor, Placement, identity, clock, agent,
    nodes. Exit code 1 if something was found, 3 if something could not be
    reached.
    """
    screen = screen_of(session)
    checks: list[Check] = []
    for check in examine(session):
        checks.append(check)
        if session.json:
            continue
        mark, colour = _MARKS[check.verdict]
        remedy = f" -> {check.remedy}" if check.remedy else ""
        lines = wrapped(screen, clean(f"{check.text}{remedy}"), indent=_INDENT)
        write(screen, f"{screen.paint(mark, fg=colour)}  {check.part:<12} {lines[0]}")
        for line in lines[1:]:
            write(screen, f"{'':{_INDENT}}{line}")
    code = 3 if any(check.unreachable for check in checks) else int(any(check.verdict != "ok" for check in checks))
    if session.json:
        write_json(session, [asdict(check) for check in checks], exit_code=code)
    return code
