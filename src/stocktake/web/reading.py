"""
What a request says, read and checked. Invariant: whatever is wrong is said with its place; nothing is passed over in
silence.
"""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.datastructures import QueryParams
from starlette.requests import Request

from stocktake.errors import InvalidData, InvalidInput
from stocktake.model.value import decode, decode_strictly
from stocktake.web.calls import Query, Route
from stocktake.web.status import NotServed

JSON = "application/json"
# No body of Placement's has so many brackets in each other, and no number of its is so large.
_DEPTH_MAX = 32
_NUMBER_MAX = 2**63 - 1


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
    media = media_of(request)
    if media != JSON:
        raise NotServed(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"a body of {media[:60] or 'no media type'}", remedy=f"Send {JSON}."
        )
    return await bytes_of(request, limit)


def media_of(request: Request) -> str:
    """Give the media type of a request's body, without its parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


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


def strict_json(text: bytes) -> Any:
    """
    Read JSON that nobody can read in two ways, nor another program fail on.

    Raises:
        InvalidData: not JSON as RFC 8259 has it (NaN), not UTF-8, a name that is there twice, half a surrogate pair, a
            zero byte, a number that is too large, or brackets in brackets in brackets.
    """
    try:
        said = json.loads(text.decode(), object_pairs_hook=_each_once, parse_constant=_no_number)
        _check_depth(said)
        # What was left of a surrogate pair can't be written.
        if "\0" in "".join(_texts(said)).encode().decode():
            raise InvalidData("has a zero byte in it", where="body")
    except UnicodeEncodeError as error:
        raise InvalidData("has half a surrogate pair in it", where="body") from error
    except UnicodeDecodeError as error:
        raise InvalidData("is not UTF-8", where="body") from error
    except RecursionError as error:
        raise InvalidData("is nested too deeply", where="body") from error
    except ValueError as error:
        raise InvalidData(f"is not JSON: {error}"[:200], where="body") from error
    return said


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) < len(pairs):
        raise InvalidData("has a name twice", where="body")
    return said


def _no_number(name: str) -> Any:
    raise InvalidData(f"{name} is no number in JSON", where="body")


def _check_depth(said: Any) -> None:
    level = [said]
    for _ in range(_DEPTH_MAX):
        level = [part for one in level for part in _parts_of(one)]
        if not level:
            return
    raise InvalidData("is nested too deeply", where="body")


def _texts(said: Any) -> Iterator[str]:
    left = [said]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, int | float) and abs(one) > _NUMBER_MAX:
            raise InvalidData("has a number that is too large", where="body")
        elif isinstance(one, dict):
            yield from one
        left += _parts_of(one)


def _parts_of(one: Any) -> Iterable[Any]:
    return one.values() if isinstance(one, dict) else one if isinstance(one, list) else ()


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
