"""
The OpenAPI 3.1 document. Invariant: it is made of the routes and their types, and says nothing that they do not.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from stocktake import __version__
from stocktake.web.calls import Route
from stocktake.web.status import MEDIA, HttpProblem

_PART = re.compile(r"{(\w+)}")
_SOMETHING = "^[^\\u0000]+$"
_NO_ZERO = "^[^\\u0000]*$"
_INT_MAX = 2**63 - 1
_REF = "#/components/schemas/{name}"
# What may go wrong with any route, and what it means.
_PROBLEMS = {
    400: "The query or the body is wrong; `detail` says where.",
    401: "No token, or one that is unknown, expired or revoked.",
    403: "The token's role may not do this.",
    404: "Not found; `remedy` names the nearest match.",
    406: "The answer's media type is none that the request accepts.",
    409: "Refused in the present state; `reasons` lists every reason.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many requests; `Retry-After` says when to try again.",
    503: "The ledger, Placement or another part can't be reached; try again later.",
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """Describe routes."""
    shown = [route for route in routes if not route.hidden]
    kinds = [kind for route in shown for kind in (route.answer, route.body, route.query) if kind is not None]
    schemas, components = msgspec.json.schema_components([*kinds, HttpProblem], ref_template=_REF)
    for component in components.values():
        _tighten(component)
    table = dict(zip(map(repr, [*kinds, HttpProblem]), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in shown:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, table, components)
    _link(paths)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "stocktake",
            "version": __version__,
            "description": "The books of a fleet of compute hosts: what they have, what is allocated, what is free.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic", "description": "The token is the password."},
                "token": {"type": "apiKey", "in": "header", "name": "X-Auth-Token"},
            },
        },
    }


def _tighten(schema: Any) -> None:
    """
    Say what holds of everything here: no field that nobody knows, no zero byte, no number over 63 bits.

    In a body they are refused, in an answer there are none.
    """
    if isinstance(schema, list):
        for one in schema:
            _tighten(one)
    if not isinstance(schema, dict):
        return
    if "properties" in schema:
        schema["additionalProperties"] = False
        _tighten(list(schema["properties"].values()))
    elif isinstance(schema.get("additionalProperties"), dict):
        schema.setdefault("propertyNames", {"pattern": _NO_ZERO})
    if schema.get("type") == "string" and not {"format", "enum", "const"} & schema.keys():
        schema.setdefault("pattern", _NO_ZERO)
    if schema.get("type") == "integer":
        schema.setdefault("minimum", -_INT_MAX)
        schema.setdefault("maximum", _INT_MAX)
    for key in ("items", "prefixItems", "anyOf", "oneOf", "allOf", "additionalProperties"):
        _tighten(schema.get(key))


def _operation(route: Route, table: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name.replace(".", "_"),
        "summary": route.summary,
        "tags": [route.name.partition(".")[0]],
        "parameters": [*_path_parameters(route.path), *_query_parameters(route, table, components)],
        "responses": _responses(route, table),
    }
    if route.description:
        operation["description"] = route.description
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": table[repr(route.body)]}},
        }
    if route.roles is not None:
        operation["security"] = [{"bearer": []}, {"basic": []}, {"token": []}]
        operation["description"] = f"{route.description}\n\nRoles: {', '.join(sorted(route.roles))}.".strip()
    return operation


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "pattern": _SOMETHING}}
        for name in _PART.findall(path)
    ]


def _query_parameters(route: Route, table: dict[str, Any], components: dict[str, Any]) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    shape = components.pop(table[repr(route.query)]["$ref"].rpartition("/")[2], None) or {}
    required: Sequence[str] = shape.get("required", ())
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "schema": _of_text(schema),
            **({"description": schema["description"]} if "description" in schema else {}),
        }
        for name, schema in shape.get("properties", {}).items()
    ]


def _of_text(schema: dict[str, Any]) -> dict[str, Any]:
    """Take out of a schema what a query can't say: null, and an empty list."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    bare = kinds[0] if len(kinds) == 1 else {**schema, **({"anyOf": kinds} if kinds else {})}
    kept = {key: value for key, value in bare.items() if key not in {"description", "default"}}
    default = schema.get("default")
    return kept if default in (None, [], ()) else {**kept, "default": default}


def _responses(route: Route, table: dict[str, Any]) -> dict[str, Any]:
    schema = table[repr(route.answer)] if route.answer is not None else {}
    fine: dict[str, Any] = {"description": "Done."}
    if route.answer is not None or route.media != "application/json":
        fine = {"description": "The answer.", "content": {route.media: {"schema": schema}}}
    problem = {MEDIA: {"schema": table[repr(HttpProblem)]}}
    return {
        str(route.status): fine,
        **{str(status): {"description": text, "content": problem} for status, text in _problems(route)},
    }


def _names_a_node(route: Route) -> bool:
    return route.query is not None and "node" in route.query.__struct_fields__


def _link(paths: dict[str, dict[str, Any]]) -> None:
    """Say what can be done with a new claim: whatever is done to one instance."""
    made = paths.get("/v1/claims", {}).get("post")
    if made is not None:
        made["responses"]["201"]["links"] = {
            operation["operationId"]: {
                "operationId": operation["operationId"],
                "parameters": {"instance": "$response.body#/instance/uuid"},
            }
            for path, operations in paths.items()
            for operation in operations.values()
            if path.startswith("/v1/instances/{instance}")
        }


def _problems(route: Route) -> list[tuple[int, str]]:
    left_out = set[int]()
    if route.roles is None:
        left_out |= {401, 403}
    if "{" not in route.path and route.body is None and not _names_a_node(route):
        left_out.add(404)
    if route.body is None:
        left_out |= {413, 415}
    if route.method == "GET":
        left_out.add(409)
    return [(status, text) for status, text in _PROBLEMS.items() if status not in left_out]
