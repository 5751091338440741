"""
Every error this program raises on purpose. Invariant: what failed, where, and what the operator can do.

    StocktakeError
    ├── InvalidInput             what a person or a document gave is wrong (exit code 2, HTTP 400)
    │   ├── SettingsError        the settings file or the environment
    │   ├── InvalidData          a JSON, XML, YAML or import document
    │   └── NotNow               it can't be done in the state that the thing is in (exit code 2, HTTP 409)
    ├── NotFound                 no such node, instance, service (exit code 2, HTTP 404)
    ├── ClaimRefused             there is no room for what was asked; all reasons at once (exit code 1, HTTP 409)
    ├── AccessDenied             who asks may not do that (exit code 2, HTTP 403)
    │   └── NotSignedIn          no token, or one that is unknown, expired or revoked (exit code 2, HTTP 401)
    ├── IdentityError            this host is not who the ledger says it is (exit code 2)
    ├── Unreachable              a part could not be reached (exit code 3, HTTP 503)
    │   ├── DriverUnreachable    the hypervisor does not answer, or not in time
    │   ├── LedgerUnreachable    the database is locked or gone; nothing was changed
    │   │   └── OutcomeUnknown   the connection was lost while a change was made: it was made, or it wasn't
    │   ├── PlacementUnreachable the scheduler does not answer, or answers 5xx
    │   └── StateLost            the state path was removed or replaced under a running agent
    ├── DriverError              the hypervisor answered with an error
    ├── NodeNotFound             the hypervisor does not know the node
    ├── ReportRefused            what the hypervisor said of a node can't be believed; all reasons at once
    ├── LedgerError              the database refused a statement
    │   └── AlreadyThere         there is such a thing already (HTTP 409)
    ├── MachineFault             this machine has no memory, no disk or no leave for what was to be done
    ├── PlacementError           the scheduler refused a request (4xx)
    │   └── ProviderNotOurs      a resource provider is Nova's or another's: nothing of it is written or deleted
    └── PlacementConflict        a generation conflict outlived its bounded retries
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import quote, unquote

HIDDEN: Final = "***"
# How much of what another program says is repeated.
QUOTED_MAX: Final = 500
# Shorter ones, and words, stand in ordinary sentences; the patterns below find them where they are written as secrets.
_KNOWN_LENGTH_MIN: Final = 8
_WORD: Final = re.compile(r"[a-z]+|[A-Z][a-z]+")
_known: set[str] = set()
_known_pattern: re.Pattern[str] | None = None
_PATTERNS: Final = (
    # A URL's password: all up to its last @, because a password may hold one.
    re.compile(r"([a-z][a-z0-9+.\-]*://[^\s:/?#@'\"]*:)[^\s'\"]*(?=@)", re.IGNORECASE),
    # What stands before the @ of a web address signs in, whatever it is.
    re.compile(r"(https?://)[^\s:/?#@'\"]+(?=@)", re.IGNORECASE),
    # In a query or a connection string, in JSON and in Python.
    re.compile(r"([\w\-]*(?:password|passwd|passphrase|secret|token|pwd)=['\"]?)[^\s'\"&;,}]+", re.IGNORECASE),
    re.compile(r"(['\"][\w\-]*(?:password|passwd|passphrase|secret|token|pwd)['\"]:\s*b?['\"])[^'\"]+", re.IGNORECASE),
    re.compile(r"(\bx-[a-z\-]*token:\s*)[^\s'\"]+", re.IGNORECASE),
    re.compile(r"(\bauthorization['\"]?:\s*['\"]?[a-z]+\s+)[^\s'\"]+", re.IGNORECASE),
    re.compile(r"(\bstk_)[\w\-]+"),
)


def know_secrets(values: Iterable[str]) -> None:
    """Have `redact` hide these values too, wherever and however they are quoted: those of the settings."""
    global _known_pattern  # noqa: PLW0603 - what is secret is secret in the whole process
    forms = {form for value in values for form in (value, unquote(value), quote(value, safe=""))}
    new = {form for form in forms if len(form) >= _KNOWN_LENGTH_MIN and not _WORD.fullmatch(form)} - _known
    if not new:
        return
    _known.update(new)
    longest_first = sorted(_known, key=len, reverse=True)
    _known_pattern = re.compile("|".join(map(re.escape, longest_first)))


def redact(text: str) -> str:
    """Hide what signs in: passwords of URLs and connection strings, tokens, and the values of secret settings."""
    if _known_pattern is not None:
        text = _known_pattern.sub(HIDDEN, text)
    for pattern in _PATTERNS:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def quoted(text: object) -> str:
    """Give what another program said as a clause of an error: on one line, and no more of it than anybody reads."""
    words = " ".join(str(text).split())
    return words if len(words) <= QUOTED_MAX else f"{words[: QUOTED_MAX - 1]}…"


class StocktakeError(Exception):
    """
    The root: `str(error)` is one line that ends the search. Nothing secret is in it, whoever's words it repeats.

    Attributes:
        what: what failed, a clause without a full stop.
        where: the node, file and line, URL or option; empty if `what` says it.
        remedy: what the operator can do, a sentence; empty if nothing.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        self.what = redact(what)
        self.where = redact(where)
        self.remedy = redact(remedy)
        super().__init__(self.what)

    @property
    def code(self) -> str:
        """The error's stable name, as shown to programs (`--json`, metrics)."""
        return type(self).__name__

    def __str__(self) -> str:
        """Where, what and the remedy, on one line."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}. {self.remedy}" if self.remedy else head


class InvalidInput(StocktakeError):
    """What a person or a document gave is wrong."""


class SettingsError(InvalidInput):
    """
    The settings can't be used.

    Attributes:
        reasons: everything that is wrong, each with its place; the error itself if there is only one.
    """

    def __init__(self, what: str, *, where: str = "", remedy: str = "", reasons: Sequence[str] = ()) -> None:
        super().__init__(what, where=where, remedy=remedy)
        self.reasons = tuple(map(redact, reasons)) or (str(self),)


class InvalidData(InvalidInput):
    """A document can't be read."""


class NotNow(InvalidInput):
    """It can't be done in the state that the thing is in."""


class NotFound(StocktakeError):
    """No such thing in the ledger."""


class ClaimRefused(StocktakeError):
    """
    There is no room for what was asked.

    Attributes:
        reasons: one sentence for each dimension that ran out.
        refused: each node that was asked, with its reasons in numbers (`stocktake.claims.Refused`).
    """

    def __init__(
        self, reasons: Sequence[str], *, where: str = "", remedy: str = "", refused: Sequence[object] = ()
    ) -> None:
        super().__init__("; ".join(reasons), where=where, remedy=remedy)
        self.reasons = tuple(map(redact, reasons))
        self.refused = tuple(refused)


class AccessDenied(StocktakeError):
    """Who asks may not do that."""


class NotSignedIn(AccessDenied):
    """There is no token, or one that is unknown, expired or revoked."""


class IdentityError(StocktakeError):
    """This host is not who the ledger says it is."""


class Unreachable(StocktakeError):
    """A part could not be reached; trying again later may help."""


class DriverUnreachable(Unreachable):
    """The hypervisor does not answer, or not in time."""


class LedgerUnreachable(Unreachable):
    """The database is locked or gone; nothing was changed, unless it is an OutcomeUnknown."""


class OutcomeUnknown(LedgerUnreachable):
    """The connection was lost after a change was sent and before its answer came: it was made, or it wasn't."""


UNKNOWN_REMEDY = "It may have been done, or not: look, with `stocktake instances --named UUID`, before you do it again."


class PlacementUnreachable(Unreachable):
    """The scheduler does not answer, or answers 5xx."""


class StateLost(Unreachable):
    """The state path was removed or replaced under a running agent."""


class DriverError(StocktakeError):
    """The hypervisor answered with an error."""


class NodeNotFound(StocktakeError):
    """The hypervisor does not know the node."""


class ReportRefused(StocktakeError):
    """What the hypervisor said of a node can't be believed; says every reason."""


class LedgerError(StocktakeError):
    """The database refused a statement."""


class AlreadyThere(LedgerError):
    """There is such a thing in the ledger already."""


class MachineFault(StocktakeError):
    """This machine has no memory, no disk or no leave for what was to be done."""


class PlacementError(StocktakeError):
    """The scheduler refused a request."""


class ProviderNotOurs(PlacementError):
    """A resource provider is Nova's or another's: nothing of it is written or deleted."""


class PlacementConflict(StocktakeError):
    """Somebody else kept changing the provider."""


EXIT_CODES: tuple[tuple[type[StocktakeError], int], ...] = (
    (InvalidInput, 2),
    (NotFound, 2),
    (AccessDenied, 2),
    (IdentityError, 2),
    (ClaimRefused, 1),
    (StocktakeError, 3),
)


def exit_code(error: StocktakeError) -> int:
    """Map an error to the program's exit code: 1 no room, 2 wrong input, 3 a part could not be reached or refused."""
    return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
