"""
Placement at `/placement`: the one that is embedded, for `openstack resource provider` and whoever else speaks its API.

Invariant: who asks is known here, and Placement hears of no one else. It believes whatever headers say who one is, so
that only headers that don't are passed on. Viewers read; operators write, one at a time, under its locks. Agents have
what `own_providers` gives them.
"""

import json
import re
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl, unquote

import webob
from starlette.requests import Request
from starlette.responses import Response

from stocktake.errors import InvalidInput, StocktakeError
from stocktake.model.access import AGENTS, ANY_TOKEN
from stocktake.placement.embedded import Embedded
from stocktake.settings import Settings
from stocktake.settings.secrets import redact_url
from stocktake.web.calls import ANYBODY, Call, Method, encoded, route
from stocktake.web.own_providers import OwnProviders
from stocktake.web.reading import JSON, bytes_of, media_of, strict_json
from stocktake.web.status import NotServed

MOUNT = "/placement"
_LONG_NUMBER: Final = re.compile("[0-9]{10}")
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
    embedded = call.web.placement
    if embedded is None:
        raise _elsewhere(call.web.settings)
    body = await bytes_of(call.request, call.web.settings.server.request_bytes_max)
    # Of another media type Placement refuses a body unread.
    said = strict_json(body) if body and media_of(call.request) == JSON else None
    _check_address(call.request)
    return await call.blocking(_allowed, call, embedded, said)


def _check_address(request: Request) -> None:
    """
    See to it that Placement can read what it is asked.

    Raises:
        InvalidInput: text that is no UTF-8, a zero byte, or a number that no database can hold.
    """
    try:
        unquote(request.scope.get("raw_path", b"").decode("ascii"), errors="strict")
        asked = parse_qsl(request.url.query, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise InvalidInput("is not UTF-8", where="the path or the query") from error
    for name, value in asked:
        if "\0" in value:
            raise InvalidInput("has a zero byte in it", where=f"query {name[:60]}")
        if name.startswith(("limit", "resources")) and _LONG_NUMBER.search(value):
            raise InvalidInput("has a number that is too large", where=f"query {name[:60]}")


def _allowed(call: Call[None, None], embedded: Embedded, said: object) -> Response:
    caller, method = call.caller, _method(call.request)
    if caller.role == "agent":
        path = call.request.url.path.removeprefix(MOUNT).strip("/")
        OwnProviders(embedded, call.web.ledger, caller.host or "", _IDENTITY).check(method, path, said)
    # Written anew: what was checked is what Placement reads.
    return _answered(embedded, call.request, b"" if said is None else json.dumps(said).encode())


def _method(request: Request) -> str:
    """Give the method: what Placement would answer to HEAD is what it answers to GET, without the body."""
    return "GET" if request.method == "HEAD" else request.method


def _answered(embedded: Embedded, request: Request, body: bytes) -> Response:
    passed_on = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    headers = {**passed_on, "X-Auth-Token": _IDENTITY}
    asked = webob.Request.blank(str(request.url), method=_method(request), headers=headers, body=body)
    # Links and locations in the answer begin with where Placement is mounted.
    asked.path_info_pop()
    asked.path_info = asked.path_info or "/"
    answer = embedded.answer(asked)
    given_back = {name: answer.headers[name] for name in _GIVEN_BACK if name in answer.headers}
    return Response(answer.body, status_code=answer.status_int, headers=given_back)


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
