"""
What the server says of itself: whether it works, and what can be asked. Invariant: neither tells anything of the
fleet.
"""

from typing import Any

from stocktake import __version__
from stocktake.model.access import ANY_TOKEN, WhoAmI
from stocktake.model.value import Value
from stocktake.web.calls import ANYBODY, Call, route


class ServerHealth(Value, frozen=True, kw_only=True):
    """The server answers, and so does its ledger."""

    status: str
    version: str


def health(call: Call[None, None]) -> ServerHealth:
    """Say whether the server and its ledger work: 200, or 503 if the ledger does not answer."""
    call.web.ledger.ping()
    return ServerHealth(status="ok", version=__version__)


def described(call: Call[None, None]) -> dict[str, Any]:
    """Describe this API in OpenAPI 3.1."""
    document: dict[str, Any] = call.request.app.state.document
    return document


def who_am_i(call: Call[None, None]) -> WhoAmI:
    """Say who the server takes the caller for."""
    assert call.caller.role is not None, "somebody without a role does not get here"
    return WhoAmI(role=call.caller.role, host=call.caller.host, token=call.caller.token)


ROUTES = (
    route("GET", "/healthz", health, ANYBODY),
    route("GET", "/v1/whoami", who_am_i, ANY_TOKEN),
    route("GET", "/v1/openapi.json", described, ANYBODY),
)
