"""
`doctor`: what is wrong here, and what to do, one function a part. Invariant: a check changes nothing, and its failure
is an answer, never an end.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Literal

import click

from stocktake.accounting.node_availability import is_alive, is_by_hand
from stocktake.audit import TimeLimit
from stocktake.cli.commands import Command
from stocktake.cli.config import files_of, provider_entries
from stocktake.cli.screen import screen_of, wrapped, write, write_json
from stocktake.cli.session import Session, open_placement
from stocktake.cli.text import clean
from stocktake.drivers.base import Driver, load_driver
from stocktake.errors import StocktakeError, Unreachable
from stocktake.ledger import Ledger, open_ledger
from stocktake.ledger.engine import parse_url
from stocktake.refresh import identity
from stocktake.settings import Settings, redacted
from stocktake.settings.state_files import ComputeIdFile, exposure
from stocktake.views.finding import read_fleet
from stocktake.views.problems import fleet_problems
from stocktake.views.quantities import count, since

Verdict = Literal["ok", "warn", "fail"]

# Clocks that differ by more make heartbeats and the order of events doubtful.
_CLOCK_S_MAX = 5.0
_LIBVIRT_SOCKET = Path("/var/run/libvirt/libvirt-sock")


@dataclass(frozen=True, slots=True)
class Check:
    """One line: the part, its verdict, and what to do; `unreachable` makes the exit code 3."""

    part: str
    verdict: Verdict
    text: str
    remedy: str = ""
    unreachable: bool = False


@dataclass(slots=True)
class Findings:
    """What the checks have found so far; what could not be opened stays None."""

    session: Session
    opened: ExitStack
    ledger: Ledger | None = None
    driver: Driver | None = None
    node_names: tuple[str, ...] = ()

    @property
    def settings(self) -> Settings:
        """The settings, which the first check has read."""
        return self.session.settings


def examine(session: Session) -> Iterator[Check]:
    """Check one part after another; a later one may need an earlier, and all need the settings."""
    with ExitStack() as opened:
        found = Findings(session, opened)
        for part, check in CHECKS:
            try:
                yield from (Check(part, verdict, text, remedy) for verdict, text, remedy in check(found))
            except StocktakeError as error:
                where = f"{error.where}: " if error.where else ""
                yield Check(part, "fail", f"{where}{error.what}", error.remedy, isinstance(error, Unreachable))
                if check is _settings:
                    return


Answers = Iterator[tuple[Verdict, str, str]]


def _settings(found: Findings) -> Answers:
    files = files_of(found.settings)
    source = f"from {', '.join(files)}" if files else "no file: defaults"
    yield "ok", f"{source}; {len(found.settings.origins)} set", ""


def _provider_configs(found: Findings) -> Answers:
    location = found.settings.provider_config_location
    entries = provider_entries(found.settings)
    if location.is_dir():
        yield "ok", f"{location}: {count(entries, 'provider entry', 'provider entries')}", ""


def _ledger(found: Findings) -> Answers:
    settings, session = found.settings, found.session
    if session.server is not None:
        yield _server(found, session.server)
        return
    url = parse_url(settings.database.connection)
    if url.get_backend_name() == "sqlite" and url.database and not Path(url.database).exists():
        yield "ok", f"{url.database} does not exist yet; the first refresh makes it", ""
        return
    ledger = open_ledger(
        settings.database.connection,
        replica_url=settings.database.replica_url,
        clock=session.clock,
        ids=session.ids,
        upgrade=False,
    )
    found.opened.callback(ledger.close)
    version = ledger.schema_version()
    if version is None:
        yield "warn", f"{ledger.name} is empty", "`stocktake ledger init` makes it; so does the first refresh."
        return
    # Begins to write, and writes nothing.
    with ledger.transaction():
        pass
    found.ledger = ledger
    yield "ok", f"{ledger.name}, schema version {version}, can be written", ""


def _server(found: Findings, server: str) -> tuple[Verdict, str, str]:
    """Look at who this host is to the server in front of the ledger."""
    me = found.session.fleet.who_am_i()
    found.ledger = found.session.ledger
    told = f"{server}, signed in as {me.role}{f' of {me.host}' if me.host else ''}"
    host = found.settings.host
    if me.role == "agent" and me.host != host:
        remedy = f"Use a token for this host: `stocktake token create --role agent --host {host}`."
        return "fail", f"{told}, but this host is {host}", remedy
    if me.role == "viewer" and found.settings.ledger is not None:
        return "fail", f"{told}, which may not write", "An agent needs a token of role agent."
    return "ok", told, ""


def _hypervisor(found: Findings) -> Answers:
    driver = load_driver(found.settings, found.session.clock)
    found.opened.callback(driver.close)
    limit = TimeLimit(found.settings.driver_timeout_s, driver.name)
    found.node_names = limit.call(driver.node_names)
    found.driver = driver
    few = ", ".join(found.node_names[:3]) + (" …" if len(found.node_names) > 3 else "")
    told = f"driver {driver.name}, {count(len(found.node_names), 'node')}: {few}"
    if not found.node_names:
        yield "warn", f"driver {driver.name} reports no nodes", "Check compute_driver: `stocktake config show`."
    elif found.settings.compute_driver == "auto" and driver.name == "host" and _LIBVIRT_SOCKET.exists():
        remedy = 'Set compute_driver = "libvirt" to see why, or "host" if that is intended.'
        yield "warn", f"{told}; libvirtd is installed but did not answer", remedy
    else:
        yield "ok", told, ""


def _placement(found: Findings) -> Answers:
    scheduler = open_placement(found.settings, found.session.clock)
    found.opened.callback(scheduler.close)
    # A request that needs the roles: anybody may ask for the version.
    reached = scheduler.check(found.node_names[0] if found.node_names else found.settings.host)
    mode = found.settings.placement.mode
    if mode == "none":
        yield "ok", "none: nothing is reported", ""
        return
    server = found.session.server if mode == "embedded" else None
    # A remote one's address is the settings' or the one in Keystone's catalogue.
    where = server or (reached.url if mode == "remote" else _shown(found, "placement.connection"))
    yield "ok", f"{mode}{f' at {where}' if where else ''}, version {reached.version}", ""


def _identity(found: Findings) -> Answers:
    own = ComputeIdFile(found.settings.state_path).read()
    if own is None:
        yield "ok", "no compute_id: the driver knows the nodes' uuids, or no refresh ran yet", ""
        return
    if found.ledger is None:
        yield "ok", f"compute_id {own}; not compared: the ledger could not be opened", ""
        return
    ours = found.ledger.nodes(host=found.settings.host)
    identity.guard_host(found.settings.host, own, found.ledger.owners([own]).get(own))
    identity.guard_nodes(own, found.node_names, ours)
    yield "ok", f"host {found.settings.host}, compute_id {own}", ""


def _clock(found: Findings) -> Answers:
    now = found.session.clock.now()
    clocks: dict[str, datetime] = {}
    if found.ledger is not None:
        # A heartbeat from the future: the other machine's clock is ahead, or this one's behind.
        for service in found.ledger.services():
            seen = service.last_seen_up
            if seen is not None and (seen - now).total_seconds() > _CLOCK_S_MAX:
                clocks[f"{service.host}'s"] = seen
    date = _date_of_placement(found)
    if date is not None:
        clocks["Placement's"] = date
    off = {
        who: (seen - now).total_seconds()
        for who, seen in clocks.items()
        if abs((seen - now).total_seconds()) > _CLOCK_S_MAX
    }
    for who, seconds in off.items():
        ahead = "ahead of" if seconds > 0 else "behind"
        yield "warn", f"{who} clock is {abs(seconds):.0f} s {ahead} this host's", "Run an NTP client on both."
    if not off:
        compared = f", compared with {', '.join(clocks)}" if clocks else ""
        yield "ok", f"{now:%Y-%m-%d %H:%M:%S} UTC{compared}", ""


def _date_of_placement(found: Findings) -> datetime | None:
    """Read the Date header of a remote Placement; it is accurate to the second."""
    url = found.settings.placement.url
    if found.settings.placement.mode != "remote" or url is None:
        return None

    import requests

    section = found.settings.placement
    check: bool | str = str(section.cafile) if section.cafile else not section.insecure
    try:
        header = requests.get(url, timeout=section.timeout_s, verify=check).headers.get("Date", "")
        return parsedate_to_datetime(header)
    except (OSError, ValueError):
        # Placement's own check says that it can't be reached.
        return None


def _permissions(found: Findings) -> Answers:
    state = found.settings.state_path
    there = next(path for path in (state, *state.parents) if path.exists())
    if os.access(there, os.W_OK | os.X_OK):
        yield "ok", f"{state} {'can be written' if there == state else 'can be made'}", ""
    else:
        user = f"user {os.geteuid()}"
        yield "fail", f"{state} can't be written by {user}", "Run as root, change its owner, or set state_path."
    exposed = exposure(state)
    if exposed is not None:
        yield "warn", *exposed
    yield from _libvirt_permissions(found)


def _libvirt_permissions(found: Findings) -> Answers:
    libvirt = found.settings.libvirt
    wanted = found.settings.compute_driver in {"auto", "libvirt"} and libvirt.connection_uri.endswith(":///system")
    if wanted and _LIBVIRT_SOCKET.exists() and not os.access(_LIBVIRT_SOCKET, os.R_OK | os.W_OK):
        yield "warn", f"this user may not use {_LIBVIRT_SOCKET}", "Add the user to the group libvirt, or run as root."
    if found.driver is None or found.driver.name != "libvirt":
        return
    images = libvirt.instances_path
    if not images.is_dir():
        remedy = "Set libvirt.instances_path to where the guests' images are."
        yield "warn", f"{images} is not a directory", remedy
    elif not os.access(images, os.R_OK | os.X_OK):
        yield "warn", f"{images} can't be read", "Add this user to the group that owns it, or run as root."
    else:
        yield "ok", f"{images} can be read", ""


def _agent(found: Findings) -> Answers:
    if found.ledger is None:
        return
    service = found.ledger.service(found.settings.host)
    now = found.session.clock.now()
    remedy = "Start it: `stocktake agent`, or `systemctl enable --now stocktake-agent`."
    if service is None:
        yield "warn", f"no agent ever ran for host {found.settings.host}", remedy
    elif is_by_hand(service):
        yield "ok", "no agent ever ran: refreshed by hand; `stocktake agent` refreshes every minute", ""
    elif not is_alive(service, now, found.settings.service_down_time):
        yield "warn", f"no heartbeat for {since(service.last_seen_up, now)}", remedy
    else:
        yield "ok", f"alive, last reported {since(service.last_seen_up, now)} ago", ""


def _nodes(found: Findings) -> Answers:
    if found.ledger is None:
        return
    host, now, down_s = found.settings.host, found.session.clock.now(), found.settings.service_down_time
    nodes = read_fleet(found.ledger, now, down_s, host=host)
    service = found.ledger.service(host)
    told = fleet_problems(
        ((view.node, view.own_problems) for view in nodes), (service,) if service else (), now, down_s
    )
    if told:
        troubled = [view for view in nodes if view.problems]
        verdict: Verdict = "fail" if any(one.severity == "error" for one in told) else "warn"
        text = f"{count(len(told), 'problem')} on {len(troubled)} of {count(len(nodes), 'node')}"
        remedy = f"`stocktake show {troubled[0].name}` says which and what to do." if troubled else told[0].remedy
        yield verdict, text, remedy
    else:
        yield (
            "ok",
            f"{count(len(nodes), 'node')} without problems"
            if nodes
            else "no nodes yet: `stocktake refresh` makes them",
            "",
        )


CHECKS: tuple[tuple[str, Callable[[Findings], Answers]], ...] = (
    ("settings", _settings),
    ("settings", _provider_configs),
    ("ledger", _ledger),
    ("hypervisor", _hypervisor),
    ("permissions", _permissions),
    ("placement", _placement),
    ("identity", _identity),
    ("clock", _clock),
    ("agent", _agent),
    ("nodes", _nodes),
)


def _shown(found: Findings, name: str) -> str:
    value = next(shown.value for shown in redacted(found.settings) if shown.name == name)
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

    Settings, ledger, hypervisor, permissions, Placement, identity, clock, agent,
    nodes. Exit code 1 if there is a problem, 3 if something could not be reached.
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
