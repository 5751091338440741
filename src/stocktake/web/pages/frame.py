"""
What is round every page. Invariant: all text is escaped, nothing is loaded from elsewhere, no script or style is
inline.
"""

import gzip
from collections.abc import Mapping
from functools import cache
from hashlib import blake2b
from http import HTTPStatus
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from stocktake import __version__
from stocktake.errors import NotFound, StocktakeError
from stocktake.model.topology import format_cpu_set
from stocktake.views import quantities
from stocktake.web.auth import COOKIE
from stocktake.web.calls import ANYBODY, Call, Query, Text, route
from stocktake.web.status import status_of

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

MEDIA = "text/html"
SIGN_IN = "/sign-in"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "same-origin",
    "Cache-Control": "private, no-cache",
    "X-Content-Type-Options": "nosniff",
}
# Smaller ones fit a few packets as they are.
_GZIP_FROM_BYTES = 16_384


@cache
def environment() -> Environment:
    """Open the templates, once."""
    made = Environment(
        loader=PackageLoader("stocktake.web.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.globals.update(address=address, version=__version__)
    made.filters.update(
        amount=_amount,
        count=quantities.count,
        cpus=format_cpu_set,
        gib=quantities.gib,
        marked=_marked,
        pages=size_of_pages,
        ratio=quantities.ratio,
    )
    return made


def _amount(number: float | str) -> str:
    return number if isinstance(number, str) else f"{number:,}"


def _marked(text: str) -> Markup:
    """Write what stands between backticks as code."""
    parts = (
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(text.split("`"))
    )
    return Markup("").join(parts)


def size_of_pages(size_kb: int) -> str:
    """Give the size of pages (KiB) in its largest whole unit."""
    for unit, size in (("GiB", 1024**2), ("MiB", 1024)):
        if size_kb % size == 0:
            return f"{size_kb // size} {unit}"
    return f"{size_kb} KiB"


def page(call: Call[Any, Any], template: str, *, status: int = HTTPStatus.OK, **values: object) -> Response:
    """Write a page."""
    return written(call.request, template, status=status, now=call.web.clock.now(), **values)


def written(request: Request, template: str, *, status: int = HTTPStatus.OK, **values: object) -> Response:
    """Write a template as an answer, packed if it is large and the client can read that."""
    signed_in = COOKIE in request.cookies
    given: Mapping[str, object] = {"path": request.url.path, "signed_in": signed_in, **values}
    body = environment().get_template(template).render(given).encode()
    headers = {**HEADERS, "Vary": "Accept-Encoding, Cookie"}
    if len(body) > _GZIP_FROM_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
        body = gzip.compress(body, compresslevel=1, mtime=0)
        headers["Content-Encoding"] = "gzip"
    return Response(body, status_code=status, media_type=f"{MEDIA}; charset=utf-8", headers=headers)


def refused(status: int, error: StocktakeError, request: Request) -> Response:
    """
    Say an error as a page; whoever is not signed in is asked to do so.

    Browsers keep the cookie to themselves when a page of another site led here: one that leads to the same place does.
    """
    if status != HTTPStatus.UNAUTHORIZED:
        return written(request, "error.html", status=status, error=error, title=HTTPStatus(status).phrase)
    here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    if request.headers.get("sec-fetch-site") == "cross-site":
        return written(request, "again.html", here=here)
    return RedirectResponse(f"{SIGN_IN}?next={quote(here, safe='/')}", HTTPStatus.SEE_OTHER, headers=HEADERS)


def refused_here(call: Call[Any, Any], error: StocktakeError, template: str, **values: object) -> Response:
    """Say what is wrong with a form where it was filled in."""
    return page(call, template, status=status_of(error), error=error, **values)
