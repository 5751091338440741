"""
Nova's API as its clients know it, at `/compute`: hypervisors, services, hosts; here discovery, microversions, errors.

For `openstack` and openstacksdk without Keystone. What is not Nova's own concern here (servers, flavors, zones) is not
there. See docs/howto/openstack-clients.md. Invariant: Nova's words, the ledger's figures; what is advertised is what
clients ask for, so it decides what they show.

2.87 is the last microversion whose hypervisors have figures. The oldest has to be 2.1: clients take a feature for
missing if it came before it.
"""

from http import HTTPStatus
from typing import Any, Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from stocktake.errors import StocktakeError
from stocktake.model.access import READERS
from stocktake.model.value import Value
from stocktake.web.calls import ANYBODY, Call, Method, Reply, Route, encoded, route
from stocktake.web.status import NotServed

MOUNT = "/compute"
ROOT = f"{MOUNT}/v2.1"
OLDEST = (2, 1)
NEWEST = (2, 87)
# From here on uuids are the ids.
UUIDS = (2, 53)
_HEADER = "OpenStack-API-Version"
_OLD_HEADER = "X-OpenStack-Nova-API-Version"
_NAMES = {
    400: "badRequest",
    401: "unauthorized",
    403: "forbidden",
    404: "itemNotFound",
    405: "badMethod",
    409: "conflictingRequest",
    413: "overLimit",
    415: "badMediaType",
    429: "overLimit",
    501: "notImplemented",
    503: "serviceUnavailable",
}
_METHODS: tuple[Method, ...] = ("GET", "POST", "PUT", "PATCH", "DELETE")

T = TypeVar("T")


class Link(Value, frozen=True, kw_only=True):
    """Where something is."""

    rel: Literal["self", "next"]
    href: str


class Version(Value, frozen=True, kw_only=True):
    """A version of the API."""

    id: str = "v2.1"
    status: str = "CURRENT"
    version: str
    min_version: str
    # Without a host's name: clients keep the one that they were given, so that none has to be set behind a proxy.
    links: tuple[Link, ...] = (Link(rel="self", href=f"{ROOT}/"),)


def discovered(call: Call[None, None]) -> Reply[dict[str, Version]]:
    """Say which microversions there are."""
    del call
    return answered({"version": _version()}, OLDEST)


def listed(call: Call[None, None]) -> Reply[dict[str, list[Version]]]:
    """List the versions, for a client that was given no path."""
    del call
    return answered({"versions": [_version()]}, OLDEST)


def nothing(call: Call[None, None]) -> Response:
    """Say that there is no such resource."""
    what = f"there is no {call.request.method} {call.request.url.path[:200]} here"
    remedy = "Supported are: os-hypervisors, os-services, os-hosts, os-aggregates."
    raise NotServed(HTTPStatus.NOT_FOUND, what, remedy=remedy)


def version_asked(request: Request, oldest: tuple[int, int] = OLDEST) -> tuple[int, int]:
    """
    Read the microversion that a request is for; 2.1 if it says none, as in Nova.

    Args:
        oldest: the first whose form this resource can be shown in.

    Raises:
        NotServed: it is no version, one that is not here, or one older than `oldest`.
    """
    given = request.headers.get(_OLD_HEADER, _text(OLDEST))
    for part in request.headers.get(_HEADER, "").split(","):
        service, _space, version = part.strip().partition(" ")
        if service.lower() == "compute":
            given = version
    given = given.strip()
    major, _dot, minor = (_text(NEWEST) if given == "latest" else given).partition(".")
    if not (major.isdecimal() and minor.isdecimal() and len(given) <= len("00.000")):
        raise NotServed(HTTPStatus.BAD_REQUEST, f"{given[:40]!r} is not a microversion", where=_HEADER)
    asked = int(major), int(minor)
    if not OLDEST <= asked <= NEWEST:
        what = f"microversion {given} is not supported: {_text(OLDEST)} to {_text(NEWEST)} are"
        raise NotServed(HTTPStatus.NOT_ACCEPTABLE, what, where=_HEADER)
    if asked < oldest:
        remedy = f"Send `{_HEADER}: compute {_text(NEWEST)}`."
        what = f"{request.url.path} is shown from microversion {_text(oldest)} on, and {given} was asked for"
        raise NotServed(HTTPStatus.NOT_ACCEPTABLE, what, where=_HEADER, remedy=remedy)
    return asked


def answered(value: T, version: tuple[int, int]) -> Reply[T]:
    """Make the answer to a request that was for a microversion."""
    text = _text(version)
    headers = {_HEADER: f"compute {text}", _OLD_HEADER: text, "Vary": f"{_HEADER}, {_OLD_HEADER}"}
    return Reply(value, headers=headers)


def refused(status: int, error: StocktakeError, request: Request) -> Response:
    """Write an error as Nova does: its name, its code, its message."""
    del request
    fault = {_NAMES.get(status, "computeFault"): {"code": status, "message": " ".join(str(error).split())}}
    return Response(encoded(fault), status_code=status, media_type="application/json")


def nova(method: Method, path: str, handler: Any, roles: frozenset[Any] | None, **options: Any) -> Route:
    """Make a route of this API: under its root, with its errors, and not in our own API's document."""
    return route(method, ROOT + path, handler, roles, hidden=True, errors=refused, **options)


def _version() -> Version:
    return Version(version=_text(NEWEST), min_version=_text(OLDEST))


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


ROUTES = (
    *(route("GET", path, listed, ANYBODY, hidden=True, errors=refused) for path in (MOUNT, f"{MOUNT}/")),
    *(nova("GET", path, discovered, ANYBODY) for path in ("", "/")),
)
# The last answers, for every path that no other route is for.
REST = tuple(nova(method, "/{rest:path}", nothing, READERS, writes=False) for method in _METHODS)
