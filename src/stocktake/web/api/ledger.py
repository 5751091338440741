"""
`/v1/ledger`: the ledger's calls, for agents and for commands that run elsewhere. Invariant: an agent touches its own
host's rows only.

Every call that is declared (`stocktake.ledger.calls`) is a route; who sends one is a program of ours, of the same
version or nearly so.
"""

from typing import Any

import msgspec
from starlette.responses import Response

from stocktake.errors import AccessDenied
from stocktake.ledger.calls import CALLS, LedgerCall
from stocktake.refresh import claim_expiry, locked  # noqa: F401  # they declare calls
from stocktake.web.calls import Call, Route, route


def _route(declared: LedgerCall) -> Route:
    def answer(call: Call[None, Any]) -> Response:
        caller = call.caller
        if caller.role == "agent" and caller.host is None:
            raise AccessDenied("the agent's token names no host")
        host = caller.host if caller.role == "agent" else None
        value = call.web.ledger.carry(declared, call.body, host=host)
        # As fast as can be: no sorting, no tag, for nobody compares it.
        return Response(msgspec.json.encode(value), media_type="application/json")

    answer.__name__ = declared.name
    answer.__doc__ = f"The ledger's call `{declared.name}`."
    answer.__annotations__ = {"call": Call[None, declared.arguments], "return": Response}  # type: ignore[name-defined]
    writes = declared.writes and not declared.routine
    return route("POST", declared.path, answer, declared.roles, hidden=True, checked=False, writes=writes)


ROUTES = tuple(_route(declared) for declared in CALLS.values())
