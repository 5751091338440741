"""
Errors as HTTP. Invariant: the one place that knows which error is which status; the form is RFC 9457, problem+json.
"""

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import Response

from stocktake.claims import Refused
from stocktake.errors import (
    AccessDenied,
    AlreadyThere,
    ClaimRefused,
    InvalidInput,
    LedgerError,
    NotFound,
    NotNow,
    NotSignedIn,
    PlacementConflict,
    StocktakeError,
    Unreachable,
)
from stocktake.model.value import Value
from stocktake.web.calls import encoded

MEDIA = "application/problem+json"
RETRY_AFTER_S = 2

STATUSES: tuple[tuple[type[StocktakeError], int], ...] = (
    (NotNow, 409),
    (InvalidInput, 400),
    (NotSignedIn, 401),
    (AccessDenied, 403),
    (NotFound, 404),
    (ClaimRefused, 409),
    (PlacementConflict, 409),
    (Unreachable, 503),
    (AlreadyThere, 409),
    (LedgerError, 500),
    (StocktakeError, 502),
)


class HttpProblem(Value, frozen=True, kw_only=True, omit_defaults=True):
    """
    What went wrong (RFC 9457).

    Attributes:
        type: names the kind: `urn:stocktake:` and the code.
        title: the status in words.
        detail: what failed, where, and what can be done, on one line.
        code, what, where, remedy, reasons: the error's own, as in `--json`.
        refused: nodes that have no room, each with what it lacks in numbers.
    """

    type: str
    title: str
    status: int
    detail: str
    code: str
    what: str
    where: str = ""
    remedy: str = ""
    reasons: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()


def status_of(error: StocktakeError) -> int:
    """Map an error to its HTTP status."""
    return next(status for kind, status in STATUSES if isinstance(error, kind))


def problem_of(error: StocktakeError, status: int | None = None) -> HttpProblem:
    """Say an error as a problem."""
    status = status or status_of(error)
    return HttpProblem(
        type=f"urn:stocktake:{error.code}",
        title=HTTPStatus(status).phrase,
        status=status,
        detail=" ".join(str(error).split()),
        code=error.code,
        what=error.what,
        where=error.where,
        remedy=error.remedy,
        reasons=tuple(getattr(error, "reasons", ())),
        refused=tuple(one for one in getattr(error, "refused", ()) if isinstance(one, Refused)),
    )


def answer_of(problem: HttpProblem, headers: Mapping[str, str] | None = None) -> Response:
    """Write a problem as an answer."""
    given = headers_of(problem.status, headers)
    return Response(encoded(problem), status_code=problem.status, media_type=MEDIA, headers=given)


def headers_of(status: int, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give the headers that an error of a status needs, whatever its body's form."""
    given = dict(more or {})
    if status == HTTPStatus.UNAUTHORIZED:
        given["WWW-Authenticate"] = 'Bearer realm="stocktake", Basic realm="stocktake", charset="UTF-8"'
    if status in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS}:
        given.setdefault("Retry-After", str(RETRY_AFTER_S))
    return given


class NotServed(StocktakeError):
    """
    What HTTP itself refuses: a method, a media type, a size, a rate. Never leaves `web`.

    Attributes:
        status: its HTTP status.
        headers: what goes with it.
    """

    def __init__(
        self,
        status: HTTPStatus,
        what: str,
        *,
        where: str = "",
        remedy: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.status = status
        self.headers = dict(headers or {})

    @property
    def code(self) -> str:
        """The status's own name, such as `MethodNotAllowed`."""
        return "".join(word.capitalize() for word in self.status.name.split("_"))
