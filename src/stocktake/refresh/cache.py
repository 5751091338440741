"""
What the last pass made of what it read. Invariant: it saves work and decides nothing; without it every figure is the
same.

Verifying and tallying are functions of what was read. Where that is the same as before, so is what they give: a
steady pass over thousands of nodes compares instead of counting.
"""

from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass

from stocktake.model.hypervisor import Host, HostView, Refusal
from stocktake.model.value import replace
from stocktake.model.workload import NodeWork
from stocktake.report.save import Books

# What is alike on many nodes, and how many kinds of it are remembered.
_ALIKE = ("cpu_info", "supported_instances", "numa_topology", "traits", "capabilities", "pci_devices", "inventories")
_KINDS_MAX = 16


@dataclass(slots=True)
class _Known:
    view: HostView
    verdict: Host | Refusal
    counted: tuple[NodeWork, str, bool, Books] | None = None


class RefreshCache:
    """One host's nodes as the last pass saw them; for one set of rules and overrides only."""

    def __init__(self) -> None:
        # Whether a pass has seen that no other machine has this host's name.
        self.checked = False
        # The id of the agent's run, once it has said that it lives.
        self.run: str | None = None
        self._known: dict[str, _Known] = {}
        self._kinds: dict[str, deque[object]] = {}

    def verdict(self, view: HostView, verify: Callable[[HostView], Host | Refusal]) -> Host | Refusal:
        """Give what `verify` says of a view, if need be from before."""
        known = self._known.get(view.node)
        if known is None or known.view != view:
            known = self._known[view.node] = _Known(view=view, verdict=self._sharing(verify(view)))
        return known.verdict

    def books(self, host: Host, work: NodeWork, uuid: str, *, disabled: bool, count: Callable[[], Books]) -> Books:
        """Give what counting gives, if need be from before."""
        known = self._known.get(host.node)
        if known is None or known.verdict is not host:
            return count()
        if known.counted is not None:
            was_work, was_uuid, was_disabled, books = known.counted
            if (was_uuid, was_disabled) == (uuid, disabled) and was_work == work:
                return books
        books = count()
        known.counted = (work, uuid, disabled, books)
        return books

    def _sharing(self, verdict: Host | Refusal) -> Host | Refusal:
        """Give a host that shares with others what is equal: of thousands of nodes most are like some other."""
        if not isinstance(verdict, Host):
            return verdict
        shared = {name: self._shared(name, getattr(verdict, name)) for name in _ALIKE}
        return replace(verdict, **shared)

    def _shared(self, name: str, value: object) -> object:
        kinds = self._kinds.setdefault(name, deque(maxlen=_KINDS_MAX))
        for known in kinds:
            if known == value:
                return known
        kinds.append(value)
        return value

    def keep(self, nodes: Collection[str]) -> None:
        """Forget all nodes but these."""
        if len(self._known) > len(nodes):
            kept = set(nodes)
            self._known = {name: known for name, known in self._known.items() if name in kept}
