"""
What a request says, read and checked. Invariant: whatever is wrong is said with its place; nothing is passed over in
silence.
"""

import difflib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request

from stocktake.errors import InvalidInput
from stocktake.model.value import decode, decode_strictly
from stocktake.web.calls import Query, Route
from stocktake.web.status import NotServed

JSON = "application/json"


def path_of(parts: Mapping[str, str]) -> Mapping[str, str]:
    """
    Look at the parts of a path.

    Raises:
        InvalidInput: one holds a zero byte, which is in no name.
    """
    for name, value in parts.items():
        if "\0" in value:
            raise InvalidInput("has a zero byte in it", where=f"path {name}")
    return parts


def query_of(kind: type[Query], given: QueryParams) -> Query:
    """
    Read what stands behind the `?`.

    Raises:
        InvalidInput: a name that there is not, one that stands twice, a value of another type.
    """
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    data: dict[str, Any] = {}
    for name in given:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            remedy = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(fields) or 'none'}."
            raise InvalidInput(f"there is no parameter {name[:60]!r}", where="query", remedy=remedy)
        values = given.getlist(name)
        many = isinstance(fields[name].default, tuple)
        if len(values) > 1 and not many:
            raise InvalidInput("stands more than once", where=f"query {name}")
        if any("\0" in value for value in values):
            raise InvalidInput("has a zero byte in it", where=f"query {name}")
        data[name] = values if many else values[0]
    try:
        query = msgspec.convert(data, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(str(error), where="query") from error
    for name in data:
        # msgspec reads the word null as nothing.
        if getattr(query, fields[name].name) is None:
            raise InvalidInput("null is not allowed", where=f"query {name}", remedy="Leave it out.")
    return query


async def body_of(request: Request, limit: int) -> bytes:
    """
    Read a body, and never more of one than is allowed.

    Raises:
        NotServed: it is larger than that, or no JSON by its media type.
    """
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != JSON:
        raise NotServed(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a body of {media[:60] or 'no media type'}", remedy=f"Send {JSON}."
        )
    return await bytes_of(request, limit)


async def bytes_of(request: Request, limit: int) -> bytes:
    """
    Read a body of whatever media type; nothing if there is none.

    Raises:
        NotServed: it is larger than the limit.
    """
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            remedy = "The limit is the server's setting server.request_bytes_max."
            raise NotServed(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a body of more than {limit:,} bytes", remedy=remedy)
        parts.append(part)
    return b"".join(parts)


def value_of(route: Route, body: bytes) -> Any:
    """
    Read a body as the type that the route takes.

    Raises:
        InvalidData: it is not JSON, or something is missing or wrong; says which path.
    """
    read = decode_strictly if route.checked else decode
    return read(body, route.body, where="body")


def check_accepts(route: Route, accept: str) -> None:
    """
    See to it that the answer's form is one that the client accepts.

    Raises:
        NotServed: it is not.
    """
    kind = route.media.partition("/")[0]
    fine = {"*/*", f"{kind}/*", route.media, "application/problem+json"}
    for part in accept.split(","):
        media, _semicolon, parameters = part.partition(";")
        if media.strip().lower() in fine and not _is_zero(parameters):
            return
    raise NotServed(HTTPStatus.NOT_ACCEPTABLE, f"the answer is {route.media}", where="Accept")


def _is_zero(parameters: str) -> bool:
    for parameter in parameters.split(";"):
        name, _equals, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value) == 0
            except ValueError:
                return False
    return False
