"""
Steps 6 and 7, one node's books of what was read of it. Invariant: equal facts give equal books, wherever they are
counted.

A node on which others claim without a pause is counted where the database is, with its row locked.
"""

from collections.abc import Mapping

from stocktake.accounting.tally import tally
from stocktake.errors import InvalidData
from stocktake.ledger import Rows, SaveOutcome, Transaction, ledger_call
from stocktake.model.access import AGENTS
from stocktake.model.hypervisor import Host, HostView
from stocktake.model.problem import ordered
from stocktake.model.rules import Rules
from stocktake.model.value import Value, replace
from stocktake.model.workload import NodeWork
from stocktake.placement.desired import desired
from stocktake.placement.desired_allocations import desired_of
from stocktake.placement.overrides import NodeOverrides
from stocktake.report.save import Books, carried, save_of
from stocktake.verify import verify


class LockedCount(Value, frozen=True, kw_only=True):
    """What was read of nodes whose rows were locked, by name, and what became of their saves."""

    works: Mapping[str, NodeWork]
    outcome: SaveOutcome


# It is retried: a save that was done is a conflict then. What is not the caller's is in every field that names it.
@ledger_call(
    roles=AGENTS, rows=lambda it: Rows(hosts=[it.rules.host], nodes=it.uuids.values()), writes=True, routine=True
)
def count_locked(
    tx: Transaction,
    host: str,
    *,
    views: Mapping[str, HostView],
    uuids: Mapping[str, str],
    rules: Rules,
    overrides: Mapping[str, NodeOverrides],
    disabled: bool,
) -> LockedCount:
    """
    Read, tally and save nodes with their rows locked.

    Args:
        views: by node name, what was asked of the hypervisor; verified anew where it is counted.
        uuids, overrides: by node name.
        disabled: the host takes no new machines.

    Raises:
        InvalidData: a view can't be believed.
    """
    hosts = {name: _verified(view) for name, view in views.items()}
    tx.lock(uuids.values())
    works = tx.work(host, tuple(hosts), guests_of(hosts))
    saves = [
        save_of(books_of(one, works[name], rules, overrides[name], uuid=uuids[name], disabled=disabled))
        for name, one in hosts.items()
    ]
    return LockedCount(works=works, outcome=tx.save([one for one in saves if one is not None]))


def _verified(view: HostView) -> Host:
    verdict = verify(view)
    if not isinstance(verdict, Host):
        raise InvalidData("; ".join(verdict.reasons), where=view.node)
    return verdict


def books_of(
    host: Host, work: NodeWork, rules: Rules, overrides: NodeOverrides, *, uuid: str, disabled: bool, own: bool = False
) -> Books:
    """
    Tally one node and work out what the scheduler should hold.

    Args:
        own: the allocations on it are ours to write.
    """
    counted = tally(host, work, rules, uuid=uuid)
    tree, problems = desired(host, counted, rules, disabled=disabled, overrides=overrides)
    node = replace(counted.node, problems=ordered((*counted.node.problems, *problems)))
    held = desired_of(counted, work, tree) if own else {}
    return Books(work=work, tally=replace(counted, node=carried(node, tree, work.record)), tree=tree, allocations=held)


def guests_of(hosts: Mapping[str, Host]) -> dict[str, frozenset[str]]:
    """Name the guests of each node by their uuids."""
    return {name: frozenset(guest.uuid for guest in host.guests or ()) for name, host in hosts.items()}
