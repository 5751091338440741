"""
The application: routes, and what is done round every call. Invariant: whatever a request is, its answer is one that we
wrote.

Round every call: who asks, whether he may, how often he may, what he says, how long it may take, what became of it.
"""

import asyncio
import hashlib
import inspect
import logging
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route as Path
from starlette.types import ASGIApp, Receive, Scope, Send

from stocktake.errors import AccessDenied, NotSignedIn, StocktakeError
from stocktake.web.auth import Authenticator, Caller, Rates, not_signed_in, secret_of
from stocktake.web.calls import Call, Reply, Route, Stage, encoded
from stocktake.web.context import Web
from stocktake.web.limits import InProgress, LogLimit, limits_of
from stocktake.web.openapi import document
from stocktake.web.reading import body_of, check_accepts, path_of, query_of, value_of
from stocktake.web.routes import ROUTES
from stocktake.web.status import NotServed, answer_of, headers_of, problem_of, status_of

LOG = logging.getLogger(__name__)
AUDIT = logging.getLogger("stocktake.audit")
ACCESS = logging.getLogger("stocktake.access")
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


def make_app(web: Web, routes: Sequence[Route] = ROUTES) -> ASGIApp:
    """Make the application; `app.state.stopping` is to be set when the server is to end."""
    front = Front(web)

    @asynccontextmanager
    async def living(app: Starlette) -> AsyncIterator[None]:
        front.stage = app.state.stage = Stage(CapacityLimiter(web.settings.server.threads), app.state.stopping)
        yield
        app.state.stopping.set()
        front.refusals.end()

    by_path: dict[str, dict[str, Route]] = defaultdict(dict)
    for one in routes:
        by_path[one.path][one.method] = one
    app = Starlette(
        routes=[
            Path(path, front.endpoint(methods), methods=list(methods), include_in_schema=False)
            for path, methods in by_path.items()
        ],
        middleware=[Middleware(_Counted, in_progress=front.in_progress)],
        exception_handlers={HTTPException: _unknown, Exception: _broken},
        lifespan=living,
    )
    app.router.redirect_slashes = False
    app.state.stopping = asyncio.Event()
    app.state.document = document(routes)
    return app


class Front:
    """Takes calls: one for an application."""

    def __init__(self, web: Web) -> None:
        self.web = web
        self.stage = Stage(CapacityLimiter(web.settings.server.threads), asyncio.Event())
        self._authenticator = Authenticator(web)
        self._rates = Rates(web.settings.server.rate_per_s, web.clock)
        self.in_progress = InProgress(limits_of(web.settings.server).per_client)
        self.refusals = LogLimit(_say_left_out)

    def endpoint(self, methods: dict[str, Route]) -> Any:
        """Make what answers the calls of one path."""

        async def answer(request: Request) -> Response:
            route = methods["GET" if request.method == "HEAD" else request.method]
            return await self._answered(route, request)

        return answer

    async def _answered(self, route: Route, request: Request) -> Response:
        request.state.caller = Caller(address=request.client.host if request.client else "")
        LOG.debug("%s %s", request.method, _path(request), extra={"address": request.state.caller.address})
        # Until it is known better.
        status = int(HTTPStatus.INTERNAL_SERVER_ERROR)
        try:
            response = await self._in_time(route, request)
            status = response.status_code
        except StocktakeError as error:
            response = _refusal(route, error, request)
            status = response.status_code
            # To read without a token is how everybody begins.
            if isinstance(error, AccessDenied) and (route.writes or secret_of(request) is not None):
                request.state.refused = error.what
        except ClientDisconnect:
            # Nobody is there to read it.
            response = Response(status_code=HTTPStatus.BAD_REQUEST)
        finally:
            if route.writes and status != HTTPStatus.UNAUTHORIZED:
                _audit(route, request, status)
            self._log_refusal(request, status)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        return response

    async def _in_time(self, route: Route, request: Request) -> Response:
        limit_s = self.web.settings.server.request_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                if route.roles is not None:
                    request.state.caller = await self._signed_in(request.state.caller, request)
                    self._begin(request)
                self._check(route, request.state.caller, request)
                return await self._run(route, request.state.caller, request)
        except TimeoutError as error:
            what = f"no answer within {limit_s:g} s"
            remedy = "The request may still be carried out: check before trying again."
            raise NotServed(HTTPStatus.SERVICE_UNAVAILABLE, what, remedy=remedy) from error

    async def _signed_in(self, caller: Caller, request: Request) -> Caller:
        known = self._authenticator.known(request)
        if known is not None:
            return known
        try:
            return await to_thread.run_sync(self._authenticator.caller, request, limiter=self.stage.limiter)
        except NotSignedIn:
            # Guesses are counted too.
            self._count(caller)
            raise

    def _begin(self, request: Request) -> None:
        """Count a request in progress; `_Counted` counts its end."""
        token = request.state.caller.token
        if token is None:
            return
        if not self.in_progress.begin(token):
            what, remedy = "too many requests of this token are in progress", "Close some streams, or open pages."
            raise NotServed(HTTPStatus.SERVICE_UNAVAILABLE, what, remedy=remedy)
        request.state.counted = token

    def _log_refusal(self, request: Request, status: int) -> None:
        """Write down who was refused, and why."""
        why, shown = getattr(request.state, "refused", None), getattr(request.state, "shown", None)
        caller: Caller = request.state.caller
        token = caller.token or (shown.uuid if shown else "")
        if why is not None and self.refusals.allows(caller.address):
            told = {
                "by": caller.note or (shown.note if shown else "") or token or "unknown",
                "token_uuid": token,
                "address": caller.address,
                "status": status,
            }
            ACCESS.warning("%s %s is refused: %s", request.method, _path(request), why, extra=told)

    def _count(self, caller: Caller) -> None:
        wait_s = self._rates.take(caller.key)
        if wait_s > 0:
            headers = {"Retry-After": str(math.ceil(wait_s))}
            raise NotServed(HTTPStatus.TOO_MANY_REQUESTS, "too many requests", remedy="Slow down.", headers=headers)

    def _check(self, route: Route, caller: Caller, request: Request) -> None:
        self._count(caller)
        if route.roles is not None:
            if caller.role is None:
                raise not_signed_in()
            if caller.role not in route.roles:
                wanted = " or ".join(sorted(route.roles))
                raise AccessDenied(f"a token of role {caller.role} may not do this: role {wanted} is needed")
            if "host" in request.path_params and caller.role == "agent":
                caller.must_own(request.path_params["host"])
        if request.method not in _SAFE:
            _check_origin(request)
        check_accepts(route, request.headers.get("accept", "*/*"))

    async def _run(self, route: Route, caller: Caller, request: Request) -> Response:
        path = path_of(request.path_params)
        query = query_of(route.query, request.query_params) if route.query else None
        body = None
        if route.body is not None:
            read = await body_of(request, self.web.settings.server.request_bytes_max)
            request.state.read = True
            body = value_of(route, read)
        call = Call(self.web, caller, path, query, body, request, self.stage)
        if inspect.iscoroutinefunction(route.handler):
            return _written(route, await route.handler(call), request)
        return await to_thread.run_sync(_worked, route, call, limiter=self.stage.limiter, abandon_on_cancel=True)


class _Counted:
    """Counts the end of each request, also of one whose answer is a stream, or that nobody awaits any more."""

    def __init__(self, app: ASGIApp, in_progress: InProgress) -> None:
        self._app = app
        self._in_progress = in_progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        try:
            await self._app(scope, receive, send)
        finally:
            token = scope.get("state", {}).get("counted")
            if token is not None:
                self._in_progress.end(token)


def _say_left_out(total: int, addresses: int) -> None:
    ACCESS.warning("%d more requests of %d addresses were refused within a minute", total, addresses)


def _worked(route: Route, call: Call[Any, Any]) -> Response:
    return _written(route, route.handler(call), call.request)


def _written(route: Route, answer: Any, request: Request) -> Response:
    """Write an answer; one that the client has already is not written again."""
    if isinstance(answer, Response):
        return answer
    reply = answer if isinstance(answer, Reply) else Reply(answer, status=route.status)
    headers = dict(reply.headers)
    body = b"" if reply.value is None else encoded(reply.value)
    if route.method == "GET":
        tag = f'W/"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
        headers |= {"ETag": tag, "Cache-Control": "private, no-cache"}
        known = [one.strip() for one in request.headers.get("if-none-match", "").split(",")]
        if tag in known or tag.removeprefix("W/") in known or known == ["*"]:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(body, status_code=reply.status, headers=headers, media_type=route.media if body else None)


def _refusal(route: Route, error: StocktakeError, request: Request) -> Response:
    status = int(error.status) if isinstance(error, NotServed) else status_of(error)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        LOG.warning("%s %s: %s", request.method, _path(request), error, extra={"code": error.code})
    headers = error.headers if isinstance(error, NotServed) else None
    if route.errors is None:
        response = answer_of(problem_of(error, status), headers)
    else:
        response = route.errors(status, error, request)
        response.headers.update(headers_of(status, headers))
    if _has_more(request):
        # What is still coming is not waited for.
        response.headers["Connection"] = "close"
    return response


def _has_more(request: Request) -> bool:
    """Say whether there is a body that was not read."""
    announced = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
    return announced and not getattr(request.state, "read", False)


def _check_origin(request: Request) -> None:
    """
    Refuse a write that another site's page sends from somebody's browser, with what the browser knows of him.

    Raises:
        AccessDenied: it is one.
    """
    site = request.headers.get("sec-fetch-site", "same-origin")
    origin = request.headers.get("origin")
    host = request.headers.get("host", "")
    if site not in {"same-origin", "none"} or (origin is not None and origin.partition("://")[2] != host):
        raise AccessDenied("a page of another site may not do this", where=origin or site)


def _path(request: Request) -> str:
    """Give the path as it was sent: decoded it could hold the beginning of another line of the log."""
    raw: bytes = request.scope.get("raw_path", b"")
    return raw.decode("ascii", "backslashreplace")


def _audit(route: Route, request: Request, status: int) -> None:
    """Write down who did what to what, and what became of it; never what was sent."""
    caller: Caller = request.state.caller
    AUDIT.info(
        "%s %s: %d",
        request.method,
        _path(request),
        status,
        extra={
            "action": route.name,
            "by": caller.note or caller.token or "nobody",
            "role": caller.role or "",
            "token_uuid": caller.token or "",
            "address": caller.address,
            "status": status,
        },
    )


async def _unknown(request: Request, error: Exception) -> Response:
    """Answer what no route is for: 404, or 405 with the methods that there are."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    what = f"{request.method} {request.url.path[:200]}" if status == HTTPStatus.METHOD_NOT_ALLOWED else "no such path"
    remedy = "GET /v1/openapi.json lists the routes."
    refused = NotServed(status, what, where=request.url.path[:200], remedy=remedy)
    return answer_of(problem_of(refused, error.status_code), error.headers)


async def _broken(request: Request, error: Exception) -> Response:
    """Answer for an unexpected error; starlette raises it once more for the log."""
    del error
    what = "internal error; the server's log has the details"
    refused = NotServed(HTTPStatus.INTERNAL_SERVER_ERROR, what, where=request.url.path[:200], remedy="Report it.")
    return answer_of(problem_of(refused, int(refused.status)))
