"""
Step 7b: one HTTP conversation with Placement. Invariant: every answer is a value, every failure one of our errors, and
what met a conflict is done again a bounded number of times, with growing, jittered waits.

Embedded and remote differ only in the adapter that is mounted and in the authentication plugin.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from stocktake.errors import PlacementConflict, PlacementError, PlacementUnreachable, StocktakeError, quoted
from stocktake.exchange.keystone import lacking, open_adapter, read_plugin, trouble_of
from stocktake.placement.embedded import URL as EMBEDDED_URL
from stocktake.settings import PlacementSection
from stocktake.telemetry import Telemetry

if TYPE_CHECKING:
    from keystoneauth1.adapter import Adapter

    from stocktake.placement.embedded import Embedded

_BACKOFF_S = 0.1
_BACKOFF_MAX_S = 2.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    Calls something again while it raises PlacementConflict.

    Attributes:
        retries_max: how often, after the first time.
        sleep, jitter: waits so many seconds; gives a number from 0 up to 1.
    """

    retries_max: int
    sleep: Callable[[float], object]
    jitter: Callable[[], float]

    def __call__(self, attempt: Callable[[], T]) -> T:
        """Give what the attempt gives; raises the conflict that outlives all tries."""
        import tenacity

        def wait_s(state: tenacity.RetryCallState) -> float:
            longest_s = min(_BACKOFF_MAX_S, _BACKOFF_S * 2.0 ** (state.attempt_number - 1))
            return longest_s * (0.5 + self.jitter() / 2)

        def pause(wait_s: float) -> None:
            self.sleep(wait_s)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PlacementConflict),
            stop=tenacity.stop_after_attempt(self.retries_max + 1),
            wait=wait_s,
            sleep=pause,
            reraise=True,
        )
        return retrying(attempt)


# 1.39 is the newest that we know; 1.28 is the first whose consumers have generations, without which nothing is safe.
NEWEST = (1, 39)
OLDEST = (1, 28)
CONSUMER_TYPES = (1, 38)
_CONFLICT = 409
_SERVICE_TYPE = "placement"


class _Error(msgspec.Struct):
    status: int = 0
    title: str = ""
    detail: str = ""
    code: str = ""


class _Errors(msgspec.Struct):
    errors: tuple[_Error, ...] = ()


class _Version(msgspec.Struct):
    max_version: str
    min_version: str


class _Versions(msgspec.Struct):
    versions: tuple[_Version, ...]


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What Placement answered, other than 5xx.

    Attributes:
        code: Placement's error code, such as `placement.concurrent_update`; empty if it worked.
        detail: Placement's own words.
        remedy: what to do about a request that Placement allows nobody of these roles.
    """

    status: int
    body: bytes
    request: str
    code: str = ""
    detail: str = ""
    remedy: str = ""

    @property
    def fine(self) -> bool:
        """Say whether the request did what it asked for."""
        return self.status < 400

    def read(self, kind: type[T]) -> T:
        """Decode the body; raises PlacementError for one that is not what Placement sends."""
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.DecodeError as error:
            raise PlacementError(
                f"the answer can't be understood: {error}", where=self.request, remedy="Is this URL Placement's?"
            ) from error

    def refused(self, remedy: str = "") -> PlacementError:
        """Make the error of a request that was refused."""
        words = quoted(self.detail) or "no reason given"
        remedy = self.remedy or remedy
        return PlacementError(f"refused with {self.status}: {words}", where=self.request, remedy=remedy)


class PlacementSession:
    """
    A conversation with one Placement, safe to use from many threads.

    Attributes:
        requests, writes: how many were sent; a write is anything but a GET.
        answered: whether the last request was answered at all.
    """

    def __init__(self, adapter: "Adapter", *, where: str, telemetry: Telemetry | None = None) -> None:
        self._adapter = adapter
        self._telemetry = telemetry or Telemetry()
        self._where = where
        self._version: tuple[int, int] | None = None
        self.requests = 0
        self.writes = 0
        self.answered = True

    def close(self) -> None:
        """Close the connections."""
        self._adapter.session.session.close()

    def version(self) -> tuple[int, int]:
        """
        Agree on the microversion, once.

        Raises:
            PlacementError: the server's newest is below 1.28, or there is no Placement at this URL.
        """
        if self._version is None:
            self._version = self._negotiated()
        return self._version

    def get(self, path: str) -> Answer:
        """Read."""
        return self._send("GET", path, None, self.version())

    def write(self, method: str, path: str, body: object = None, *, version: tuple[int, int] | None = None) -> Answer:
        """Write; `version` asks for an older microversion than the agreed one."""
        return self._send(method, path, body, min(version or NEWEST, self.version()))

    def ping(self) -> tuple[int, int]:
        """Ask for the version, whatever was agreed before."""
        self._version = self._negotiated()
        return self._version

    def url(self) -> str:
        """Give where requests go; Keystone's catalogue may have said so."""
        return str(self._adapter.get_endpoint() or self._where).replace("%%", "%").rstrip("/")

    def _negotiated(self) -> tuple[int, int]:
        answer = self._send("GET", "/", None, None)
        if not answer.fine:
            raise answer.refused("Check placement.url in the settings.")
        if self._adapter.endpoint_override is None:
            # Keystone's catalogue said where it is.
            self._where = self.url()
        versions = answer.read(_Versions).versions
        newest = _pair(versions[0].max_version) if versions else (0, 0)
        if newest < OLDEST:
            what = f"the server's newest microversion is {_text(newest)}, {_text(OLDEST)} is needed"
            raise PlacementError(what, where=self._where, remedy="Upgrade Placement to release 2.0.0 (Stein) or newer.")
        if versions and _pair(versions[0].min_version) > NEWEST:
            what = f"the server's oldest microversion is {versions[0].min_version}, {_text(NEWEST)} is the newest known"
            raise PlacementError(what, where=self._where, remedy="Upgrade stocktake.")
        return min(NEWEST, newest)

    def _send(self, method: str, path: str, body: object, version: tuple[int, int] | None) -> Answer:
        """Send a request, and count how it was answered."""
        try:
            answer = self._answered(method, path, body, version)
        except StocktakeError as error:
            self._telemetry.placement("unreachable" if isinstance(error, PlacementUnreachable) else "refused")
            raise
        self._telemetry.placement("ok" if answer.fine else "conflict" if answer.status == _CONFLICT else "refused")
        return answer

    def _answered(self, method: str, path: str, body: object, version: tuple[int, int] | None) -> Answer:
        from keystoneauth1 import exceptions

        request = f"{method} {self._where}{path}"
        self.requests += 1
        self.writes += method != "GET"
        options: dict[str, Any] = {"microversion": _text(version)} if version else {}
        if body is not None:
            options |= {"data": msgspec.json.encode(body), "headers": {"Content-Type": "application/json"}}
        self.answered = False
        try:
            response = self._adapter.request(path, method, raise_exc=False, log=False, **options)
            content = response.content
            self.answered = True
            return self._answer(response.status_code, content, request)
        except (exceptions.ClientException, OSError) as error:
            # requests' own errors are OSErrors, and so is a file of certificates that is not there.
            plugin = self._adapter.session.auth
            trouble = trouble_of(error, plugin, section="placement", service="Placement", request=request)
            kind = PlacementUnreachable if trouble.away else PlacementError
            raise kind(trouble.what, where=trouble.where, remedy=trouble.remedy) from error

    def _answer(self, status: int, content: bytes, request: str) -> Answer:
        if status < 400:
            return Answer(status=status, body=content, request=request)
        first = _first_error(content)
        if status >= 500:
            words = quoted(first.detail) or "no reason given"
            remedy = "Check that Placement runs and that placement.url is right; it is tried again at every refresh."
            raise PlacementUnreachable(f"answered {status}: {words}", where=request, remedy=remedy)
        remedy = ""
        if status in (401, 403):
            remedy = lacking(self._adapter.session.auth, self._adapter, section="placement", service="Placement")
        detail = first.detail or first.title
        return Answer(status=status, body=content, request=request, code=first.code, detail=detail, remedy=remedy)


def _first_error(content: bytes) -> _Error:
    try:
        return next(iter(msgspec.json.decode(content, type=_Errors).errors), _Error())
    except msgspec.DecodeError:
        # A proxy in between answers in HTML or plain text.
        return _Error(detail=content[:200].decode(errors="replace"))


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def open_embedded(embedded: "Embedded", telemetry: Telemetry | None = None) -> PlacementSession:
    """Talk to the Placement in this process; nothing is loaded before the first request."""
    from keystoneauth1 import token_endpoint

    # Placement's own `noauth2` takes this token for an administrator; it can be reached from this process only.
    plugin = token_endpoint.Token(EMBEDDED_URL, "admin")
    adapter = open_adapter(
        plugin, service_type=_SERVICE_TYPE, url=EMBEDDED_URL, timeout_s=60, mount=(EMBEDDED_URL, embedded)
    )
    return PlacementSession(adapter, where="placement (embedded)", telemetry=telemetry)


def open_remote(section: PlacementSection, telemetry: Telemetry | None = None) -> PlacementSession:
    """
    Talk to a Placement by URL, or by Keystone's catalogue if there is no URL.

    Args:
        telemetry: where requests are counted.

    Raises:
        SettingsError: no such plugin, an option that it does not know, or one that it lacks.
    """
    url = section.url
    plugin = read_plugin(
        section.auth_type, section.auth, section="placement", url=url, url_setting="url", service="Placement"
    )
    adapter = open_adapter(
        plugin,
        service_type=_SERVICE_TYPE,
        url=url,
        timeout_s=section.timeout_s,
        insecure=section.insecure,
        cafile=section.cafile,
        region_name=section.region_name,
        interface=section.interface,
    )
    return PlacementSession(adapter, where=(url or "placement").rstrip("/"), telemetry=telemetry)
