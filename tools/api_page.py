"""docs/reference/api.md, made of the OpenAPI document. Invariant: what the page says, `/v1/openapi.json` says."""

from collections.abc import Iterator, Mapping
from typing import Any

from stocktake.web.openapi import document
from stocktake.web.routes import ROUTES

_HEAD = """\
# The API

<!-- Made of the routes by `python -m tools.reference` (`make docs`). Change src/stocktake/web. -->

`stocktake serve` answers under `/v1`, in JSON; `GET /v1/openapi.json` is this page for programs (OpenAPI 3.1). How to
run it: [the fleet's front](../howto/fleet.md).

## Conventions

- **Callers** show a token, made by `stocktake token create`: as `Authorization: Bearer TOKEN`, as
  `X-Auth-Token: TOKEN`, or as the password of http_basic. Roles: a `viewer` reads, an `agent` keeps the books of its
  own host, an `operator` does everything.
- **Names** are those of the ledger and of Nova; units are at their ends (`_mb` is MiB, `_gb` is GiB, `_s` seconds).
  Times are ISO 8601 in UTC. A node is named by its name or uuid, an instance by its uuid or by a name that only one
  has.
- **Lists** come in pages of `limit` items (1,000 unless given). `next` is the `marker` that the next page begins after,
  null on the last one. An item that does not change is on
  exactly one page, whatever is added or removed meanwhile.
- **Unchanged** answers are not sent again: give the `ETag` of the last one in `If-None-Match`, and get 304.
- **Bodies** are JSON (`Content-Type: application/json`) without a field that is not described here.
- **Errors** are `application/problem+json` (RFC 9457) with the status below, and the error's own `code`, `what`,
  `where`, `remedy` and `reasons`: see [errors](errors.md). For a claim, `refused` lists each
  node with what it lacks, in numbers.

| status | meaning |
|---|---|
"""


_WORDS = {"string": "text", "integer": "whole number", "boolean": "true or false"}


def api_page() -> str:
    """Make the page."""
    api = document(ROUTES)
    responses: dict[str, str] = {}
    for operations in api["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if int(status) >= 400:
                    responses.setdefault(status, response["description"])
    lines = [f"| {status} | {text} |" for status, text in sorted(responses.items())]
    return _HEAD + "\n".join([*lines, "", *_operations(api), *_schemas(api)]) + "\n"


def _operations(api: Mapping[str, Any]) -> Iterator[str]:
    tags: dict[str, list[tuple[str, str, Mapping[str, Any]]]] = {}
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            tags.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    yield "## Routes"
    yield ""
    yield "| | | roles |"
    yield "|---|---|---|"
    for listed in tags.values():
        for method, path, operation in listed:
            yield f"| `{method} {path}` | {operation['summary']} | {_roles(operation)} |"
    yield ""
    for listed in tags.values():
        for method, path, operation in listed:
            yield from _operation(method, path, operation)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[str]:
    yield f"### {method} {path}"
    yield ""
    yield operation["summary"]
    yield ""
    text = operation.get("description", "").partition("Roles: ")[0].strip()
    if text:
        yield text
        yield ""
    for parameter in operation["parameters"]:
        if parameter["in"] == "query":
            kind = _kind(parameter["schema"]) + _default(parameter["schema"])
            yield f"- `?{parameter['name']}=` {kind}. {parameter.get('description', '')}".rstrip()
    if "requestBody" in operation:
        yield f"- body: {_kind(operation['requestBody']['content']['application/json']['schema'])}"
    yield from (
        f"- {status}: {_answer(response)}" for status, response in operation["responses"].items() if int(status) < 400
    )
    yield ""


def _roles(operation: Mapping[str, Any]) -> str:
    return operation.get("description", "").partition("Roles: ")[2].rstrip(".") or "anybody"


def _answer(response: Mapping[str, Any]) -> str:
    content = response.get("content", {})
    return ", ".join(_kind(told["schema"]) or media for media, told in content.items()) or "nothing"


def _schemas(api: Mapping[str, Any]) -> Iterator[str]:
    yield "## Shapes"
    yield ""
    for name, schema in api["components"]["schemas"].items():
        yield f"### {name}"
        yield ""
        text, _, attributes = schema.get("description", "").partition("Attributes:")
        if text.strip():
            yield " ".join(text.split())
            yield ""
        meanings = _meanings(attributes)
        yield "| field | | |"
        yield "|---|---|---|"
        for field, kind in schema.get("properties", {}).items():
            told = kind.get("description") or meanings.get(field, "")
            needed = " (required)" if field in schema.get("required", ()) else ""
            yield f"| `{field}` | {_kind(kind)}{_default(kind)}{needed} | {told} |".replace("|  |", "| |")
        yield ""


def _meanings(attributes: str) -> dict[str, str]:
    """Read `name, name: text` of a docstring; text goes on where no name begins a line."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in attributes.splitlines():
        head, colon, rest = line.strip().partition(":")
        listed = [name.strip() for name in head.split(",")]
        if colon and all(name.isidentifier() for name in listed):
            names = listed
            found |= dict.fromkeys(names, rest.strip())
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _kind(schema: Mapping[str, Any]) -> str:
    """Say a type in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(_kind(one) for one in schema[key])
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    kind, more = str(schema.get("type", "")), schema.get("additionalProperties")
    if kind == "array":
        return f"list of {_kind(schema.get('items') or schema.get('prefixItems', [{}])[0])}"
    if kind == "object" and isinstance(more, Mapping):
        return f"names to {_kind(more)}"
    return _WORDS.get(kind, kind)


def _default(schema: Mapping[str, Any]) -> str:
    default = schema.get("default")
    return "" if default in (None, [], {}, "") else f", `{str(default).lower()}` unless given"
