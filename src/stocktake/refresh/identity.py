"""
Who this host is. Invariant: nothing is written or deleted under another's name.

A node's uuid is kept in the file `compute_id` in the state path; it is its resource provider's uuid too. Drivers that
know a uuid per node (bare metal) are asked instead.
"""

import hmac
import logging
import uuid as uuids
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from stocktake.clock import Ids
from stocktake.errors import AccessDenied, DriverUnreachable, IdentityError
from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode
from stocktake.model.hypervisor import Host
from stocktake.model.workload import Service
from stocktake.refresh.context import Context, Pass, failure_of
from stocktake.settings.state_files import COMPUTE_ID, ComputeIdFile

LOG = logging.getLogger(__name__)
MACHINE_FILES = (Path("/etc/machine-id"), Path("/sys/class/dmi/id/product_uuid"))
_APPLICATION = b"stocktake host identity"
_TWO = "If these are two machines, give this one a name of its own (`host`)."


def compute_id(file: ComputeIdFile, ours: Sequence[ComputeNode], ids: Ids) -> str:
    """
    Settle this host's id: the file's; else that of the one node the ledger has for this host; else a new one, kept.

    Args:
        ours: the ledger's nodes of this host.
    """
    kept = file.read()
    if kept is not None:
        return kept
    made = ours[0].uuid if len(ours) == 1 else ids.uuid()
    file.write(made)
    # Another process may have been faster: what is kept counts.
    return file.read() or made


def node_uuids(
    compute_id: str, nodes: Sequence[str], reported: Mapping[str, str | None], ours: Sequence[ComputeNode]
) -> dict[str, str]:
    """
    Give each node its uuid: the driver's, else the record's, else compute_id for a single node, else one made of both.

    Args:
        reported: the uuid that the driver reports for a node, if it does.
        ours: the ledger's nodes of this host.
    """
    saved = {row.hypervisor_hostname: row.uuid for row in ours}
    alone = len(nodes) == 1
    given: dict[str, str] = {}
    for node in nodes:
        known = reported.get(node) or saved.get(node)
        given[node] = known or (compute_id if alone else _derived(compute_id, node))
    return given


def guard_host(host: str, compute_id: str, holder: str | None) -> None:
    """
    Stop a host that runs with another's id, before anything is asked or written.

    Args:
        holder: the host that has the ledger's node whose uuid is `compute_id`.

    Raises:
        IdentityError: renamed, or the state path was copied; says how to fix it.
    """
    if holder is not None and holder != host:
        raise IdentityError(
            f"compute_id {compute_id} belongs to host {holder!r} in the ledger, and this host is {host!r}",
            where=COMPUTE_ID,
            remedy=f'If this host was renamed, set `host = "{holder}"`; '
            f"if its state path was copied from {holder}, delete its {COMPUTE_ID} file.",
        )


def machine_of(named: str | None, files: Sequence[Path] = MACHINE_FILES) -> str | None:
    """
    Give a digest of what tells this machine from others of its name; None if nothing does.

    Args:
        named: what the setting `machine_id` says; None takes the machine's own id (man machine-id), which is to stay on
            the machine, or the hardware's.
    """
    for text in (named, *(_line(path) for path in files)):
        if text:
            # As sd_id128_get_machine_app_specific does: the id itself can't be worked out of it.
            return hmac.digest(text.encode(), _APPLICATION, "sha256").hex()[:32]
    return None


def _line(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii").strip().lower()
    except (OSError, UnicodeDecodeError):
        return None


def guard_machine(service: Service | None, machine: str | None, *, now: datetime, down_time_s: float) -> None:
    """
    Stop a machine whose name another machine's living agent has.

    Raises:
        IdentityError: says how to fix it.
    """
    if service is not None and _lives(service, now, down_time_s) and _is_another(service, machine):
        what = f"the agent of host {service.host!r} lives on another machine (run {service.run or 'unknown'})"
        raise IdentityError(what, where=service.host, remedy=_TWO)


def guard_taking(
    service: Service | None, machine: str | None, *, now: datetime, down_time_s: float, run: str | None = None
) -> None:
    """
    Stop a machine without an id of its own that would take the place of another, or of an agent that lives.

    Args:
        run: this agent's own; its sign of life is nobody else's.

    Raises:
        IdentityError: says how to fix it.
    """
    if service is None:
        return
    if _lives(service, now, down_time_s) and (run is None or service.run != run):
        what = f"it has no {COMPUTE_ID}, and an agent of host {service.host!r} reported at {service.last_seen_up}"
        remedy = f"{_TWO} If its state path was lost, wait {down_time_s:g} s, or start it once with --adopt-identity."
        raise IdentityError(what, where=service.host, remedy=remedy)
    if service.machine is not None and service.machine != machine:
        what = f"it has no {COMPUTE_ID}, and in the ledger host {service.host!r} is another machine"
        remedy = f"{_TWO} If it replaces that machine, start it once with --adopt-identity."
        raise IdentityError(what, where=service.host, remedy=remedy)


def settle_machine(ledger: Ledger, service: Service, machine: str | None, *, first: bool) -> None:
    """
    Save which machine has this name in the first pass; in later ones, stop if another one took it.

    Raises:
        IdentityError: another machine has it now.
    """
    if machine is None or service.machine == machine:
        return
    if not first and service.machine is not None:
        what = f"another machine took the name {service.host!r} in the ledger (run {service.run or 'unknown'})"
        raise IdentityError(what, where=service.host, remedy=_TWO)
    ledger.note_machine(service.host, machine)


def _lives(service: Service, now: datetime, down_time_s: float) -> bool:
    return service.last_seen_up is not None and now - service.last_seen_up < timedelta(seconds=down_time_s)


def _is_another(service: Service, machine: str | None) -> bool:
    return None not in {service.machine, machine} and service.machine != machine


def guard_nodes(compute_id: str, nodes: Sequence[str], ours: Sequence[ComputeNode]) -> None:
    """
    Stop a host whose only node is not the one that the ledger knows, before anything is written or deleted.

    Args:
        nodes: the names that the driver reports.
        ours: the ledger's nodes of this host.

    Raises:
        IdentityError: the hypervisor was renamed, or the id is another's; says how to fix it.
    """
    if len(nodes) != 1:
        return
    (name,) = nodes
    for row in ours:
        if row.uuid == compute_id and row.hypervisor_hostname != name:
            raise IdentityError(
                f"the ledger knows this host's node as {row.hypervisor_hostname!r}, "
                f"and the hypervisor now calls itself {name!r}",
                where=COMPUTE_ID,
                remedy="Give the machine its old name back; or, if the new one is to stay, "
                f"take its guests away and run `stocktake nodes --delete {row.hypervisor_hostname}` first.",
            )
        if row.hypervisor_hostname == name and row.uuid not in {compute_id, _derived(compute_id, name)}:
            raise IdentityError(
                f"the ledger knows node {name!r} as {row.uuid}, and this host's id is {compute_id}",
                where=COMPUTE_ID,
                remedy=f"Write {row.uuid} into {COMPUTE_ID} in the state path: another host's may be in its place.",
            )


def _derived(compute_id: str, node: str) -> str:
    """Make the uuid of one node of several; the same whenever it is made."""
    return str(uuids.uuid5(uuids.UUID(compute_id), node))


def identified(
    context: Context,
    names: Sequence[str],
    hosts: dict[str, Host],
    ours: Sequence[ComputeNode],
    result: Pass,
    *,
    adopt: bool,
    run: str | None = None,
) -> dict[str, str]:
    """
    Settle the nodes' uuids, or stop. A node whose driver gives it another uuid than its record has drops out.

    Args:
        adopt: an operator says that this machine takes the host's place in the ledger.
        run: this agent's, if it is one.
    """
    reported = {node: host.uuid for node, host in hosts.items() if host.uuid is not None}
    saved = {row.hypervisor_hostname: row.uuid for row in ours}
    for node, uuid in reported.items():
        if saved.get(node, uuid) != uuid:
            what = f"the driver gives it the uuid {uuid}, and the ledger knows it as {saved[node]}"
            remedy = f"If the machine was replaced, `stocktake nodes --delete {node}` makes room for the new one."
            result.failed[node] = IdentityError(what, where=node, remedy=remedy)
            del hosts[node]
    new = {node: uuid for node, uuid in reported.items() if node in hosts and node not in saved}
    _take_over(context, new, hosts, result)
    if not hosts:
        # Nothing needs a name now, and a row that no driver vouches for is no ground to settle this host's id.
        if result.compute_id is not None:
            guard_nodes(result.compute_id, names, ours)
        return {}
    if reported.keys() >= hosts.keys():
        return {node: reported[node] for node in hosts}
    nameless = [row for row in ours if row.hypervisor_hostname not in reported]
    if not ours and result.compute_id is not None:
        LOG.warning(
            "this host was in a ledger before, and %s knows nothing of it: if a ledger was lost, its instances and "
            "migrations are too (`stocktake ledger import` brings an export back)",
            context.ledger.name,
        )
    if result.compute_id is None and not adopt:
        host, down_time_s = context.rules.host, context.settings.service_down_time
        machine = machine_of(context.settings.machine_id)
        guard_taking(context.ledger.service(host), machine, now=context.clock.now(), down_time_s=down_time_s, run=run)
    # Read once: a file that is removed in mid-pass is not made anew.
    own = result.compute_id or compute_id(context.compute_id_file, nameless, context.ids)
    guard_nodes(own, names, ours)
    return node_uuids(own, tuple(hosts), reported, ours)


def check_host(context: Context, ours: Sequence[ComputeNode], *, first: bool) -> str | None:
    """
    Stop if this host's id is another host's node; asks the ledger only where the id is none of our rows'.

    Args:
        first: stop too if this host's name is another machine's whose agent lives; later the heartbeat tells.

    Returns:
        This host's id; None if it has none yet.
    """
    own = context.compute_id_file.read()
    if own is not None and all(row.uuid != own for row in ours):
        guard_host(context.rules.host, own, context.ledger.owners([own]).get(own))
    if first:
        service, machine = context.ledger.service(context.rules.host), machine_of(context.settings.machine_id)
        guard_machine(service, machine, now=context.clock.now(), down_time_s=context.settings.service_down_time)
    return own


def _take_over(context: Context, uuids: Mapping[str, str], hosts: dict[str, Host], result: Pass) -> None:
    """Take nodes that are ours now and were another service's before: record, promises and allocations stay."""
    if not uuids:
        return
    owners, me = context.ledger.owners(uuids.values()), context.rules.host
    theirs = {node: uuid for node, uuid in uuids.items() if owners.get(uuid, me) != me}
    if not theirs:
        return
    try:
        taken = context.ledger.take_nodes({uuid: owners[uuid] for uuid in theirs.values()}, me)
    except AccessDenied:
        for node, uuid in theirs.items():
            what = f"it is {owners[uuid]}'s, and this host's token may not take it over"
            remedy = "Give this agent a token of role operator, or the database."
            result.failed[node] = AccessDenied(what, where=node, remedy=remedy)
            del hosts[node]
        return
    for node, uuid in theirs.items():
        if uuid in taken:
            result.moved[node] = owners[uuid]
        else:
            # Somebody else was faster: it is his.
            del hosts[node]
    for host in sorted(set(result.moved.values())):
        nodes = [node for node, before in result.moved.items() if before == host]
        told = f"{', '.join(nodes[:3])}{', ...' if len(nodes) > 3 else ''}"
        LOG.warning("took %d nodes over from %s: %s", len(nodes), host, told, extra={"from": host})


def check_driver(context: Context, ours: Sequence[ComputeNode]) -> None:
    """Stop where `compute_driver = "auto"` found no hypervisor and the ledger knows that there is one: it is down."""
    if context.settings.compute_driver != "auto" or context.driver.name != "host":
        return
    known = {row.hypervisor_type for row in ours} - {None, "host"}
    if known:
        error = DriverUnreachable(
            f"no hypervisor answers, and the ledger knows this host as {', '.join(sorted(map(str, known)))}",
            where=context.rules.host,
            remedy='Start it; or, if it is gone for good, set `compute_driver = "host"`.',
        )
        context.ledger.note_failures({row.uuid: failure_of(error) for row in ours})
        raise error
