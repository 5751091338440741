"""
Signing in and out by a form. Invariant: the token goes into a cookie that no script and no other site gets hold of.

Who may is decided where every other call is looked at, by `auth`: the cookie is one more way to show a token.
"""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import parse_qs

from msgspec import Meta
from starlette.responses import RedirectResponse, Response

from stocktake.model.access import READERS, digest_of
from stocktake.web.auth import COOKIE
from stocktake.web.calls import ANYBODY, Call, Query, route
from stocktake.web.pages.frame import HEADERS, MEDIA, SIGN_IN, page, refused

# A token is shorter than that; so is a path worth going back to.
_FORM_BYTES_MAX = 8192
_DAYS = 30


class SignInQuery(Query, frozen=True, kw_only=True):
    """Where to go next."""

    next: Annotated[str, Meta(max_length=4096)] = "/"


def form(call: Call[SignInQuery, None]) -> Response:
    """Ask for a token."""
    return page(call, "sign_in.html", next=_inside(call.query.next), said="")


async def signed_in(call: Call[None, None]) -> Response:
    """Take a token; a good one becomes a cookie."""
    read = b""
    async for part in call.request.stream():
        read += part
        if len(read) > _FORM_BYTES_MAX:
            return page(call, "sign_in.html", status=413, next="/", said="That is too long for a token.")
    call.request.state.read = True
    fields = parse_qs(read.decode("utf-8", "replace"), max_num_fields=10)
    secret = fields.get("token", [""])[0].strip()
    there = _inside(fields.get("next", ["/"])[0])
    found = await call.blocking(call.web.ledger.tokens.find, digest_of(secret))
    call.request.state.shown = found
    if found is None or not found.good(call.web.clock.now()):
        said = call.request.state.refused = "That token is unknown, expired or revoked."
        return page(call, "sign_in.html", status=HTTPStatus.FORBIDDEN, next=there, said=said)
    if found.role not in READERS:
        said = call.request.state.refused = "That is an agent's token: pages take one of a viewer or an operator."
        return page(call, "sign_in.html", status=HTTPStatus.FORBIDDEN, next=there, said=said)
    response = RedirectResponse(there, HTTPStatus.SEE_OTHER, headers=HEADERS)
    response.set_cookie(
        COOKIE,
        secret,
        max_age=_DAYS * 86_400,
        httponly=True,
        samesite="strict",
        secure=_is_tls(call),
    )
    return response


async def signed_out(call: Call[None, None]) -> Response:
    """Forget the token."""
    response = RedirectResponse(SIGN_IN, HTTPStatus.SEE_OTHER, headers=HEADERS)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=_is_tls(call))
    return response


def _is_tls(call: Call[None, None]) -> bool:
    """Say whether the browser speaks TLS, with us or with a proxy before us."""
    request = call.request
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "") == "https"


def _inside(there: str) -> str:
    """Keep to this site: whoever wrote the link must not send people elsewhere with it."""
    fine = there.startswith("/") and not there.startswith("//") and "\\" not in there and there.isprintable()
    return there if fine else "/"


ROUTES = (
    route("GET", SIGN_IN, form, ANYBODY, media=MEDIA, hidden=True, errors=refused),
    route("POST", SIGN_IN, signed_in, ANYBODY, media=MEDIA, hidden=True, errors=refused, writes=False),
    route("POST", "/sign-out", signed_out, ANYBODY, media=MEDIA, hidden=True, errors=refused, writes=False),
)
