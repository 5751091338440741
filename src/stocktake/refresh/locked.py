"""
Steps 6 and 7, one node's books of what was read of it. Invariant: equal facts give equal books, wherever they are
counted.

A node on which others claim without a pause is counted where the database is, with its row held.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from stocktake.accounting.tally import tally
from stocktake.errors import InvalidData
from stocktake.ledger import NodeSave, SaveOutcome, Transaction
from stocktake.model.hypervisor import Host, HostView
from stocktake.model.problem import ordered
from stocktake.model.rules import Rules
from stocktake.model.value import Value, replace
from stocktake.model.workload import NodeWork
from stocktake.placement.desired import desired
from stocktake.placement.overrides import NodeOverrides
from stocktake.report.save import Books, carried, save_of
from stocktake.verify import verify


class Counted(Value, frozen=True, kw_only=True):
    """What was read of nodes whose rows were held, by name, and what became of their saves."""

    works: Mapping[str, NodeWork]
    outcome: SaveOutcome


class Count(Value, frozen=True, kw_only=True):
    """
    Count nodes with their rows held, and save them.

    Attributes:
        views: by node name, what was asked of the hypervisor; verified anew where it is counted.
        uuids, overrides: by node name.
        disabled: the host takes no new machines.
    """

    answer: ClassVar[Any] = Counted

    host: str
    views: Mapping[str, HostView]
    uuids: Mapping[str, str]
    rules: Rules
    overrides: Mapping[str, NodeOverrides]
    disabled: bool

    def run(self, held: Transaction) -> Counted:
        """
        Read, tally and save.

        Raises:
            InvalidData: a view can't be believed.
        """
        hosts = {name: self._host(view) for name, view in self.views.items()}
        held.lock(self.uuids.values())
        works = held.work(self.host, tuple(hosts), guests_of(hosts))
        saves = [self._save(name, host, works[name]) for name, host in hosts.items()]
        wanted = [one for one in saves if one is not None]
        none = SaveOutcome(saved={}, conflicts=frozenset())
        return Counted(works=works, outcome=held.save(wanted) if wanted else none)

    def _save(self, name: str, host: Host, work: NodeWork) -> NodeSave | None:
        overrides, uuid = self.overrides[name], self.uuids[name]
        return save_of(books_of(host, work, self.rules, overrides, uuid=uuid, disabled=self.disabled))

    def _host(self, view: HostView) -> Host:
        verdict = verify(view)
        if not isinstance(verdict, Host):
            raise InvalidData("; ".join(verdict.reasons), where=view.node)
        return verdict


def books_of(host: Host, work: NodeWork, rules: Rules, overrides: NodeOverrides, *, uuid: str, disabled: bool) -> Books:
    """Tally one node and work out what the scheduler should hold."""
    counted = tally(host, work, rules, uuid=uuid)
    tree, problems = desired(host, counted, rules, disabled=disabled, overrides=overrides)
    node = replace(counted.node, problems=ordered((*counted.node.problems, *problems)))
    return Books(work=work, tally=replace(counted, node=carried(node, tree, work.record)), tree=tree)


def guests_of(hosts: Mapping[str, Host]) -> dict[str, frozenset[str]]:
    """Name the guests of each node by their uuids."""
    return {name: frozenset(guest.uuid for guest in host.guests or ()) for name, host in hosts.items()}
