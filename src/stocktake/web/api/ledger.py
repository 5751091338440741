"""
`/v1/ledger`: the door for agents, and for what commands read from afar. Invariant: an agent touches its own host's rows
only.

Every call of `stocktake.ledger.rpc` is a route; who sends one is a program of ours, of the same version or nearly so.
"""

from typing import Any

import msgspec
from starlette.responses import Response

from stocktake.errors import AccessDenied
from stocktake.ledger import DatabaseLedger
from stocktake.ledger.host_scope import HostLedger
from stocktake.ledger.rpc import CALLS, ROOT, SnapshotAsked, SnapshotSaid, Wire
from stocktake.refresh.claim_expiry import ClaimExpiry
from stocktake.refresh.locked import Count
from stocktake.web.calls import AGENTS, ANY_TOKEN, OPERATORS, Call, Route, route

# What agents write all the time about nobody but themselves: the rows say so, the audit log need not.
_DAILY = frozenset({"register", "heartbeat", "save", "note_failures", "thin_history"})


def standing(call: Call[None, SnapshotAsked]) -> Response:
    """Give all that a pass over a host reads; nothing of it if that is what the agent has."""
    asked, books = call.body, _books(call)
    if asked.known is not None and books.standing_digest(asked.host, asked.strangers) == asked.known:
        return _said(SnapshotSaid(digest=asked.known))
    found, digest = books.standing_digested(asked.host, asked.nodes, asked.guests)
    return _said(SnapshotSaid(digest=digest, standing=found))


def count(call: Call[None, Count]) -> Response:
    """Count nodes with their rows held, and save them."""
    return _said(_books(call).held(call.body))


def claim_expiry(call: Call[None, ClaimExpiry]) -> Response:
    """Settle pending claims of a host: kept where their guests are there, given back where they expired."""
    return _said(_books(call).held(call.body))


def _said(value: object) -> Response:
    """Write an answer as fast as can be: no sorting, no tag, for nobody compares it."""
    return Response(msgspec.json.encode(value), media_type="application/json")


def _books(call: Call[None, Any]) -> DatabaseLedger | HostLedger:
    """Give the ledger as the caller may use it."""
    caller, ledger = call.caller, call.web.ledger
    if caller.role != "agent":
        return ledger
    if caller.host is None:
        raise AccessDenied("the token is of an agent, and names no host")
    return HostLedger(ledger, caller.host)


def _route(wire: Wire) -> Route:
    def answer(call: Call[None, Any]) -> Any:
        method: Any = _books(call)
        for part in wire.name.split("."):
            method = getattr(method, part, None)
        if method is None:
            raise AccessDenied("no agent may do that, for it is about more than its own host")
        arguments = {name: getattr(call.body, name) for name in wire.arguments.__struct_fields__}
        return _said(method(**arguments))

    answer.__name__ = wire.name.replace(".", "_")
    answer.__doc__ = f"The ledger's call `{wire.name}`."
    answer.__annotations__ = {"call": Call[None, wire.arguments], "return": Response}  # type: ignore[name-defined]
    roles = OPERATORS if wire.people else AGENTS if wire.writes else ANY_TOKEN
    writes = wire.writes and wire.name not in _DAILY
    return route("POST", wire.path, answer, roles, hidden=True, checked=False, writes=writes)


ROUTES = (
    *(_route(wire) for wire in CALLS.values()),
    route("POST", f"{ROOT}/standing", standing, AGENTS, hidden=True, checked=False, writes=False),
    route("POST", f"{ROOT}/held/count", count, AGENTS, hidden=True, checked=False, writes=False),
    route("POST", f"{ROOT}/held/claimexpiry", claim_expiry, AGENTS, hidden=True, checked=False),
)
