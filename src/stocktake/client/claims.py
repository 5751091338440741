"""
Claims from afar. Invariant: the same "no" with the same numbers, and no claim is made twice because an answer was
lost.
"""

from typing import Any
from urllib.parse import quote

from stocktake.accounting.lifecycle import MoveKind
from stocktake.claims.claims import NEVER_S
from stocktake.claims.nouns import Claimed, Refused, Request
from stocktake.client.transport import Transport
from stocktake.clock import Ids
from stocktake.errors import ClaimRefused
from stocktake.model.fitting import Limits
from stocktake.model.value import plain
from stocktake.model.workload import Flavor


class RemoteClaims:
    """
    Promises on the nodes of a fleet; what the calls mean is said at `stocktake.claims.Claims`. Threads may share one.

    Attributes:
        expiry_s: after how many seconds, as this machine's settings have it, a claim is given back.
    """

    def __init__(self, transport: Transport, ids: Ids, *, expiry_s: float) -> None:
        self._transport = transport
        self._ids = ids
        self.expiry_s = expiry_s

    def build(
        self, node: str, request: Request, *, limits: Limits | None = None, expires_s: float | None = None
    ) -> Claimed | Refused:
        """Claim room for a machine that is to be built; `auto` takes the best node."""
        # The uuid is made before it is sent: what is sent again, because the answer was lost, is the same claim.
        uuid = request.uuid or self._ids.uuid()
        remedy = f"It may have been claimed: claim it again with the uuid {uuid}, which claims once."
        asked = plain(request) | {"uuid": uuid} | _how(node, limits, expires_s)
        return self._claim("/v1/claims", asked, retryable=True, unknown_remedy=remedy)

    def unshelve(
        self, uuid: str, node: str, *, limits: Limits | None = None, expires_s: float | None = None
    ) -> Claimed | Refused:
        """Claim room for an instance that was shelved."""
        return self._claim(_path(uuid, "unshelve"), _how(node, limits, expires_s))

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
    ) -> Claimed | Refused:
        """Claim room at the destination of a move."""
        # Only an evacuation knows of force.
        asked = {"kind": kind, "flavor": plain(flavor), "force": force if kind == "evacuation" else None}
        asked["migration_uuid"] = move_uuid = migration_uuid or self._ids.uuid()
        remedy = f"It may have begun: `stocktake migrations` shows whether there is one of the uuid {move_uuid}."
        asked |= _how(node, limits, expires_s)
        return self._claim(_path(uuid, "move"), asked, retryable=True, unknown_remedy=remedy)

    def keep(self, uuid: str) -> Claimed:
        """Settle the claim of a build or an unshelve."""
        return self._settle(uuid, "keep", retryable=True)

    def renew(self, uuid: str, *, expires_s: float | None = None) -> Claimed:
        """Let a pending claim live longer."""
        return self._ask(_path(uuid, "renew"), {"expires_s": _expiry(expires_s)}, retryable=True)

    def finish(self, uuid: str) -> Claimed:
        """Take a moving instance to its destination."""
        return self._settle(uuid, "finish")

    def confirm(self, uuid: str) -> Claimed:
        """Let go what a finished move holds at its source."""
        return self._settle(uuid, "confirm")

    def revert(self, uuid: str) -> Claimed:
        """Take the instance of a finished move back."""
        return self._settle(uuid, "revert")

    def abort(self, uuid: str) -> Claimed:
        """Give a pending claim back."""
        return self._settle(uuid, "abort")

    def release(self, uuid: str) -> Claimed:
        """Take a promise back, whatever its state."""
        return self._settle(uuid, "release")

    def _claim(
        self, path: str, asked: dict[str, Any], *, retryable: bool = False, unknown_remedy: str = ""
    ) -> Claimed | Refused:
        body = {name: value for name, value in asked.items() if value is not None}
        try:
            return self._ask(path, body, retryable=retryable, unknown_remedy=unknown_remedy)
        except ClaimRefused as error:
            if len(error.refused) == 1 and isinstance(error.refused[0], Refused):
                return error.refused[0]
            raise

    def _settle(self, uuid: str, word: str, *, retryable: bool = False) -> Claimed:
        return self._ask(_path(uuid, word), None, retryable=retryable)

    def _ask(self, path: str, body: object, *, retryable: bool, unknown_remedy: str = "") -> Claimed:
        claimed: Claimed = self._transport.ask(
            "POST", path, body, Claimed, retryable=retryable, unknown_remedy=unknown_remedy
        )
        return claimed


def _path(uuid: str, word: str) -> str:
    return f"/v1/instances/{quote(uuid, safe='')}/{word}"


def _how(node: str, limits: Limits | None, expires_s: float | None) -> dict[str, Any]:
    return {"node": node, "limits": plain(limits), "expires_s": _expiry(expires_s)}


def _expiry(expires_s: float | None) -> float | str | None:
    return "never" if expires_s == NEVER_S else expires_s
