"""
What is read to be shown: the fleet, and what a person or a program means by a name. Invariant: a fixed number of
queries; by a name one thing is found, or the error names the nearest.
"""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from stocktake.accounting.capacity import has_dedicated_cpus
from stocktake.errors import NotFound
from stocktake.ledger import Ledger
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.workload import Instance, Service
from stocktake.views.nodes import NodeView, called, views_of
from stocktake.views.quantities import nearest

_SHOWN_MAX = 5
# Among so many instances the nearest name is looked for: a guess that takes a second is no help.
_NEAR_MAX = 2000


def read_fleet(
    ledger: Ledger,
    now: datetime,
    down_time_s: float,
    *,
    host: str | None = None,
    uuids: Collection[str] | None = None,
) -> list[NodeView]:
    """Read all nodes with what is shown of each, those of a host, or some; records are without what is large."""
    nodes = ledger.nodes_in_brief(host=host, uuids=uuids)
    dedicated = {node.uuid for node in nodes if has_dedicated_cpus(node)}
    if dedicated:
        # How many of their CPUs are dedicated only their cells say.
        whole = {node.uuid: node for node in _whole(ledger, host, dedicated if uuids is not None else None)}
        nodes = tuple(whole.get(node.uuid, node) if node.uuid in dedicated else node for node in nodes)
    return views_of(nodes, ledger.services(), entries_shown(ledger, nodes), now, down_time_s)


def _whole(ledger: Ledger, host: str | None, uuids: Collection[str] | None) -> Iterator[ComputeNode]:
    if uuids is None:
        yield from ledger.nodes(host=host)
        return
    for uuid in uuids:
        # It may have gone meanwhile.
        with contextlib.suppress(NotFound):
            yield ledger.node(uuid)


def entries_shown(ledger: Ledger, nodes: Sequence[ComputeNode]) -> Mapping[str, Sequence[Entry]]:
    """Read by nodes' uuids the entries that `view_of` asks for: few, but all of nodes with dedicated CPUs."""
    dedicated = {node.uuid for node in nodes if has_dedicated_cpus(node)}
    few = ledger.unmanaged([node.uuid for node in nodes if node.uuid not in dedicated], reserves=True)
    return {**few, **(ledger.all_entries(dedicated) if dedicated else {})}


def find_node(ledger: Ledger, name: str) -> ComputeNode:
    """
    Find a node by its name or uuid, or by what Ironic calls it.

    Raises:
        NotFound: there is none; names the nearest.
    """
    try:
        return ledger.node(name)
    except NotFound as error:
        nodes = ledger.nodes()
        named = [node for node in nodes if called(node) == name]
        if len(named) == 1:
            return named[0]
        names = [called(node) for node in nodes]
        if not names:
            remedy = "The ledger has no nodes yet: `stocktake refresh` takes stock of this machine."
            raise NotFound(f"there is no node {name!r}", remedy=remedy) from error
        short = [known for known in names if known.partition(".")[0] == name]
        if len(short) == 1:
            return ledger.node(short[0])
        remedy = nearest(name, names).strip() or "`stocktake nodes` lists them."
        raise NotFound(f"there is no node {name!r}", remedy=remedy) from error


def find_instance(ledger: Ledger, uuid_or_name: str) -> Instance:
    """
    Find an instance by its uuid, or by a name that only one has.

    Raises:
        NotFound: there is none, and the nearest; or several.
    """
    found = ledger.instances(named=uuid_or_name)
    mine = [one for one in found if one.uuid == uuid_or_name] or list(found)
    if len(mine) == 1:
        return mine[0]
    if mine:
        uuids = ", ".join(one.uuid for one in mine[:_SHOWN_MAX])
        raise NotFound(f"several instances are named {uuid_or_name!r}", remedy=f"Give the uuid: {uuids}.")
    some, _more = ledger.instances_page(after=0, limit=_NEAR_MAX)
    known = [name for one in some for name in (one.uuid, one.name) if name]
    remedy = nearest(uuid_or_name, known).strip() or "`stocktake instances` lists them."
    raise NotFound(f"there is no instance {uuid_or_name!r}", remedy=remedy)


def find_service(ledger: Ledger, host: str) -> Service:
    """
    Find the service of a host.

    Raises:
        NotFound: there is none; names the nearest.
    """
    found = ledger.service(host)
    if found is None:
        known = [service.host for service in ledger.services()]
        remedy = nearest(host, known).strip() or "`stocktake services` lists them."
        raise NotFound(f"there is no service {host!r}", remedy=remedy)
    return found
