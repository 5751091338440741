"""
What is asked of a claim and what it gives. Invariant: a "no" is a value with every reason.

`AnyClaims` is the interface: whoever is behind it, a database or a server, each call means the same.
"""

from datetime import datetime
from typing import Literal, Protocol

from stocktake.accounting.lifecycle import MoveKind
from stocktake.errors import ClaimRefused
from stocktake.model.books import ComputeNode
from stocktake.model.fitting import Limits, NoRoom
from stocktake.model.pci import PciAlias
from stocktake.model.value import Value
from stocktake.model.workload import Flavor, Instance, Migration


class ClaimRules(Value, frozen=True, kw_only=True):
    """
    The settings that claims need.

    Attributes:
        own: stocktake writes allocations to the scheduler (`allocations = "own"`).
        expiry_s: after how many seconds a claim that nobody settled is given back.
        down_s: after how many seconds of silence an agent counts as down.
        aliases: names of PCI devices that flavors ask for.
        report_pci: PCI devices are the scheduler's too.
        pack: the fullest NUMA cells are taken first.
    """

    own: bool = False
    expiry_s: float = 600.0
    down_s: float = 60.0
    aliases: tuple[PciAlias, ...] = ()
    report_pci: bool = True
    pack: bool = False


class Request(Value, frozen=True, kw_only=True):
    """A machine to be built: its flavor, and whose it is."""

    name: str | None = None
    uuid: str | None = None
    flavor: Flavor
    volume_backed: bool = False
    project_id: str | None = None
    user_id: str | None = None
    os_type: str | None = None


class Claimed(Value, frozen=True, kw_only=True):
    """
    What was claimed, or what became of it.

    Attributes:
        nodes: the records of the nodes that it changed, as they are now.
        unsynced: why the scheduler does not have it yet; the next refresh tells it.
    """

    instance: Instance
    migration: Migration | None = None
    nodes: tuple[ComputeNode, ...] = ()
    unsynced: str | None = None

    @property
    def expires_at(self) -> datetime | None:
        """When it is given back unless somebody settles it; None once it is settled."""
        return self.migration.claim_expires_at if self.migration else self.instance.claim_expires_at


class Refused(Value, frozen=True, kw_only=True):
    """
    Nothing was claimed.

    Attributes:
        by: who refused: the node's record (`books`), or the scheduler.
    """

    node: str
    reasons: tuple[NoRoom, ...]
    by: Literal["books", "scheduler"] = "books"

    def error(self) -> ClaimRefused:
        """Make the error that says so."""
        return ClaimRefused([reason.text for reason in self.reasons], where=self.node, refused=[self])


class AnyClaims(Protocol):
    """The calls of `Claims`; what they mean is said there."""

    @property
    def expiry_s(self) -> float: ...
    def build(
        self, node: str, request: Request, *, limits: Limits | None = None, expires_s: float | None = None
    ) -> Claimed | Refused: ...
    def unshelve(
        self, uuid: str, node: str, *, limits: Limits | None = None, expires_s: float | None = None
    ) -> Claimed | Refused: ...
    def move(
        self,
        uuid: str,
        kind: MoveKind,
        node: str,
        *,
        flavor: Flavor | None = None,
        limits: Limits | None = None,
        expires_s: float | None = None,
        force: bool = False,
        migration_uuid: str | None = None,
    ) -> Claimed | Refused: ...
    def keep(self, uuid: str) -> Claimed: ...
    def renew(self, uuid: str, *, expires_s: float | None = None) -> Claimed: ...
    def finish(self, uuid: str) -> Claimed: ...
    def confirm(self, uuid: str) -> Claimed: ...
    def revert(self, uuid: str) -> Claimed: ...
    def abort(self, uuid: str) -> Claimed: ...
    def release(self, uuid: str) -> Claimed: ...
