"""
Style, script and icon. Invariant: their address changes with their content, so that a browser keeps them for good.
"""

from hashlib import blake2b
from importlib.resources import files
from typing import Annotated

from msgspec import Meta
from starlette.responses import Response

from stocktake.errors import NotFound
from stocktake.web.calls import ANYBODY, Call, Query, Text, route

_MEDIA = {
    "stocktake.css": "text/css; charset=utf-8",
    "stocktake.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_FOREVER = "public, max-age=31536000, immutable"
_CONTENT = {name: (files("stocktake.web.pages") / "static" / name).read_bytes() for name in _MEDIA}
_VERSIONS = {name: blake2b(content, digest_size=6).hexdigest() for name, content in _CONTENT.items()}


class AssetQuery(Query, frozen=True, kw_only=True):
    """Which version."""

    v: Annotated[Text, Meta(description="The content's digest.")] | None = None


def address(name: str) -> str:
    """Give the address of a file."""
    return f"/static/{name}?v={_VERSIONS[name]}"


def asset(call: Call[AssetQuery, None]) -> Response:
    """Give a file."""
    name = call.path["name"]
    if name not in _CONTENT:
        raise NotFound(f"there is no file {name[:60]!r}", remedy=f"There are: {', '.join(_CONTENT)}.")
    keep = _FOREVER if call.query.v == _VERSIONS[name] else "no-cache"
    return Response(_CONTENT[name], media_type=_MEDIA[name], headers={"Cache-Control": keep})


ROUTES = (route("GET", "/static/{name}", asset, ANYBODY, media="*/*", hidden=True),)
