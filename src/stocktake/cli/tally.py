"""
`tally`: the books of nodes that documents describe: support cases. Invariant: no database, no hypervisor, no settings.

A document is a JSON object a line: `config` (the settings in force), `host`, `node`, `node_uuid`, `resources` (what the
driver reports), `instances`, `migrations`, PCI device specs, allocations. `mode` says whether the node has a record
already (`restart`, `periodic`: the one that a refresh without instances makes, with what `prior` overrides) or not
(`new_node`).
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import IO, Any, Literal

import click
import msgspec

from stocktake.accounting.node_work import device_records, ended_consumers, select_work
from stocktake.accounting.tally import tally
from stocktake.audit import stamped
from stocktake.cli.commands import Command
from stocktake.cli.screen import Column, Row, TableCell, screen_of, write, write_prose, write_table
from stocktake.cli.session import Session
from stocktake.errors import InvalidData
from stocktake.model.books import ComputeNode, Tally
from stocktake.model.hypervisor import Guest, Host, HostView, Refusal
from stocktake.model.pci import DeviceStatus
from stocktake.model.provider import Inventory, ProviderTree
from stocktake.model.rules import Rules
from stocktake.model.value import Value, convert, encode, plain, replace
from stocktake.model.workload import Instance, Migration, NodeWork
from stocktake.placement.desired import desired
from stocktake.placement.overrides import NodeOverrides
from stocktake.settings import read_device_spec
from stocktake.verify import verify

LINE_BYTES_MAX = 64 * 1024 * 1024
_CONTEXT_DEVICES = ("old_pci_devices", "new_pci_devices")


class GivenAllocation(Value, frozen=True, kw_only=True):
    """What a consumer has of the node's provider: class to amount."""

    consumer_uuid: str
    resources: Mapping[str, int]


class Prior(Value, frozen=True, kw_only=True):
    """What was different when the record was made."""

    resources: Mapping[str, Any] = {}
    config: Mapping[str, Any] = {}


class Document(Value, frozen=True, kw_only=True):
    """
    A node as it was; see the module.

    Attributes:
        devices: PCI devices that instances had, by address: the instance's uuid, and the status.
        hidden: uuids of instances whose records another cell has taken over.
    """

    id: str
    host: str
    node: str
    node_uuid: str
    mode: Literal["new_node", "restart", "periodic"] = "new_node"
    service_disabled: bool = False
    config: Mapping[str, Any] = {}
    prior: Prior | None = None
    resources: Mapping[str, Any]
    guests: tuple[Guest, ...] | None = None
    pci_device_spec: tuple[Mapping[str, Any], ...] | None = None
    pci_report_in_placement: bool = True
    instances: tuple[Instance, ...] = ()
    migrations: tuple[Migration, ...] = ()
    allocations: tuple[GivenAllocation, ...] = ()
    devices: Mapping[str, tuple[str, DeviceStatus]] = {}
    hidden: frozenset[str] = frozenset()


def read_documents(path: Path) -> Iterator[Document]:
    """
    Read a file of documents, or stdin for `-`, one after another.

    Raises:
        InvalidData: names the line and what is wrong in it.
    """
    if str(path) == "-":
        yield from parse_documents(_lines(sys.stdin.buffer), "stdin")
        return
    try:
        with path.open("rb") as file:
            yield from parse_documents(_lines(file), str(path))
    except OSError as error:
        raise InvalidData(f"can't be read: {error.strerror or error}", where=str(path)) from error


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    """Read lines; of one that is too long, no more than shows it."""
    return iter(lambda: file.readline(LINE_BYTES_MAX + 1), b"")


def parse_documents(lines: Iterable[bytes], source: str) -> Iterator[Document]:
    """Read documents from lines; empty lines are skipped."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _document(line, f"{source} line {number}")


def tally_document(document: Document) -> dict[str, Any]:
    """
    Tally a document.

    Returns:
        `id`, `compute_node`, `entries`, `problems`, `migrations_set_to_error`, `placement`; or `id` and `error`, every
        reason why the driver's report is refused.
    """
    before: ComputeNode | None = None
    if document.mode != "new_node":
        prior = document.prior or Prior()
        first = _counted(
            replace(document, resources={**document.resources, **prior.resources}, guests=None),
            _rules(document, {**document.config, **prior.config}),
            NodeWork(),
        )
        if isinstance(first, Refusal):
            return {"id": document.id, "error": list(first.reasons)}
        before = first[1].node
    work = select_work(document.host, document.node, document.instances, document.migrations)
    counted = _counted(document, _rules(document, document.config), replace(work, record=before))
    if isinstance(counted, Refusal):
        return {"id": document.id, "error": list(counted.reasons)}
    host, books, rules = counted
    tree, problems = desired(host, books, rules, disabled=document.service_disabled, overrides=NodeOverrides())
    return {
        "id": document.id,
        "compute_node": _sorted_pools(plain(books.node)),
        "entries": plain(books.entries),
        "problems": plain((*books.node.problems, *problems)),
        "migrations_set_to_error": list(books.stale_migrations),
        "placement": {"allocations": _allocations(document, tree), "providers": _providers(tree)},
    }


def _document(line: bytes, where: str) -> Document:
    if len(line) > LINE_BYTES_MAX:
        raise InvalidData(f"the document is longer than {LINE_BYTES_MAX // 2**20} MiB", where=where)
    try:
        data = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidData(str(error), where=where) from error
    if isinstance(data, dict):
        data = _with_devices(data)
    document = convert(data, Document, where=where)
    # Checked here, where the line is known.
    for more in ({}, (document.prior or Prior()).config):
        _rules(document, {**document.config, **more}, where=where)
    return replace(
        document,
        instances=tuple(_aware(instance) for instance in document.instances),
        migrations=tuple(_aware(migration) for migration in document.migrations),
    )


def _with_devices(data: dict[str, Any]) -> dict[str, Any]:
    """
    Move out of the instances what `Instance` has no field for: whether it is hidden, and its devices' status.

    A device is an address, or an object with an address and perhaps a status. If two instances name one, it belongs to
    the one that is on this node and not deleted. What has another form is left as it is, to be refused with its path.
    """
    listed = data.get("instances")
    if not isinstance(listed, list):
        return data
    every = [_bare(one) if isinstance(one, dict) else one for one in listed]
    objects = [one for one in listed if isinstance(one, dict)]
    place = (data.get("host"), data.get("node"))
    by_claim = sorted(objects, key=lambda one: ((one.get("host"), one.get("node")) == place, not one.get("deleted")))
    given: dict[str, tuple[object, object]] = {}
    for instance in by_claim:
        devices = instance.get("pci_devices")
        for device in devices if isinstance(devices, list) else ():
            address, status = _named(device)
            if isinstance(address, str):
                given[address] = (instance.get("uuid"), status)
    hidden = [one.get("uuid") for one in objects if one.get("hidden")]
    return {**data, "instances": every, "devices": given, "hidden": hidden}


def _bare(instance: dict[str, Any]) -> dict[str, Any]:
    """Name an instance's devices by their addresses alone."""
    bare = {**instance, **_addresses(instance, ("pci_devices",))}
    context = instance.get("migration_context")
    if isinstance(context, dict):
        bare["migration_context"] = {**context, **_addresses(context, _CONTEXT_DEVICES)}
    return bare


def _addresses(data: Mapping[str, Any], keys: Sequence[str]) -> dict[str, object]:
    """Replace lists of devices by lists of addresses, null by none."""
    found = {key: data[key] for key in keys if key in data}
    return {
        key: [_named(device)[0] for device in value] if isinstance(value, list) else () if value is None else value
        for key, value in found.items()
    }


def _named(device: object) -> tuple[object, object]:
    if isinstance(device, dict):
        return device.get("address"), device.get("status", "allocated")
    return device, "allocated"


def _rules(document: Document, config: Mapping[str, Any], *, where: str = "config") -> Rules:
    given = {name: value for name, value in config.items() if value is not None or "ratio" in name}
    rules = convert({**given, "host": document.host}, Rules, where=where)
    try:
        specs = tuple(read_device_spec(entry) for entry in document.pci_device_spec or ())
    except InvalidData as error:
        raise InvalidData(f"pci_device_spec: {error.what}", where=where) from error
    return replace(rules, device_specs=specs, report_pci=document.pci_report_in_placement)


def _counted(document: Document, rules: Rules, work: NodeWork) -> tuple[Host, Tally, Rules] | Refusal:
    view = HostView(node=document.node, report=stamped(document.resources), guests=document.guests)
    host = verify(view)
    if isinstance(host, Refusal):
        return host
    work = replace(work, pci_devices=device_records(document.devices, host.pci_devices))
    return host, tally(host, work, rules, uuid=document.node_uuid), rules


def _allocations(document: Document, tree: ProviderTree) -> dict[str, dict[str, dict[str, int]]]:
    """Give the allocations that are left once those of deleted instances are removed."""
    ended = ended_consumers(document.instances, hidden=document.hidden, new_node=document.mode == "new_node")
    return {
        one.consumer_uuid: {tree.root.name: dict(one.resources)}
        for one in sorted(document.allocations, key=lambda one: one.consumer_uuid)
        if one.consumer_uuid not in ended
    }


def _sorted_pools(node: dict[str, Any]) -> dict[str, Any]:
    """Sort pools by all they say, smallest first."""
    return {**node, "pci_device_pools": sorted(node["pci_device_pools"], key=encode)}


def _providers(tree: ProviderTree) -> list[dict[str, Any]]:
    """Write the tree as Placement would show it; a child's uuid is not known before it is made."""
    names = {provider.uuid: provider.name for provider in tree.providers}
    return [
        {
            "inventories": {name: _shown(inventory) for name, inventory in sorted(provider.inventories.items())},
            "name": provider.name,
            "parent": names.get(provider.parent_uuid) if provider.parent_uuid else None,
            "traits": sorted(provider.traits),
            "uuid": None if provider.parent_uuid else provider.uuid,
        }
        for provider in (tree.root, *sorted(tree.providers[1:], key=attrgetter("name")))
    ]


def _shown(inventory: Inventory) -> dict[str, int | float]:
    return {
        "allocation_ratio": inventory.allocation_ratio,
        "max_unit": inventory.max_unit,
        "min_unit": inventory.min_unit,
        "reserved": inventory.reserved,
        "step_size": inventory.step_size,
        "total": inventory.total,
    }


def _aware(value: Any) -> Any:
    """Take times without a zone as UTC."""
    times = {name: getattr(value, name) for name in ("created_at", "updated_at", "deleted_at") if hasattr(value, name)}
    naive = {
        name: moment.replace(tzinfo=UTC)
        for name, moment in times.items()
        if isinstance(moment, datetime) and moment.tzinfo is None
    }
    return replace(value, **naive) if naive else value


@click.command(
    "tally",
    cls=Command,
    example="""
    $ stocktake tally node.jsonl
    $ stocktake tally node.jsonl --json | jq .compute_node.memory_mb_used
    """,
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.pass_obj
def tally_command(session: Session, file: Path) -> int:
    """Tally the nodes that FILE describes, or stdin for `-`: a JSON document a line.

    A document holds the driver's report, the instances, the migrations and the
    settings, so that a support case can be worked out anywhere. With --json, one
    line each: id, compute_node, entries, problems, migrations_set_to_error,
    placement. Exit code 1 if one could not be tallied.
    """
    session.json_lines = True
    results: list[dict[str, Any]] = []
    code = 0
    for document in read_documents(file):
        result = tally_document(document)
        code = max(code, 1 if "error" in result else 0)
        if session.json:
            click.echo(msgspec.json.encode(result))
        else:
            results.append(result)
    if not session.json:
        _write(session, results)
    return code


def _write(session: Session, results: list[dict[str, Any]]) -> None:
    screen = screen_of(session)
    if not results:
        write(screen, "No documents found.")
        return
    columns = (
        Column("ID"),
        Column("NODE", shrinks=True),
        Column("VCPUS", right=True),
        Column("MEMORY MiB", right=True),
        Column("DISK GB", right=True, weight=2),
        Column("VMS", right=True, weight=3),
        Column("PROBLEMS", right=True, weight=4),
        Column("STALE MIGRATIONS", weight=1),
    )
    write_table(screen, columns, [_row(result) for result in results])
    for result in results:
        for reason in result.get("error", ()):
            write_prose(screen, f"{result['id']}: {reason}", colour="red")
    if len(results) == 1:
        for problem in results[0].get("problems", ()):
            write_prose(screen, f"{problem['severity']} {problem['code']} ({problem['about']}): {problem['text']}")


def _row(result: dict[str, Any]) -> Row:
    if "error" in result:
        return (str(result["id"]), TableCell("refused", "red"), "", "", "", "", "", "")
    node = result["compute_node"]
    return (
        str(result["id"]),
        node["hypervisor_hostname"],
        f"{node['vcpus_used']}/{node['vcpus']}",
        f"{node['memory_mb_used']:,}/{node['memory_mb']:,}",
        f"{node['local_gb_used']:,}/{node['local_gb']:,}",
        str(node["running_vms"]),
        str(len(result["problems"])),
        ", ".join(map(str, result["migrations_set_to_error"])),
    )
