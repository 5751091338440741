"""
Placement at `/placement`: the one that is embedded, for `openstack resource provider` and whoever else speaks its API.

Invariant: who asks is known here, and Placement hears of nobody else. It believes whatever headers say who one is, so
that only headers that don't are passed on. Viewers read; operators write, one at a time, under the embedded door's
locks. Agents have what `own_providers` gives them.
"""

from http import HTTPStatus

from requests import PreparedRequest
from requests import Response as Answer
from requests.exceptions import RequestException
from starlette.requests import Request
from starlette.responses import Response

from stocktake.errors import PlacementUnreachable, StocktakeError
from stocktake.placement.embedded import Embedded
from stocktake.settings import Settings
from stocktake.settings.secrets import redact_url
from stocktake.web.calls import AGENTS, ANY_TOKEN, ANYBODY, Call, Method, encoded, route
from stocktake.web.own_providers import OwnProviders
from stocktake.web.reading import bytes_of
from stocktake.web.status import NotServed

MOUNT = "/placement"
# What an administrator is called by Placement's `noauth2`.
_IDENTITY = "admin"
_PASSED_ON = ("accept", "content-type", "openstack-api-version")
_GIVEN_BACK = ("content-type", "location", "cache-control", "last-modified", "openstack-api-version", "vary", "allow")
_WRITING: tuple[Method, ...] = ("POST", "PUT", "PATCH", "DELETE")


async def passed_on(call: Call[None, None]) -> Response:
    """
    Have the embedded Placement answer.

    Raises:
        NotServed: Placement is elsewhere, or there is none; names it.
    """
    door = call.web.placement
    if door is None:
        raise _elsewhere(call.web.settings)
    body = await bytes_of(call.request, call.web.settings.server.request_bytes_max)
    return await call.blocking(_allowed, call, door, body)


def _allowed(call: Call[None, None], door: Embedded, body: bytes) -> Response:
    caller = call.caller
    if caller.role == "agent":
        path = call.request.url.path.removeprefix(MOUNT).strip("/")
        method = "GET" if call.request.method == "HEAD" else call.request.method
        OwnProviders(door, call.web.ledger, caller.host or "", _IDENTITY).check(method, path, body)
    return _answered(door, call.request, body)


def _answered(door: Embedded, request: Request, body: bytes) -> Response:
    asked = PreparedRequest()
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    asked.prepare(
        # What it would answer to HEAD is what it answers to GET, without the body.
        method="GET" if request.method == "HEAD" else request.method,
        url=str(request.url),
        headers={**headers, "Host": request.url.netloc, "X-Auth-Token": _IDENTITY},
        data=body,
    )
    try:
        answer = door.answer(asked, mount=MOUNT)
    except RequestException as error:
        raise PlacementUnreachable(str(error), where="placement (embedded)", remedy="Try again.") from error
    return _written(answer)


def _written(answer: Answer) -> Response:
    headers = {name: answer.headers[name] for name in _GIVEN_BACK if name in answer.headers}
    return Response(answer.content, status_code=answer.status_code, headers=headers)


def _elsewhere(settings: Settings) -> NotServed:
    """Say where Placement is, if not here."""
    placement = settings.placement
    if placement.mode == "none":
        what, remedy = "there is no Placement: placement.mode is none", "Set placement.mode=embedded to have one."
    else:
        url = placement.url or str(placement.auth.get("auth_url", ""))
        where = redact_url(url) if placement.url else f"in the catalogue of {redact_url(url) or 'Keystone'}"
        what, remedy = f"Placement is not here but {where}", "Ask that one."
    return NotServed(HTTPStatus.NOT_FOUND, what, where=MOUNT, remedy=remedy)


def refused(status: int, error: StocktakeError, request: Request) -> Response:
    """Write an error as Placement does; its clients show nothing of one in another form."""
    del request
    text = " ".join(str(error).split())
    told = {"status": status, "title": HTTPStatus(status).phrase, "detail": text, "code": f"stocktake.{error.code}"}
    return Response(encoded({"errors": [told]}), status_code=status, media_type="application/json")


ROUTES = (
    # Which versions there are is asked by clients that have not signed in yet.
    *(route("GET", path, passed_on, ANYBODY, hidden=True, errors=refused) for path in (MOUNT, f"{MOUNT}/")),
    route("GET", f"{MOUNT}/{{rest:path}}", passed_on, ANY_TOKEN, hidden=True, errors=refused),
    *(route(method, f"{MOUNT}/{{rest:path}}", passed_on, AGENTS, hidden=True, errors=refused) for method in _WRITING),
)
