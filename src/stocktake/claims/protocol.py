"""Claims as their users see them. Invariant: whoever is behind it, a database or a server, each call means the same."""

from typing import Protocol

from stocktake.accounting.lifecycle import MoveKind
from stocktake.claims.nouns import Claimed, Refused, Request
from stocktake.model.fitting import Limits
from stocktake.model.workload import Flavor


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
    ) -> Claimed | Refused: ...
    def keep(self, uuid: str) -> Claimed: ...
    def renew(self, uuid: str, *, expires_s: float | None = None) -> Claimed: ...
    def finish(self, uuid: str) -> Claimed: ...
    def confirm(self, uuid: str) -> Claimed: ...
    def revert(self, uuid: str) -> Claimed: ...
    def abort(self, uuid: str) -> Claimed: ...
    def release(self, uuid: str) -> Claimed: ...
