"""
Step 4: Ironic's API and its nodes as that tells them. Invariant: a list is whole or an error, in bounded time, and a
node that can't be read is its own trouble, never the list's.

Pages are read as they come from the socket: the SDK's objects would cost twice the time of the listing itself.
"""

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

import msgspec

from stocktake.clock import Clock
from stocktake.errors import DriverError, DriverUnreachable
from stocktake.exchange.keystone import open_adapter, read_plugin, trouble_of
from stocktake.model.value import UUID

if TYPE_CHECKING:
    from keystoneauth1.adapter import Adapter

    from stocktake.settings import IronicSection

LOG = logging.getLogger(__name__)

Order = Literal["updated_at", "created_at"]


class Node(msgspec.Struct, frozen=True):
    """
    One node, Ironic's names. Nova reads these, all but the last four; those are what an operator looks for.

    Attributes:
        properties: whatever somebody wrote: Ironic does not check it.
        fault: why Ironic itself put it into maintenance.
    """

    uuid: str
    name: str | None = None
    resource_class: str | None = None
    properties: Mapping[str, Any] = {}
    provision_state: str | None = None
    target_provision_state: str | None = None
    power_state: str | None = None
    maintenance: bool = False
    instance_uuid: str | None = None
    traits: tuple[str, ...] = ()
    conductor_group: str | None = None
    shard: str | None = None
    fault: str | None = None
    maintenance_reason: str | None = None
    last_error: str | None = None


class Unreadable(msgspec.Struct, frozen=True):
    """A node of which only the uuid could be read, and why no more."""

    uuid: str
    error: DriverError


Listed = Node | Unreadable


class NodePage(msgspec.Struct, frozen=True):
    """One page of a list; `next` is there if another follows."""

    nodes: tuple[msgspec.Raw, ...]
    next: str | None = None


class _Named(msgspec.Struct, frozen=True):
    uuid: str
    updated_at: str | None = None


_NODE = msgspec.json.Decoder(Node)
_NAMED = msgspec.json.Decoder(_Named)


def read_node(text: msgspec.Raw | bytes, *, where: str) -> Listed:
    """
    Read one node.

    Raises:
        DriverError: it has not even a uuid.
    """
    try:
        node = _NODE.decode(text)
    except msgspec.DecodeError as error:
        uuid = _uuid(_named(text, where).uuid, where)
        remedy = "Correct the node in Ironic; the other nodes are not affected."
        return Unreadable(uuid, DriverError(f"can't be understood: {error}", where=uuid, remedy=remedy))
    _uuid(node.uuid, where)
    return node


def read_updated_at(text: msgspec.Raw | bytes, *, where: str) -> str | None:
    """Read when a node was changed last, in Ironic's words; None if never."""
    return _named(text, where).updated_at


def _named(text: msgspec.Raw | bytes, where: str) -> _Named:
    try:
        return _NAMED.decode(text)
    except msgspec.DecodeError as error:
        raise _no_ironic(str(error), where) from error


def _uuid(uuid: str, where: str) -> str:
    if not UUID.fullmatch(uuid):
        raise _no_ironic(f"{uuid[:60]!r} is not a UUID", where)
    return uuid


def _no_ironic(what: str, where: str) -> DriverError:
    return DriverError(
        f"the answer can't be understood: {what}", where=where, remedy="Check that this URL is Ironic's."
    )


# 1.82 is the first with shards; 1.46, the first with conductor groups, is Nova's minimum.
NEWEST = (1, 82)
OLDEST = (1, 46)
PAGE = 1000
# A million nodes.
_PAGES_MAX = 1000
# How often a list is begun anew because the node that a page ended with was deleted before the next was asked for.
_LISTS_MAX = 3
_NEWEST_THERE = "X-OpenStack-Ironic-API-Maximum-Version"
_REMEDY = "Check that Ironic's API runs; its nodes keep their last record, marked stale, and nothing is deleted."


class _MarkerGone(Exception):
    """The node that the last page ended with is gone."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    newest: str


class Deadline:
    """A moment by which a whole call must be over, whatever requests it takes."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._until_s = clock.monotonic_s() + seconds
        self._seconds = seconds

    def left_s(self, most_s: float, where: str) -> float:
        """Give how long one more request may take, at most `most_s` seconds; raises DriverUnreachable if none may."""
        left_s = self._until_s - self._clock.monotonic_s()
        if left_s <= 0:
            raise DriverUnreachable(f"no complete answer within {self._seconds:g} s", where=where, remedy=_REMEDY)
        return min(left_s, most_s)


class Api:
    """
    A conversation with one Ironic; threads may share it.

    Args:
        section: the settings' section `ironic`.
        closed: ends the waits between tries.
    """

    def __init__(self, section: "IronicSection", clock: Clock, closed: threading.Event) -> None:
        self._section = section
        self._clock = clock
        self._closed = closed
        self._adapter: Adapter | None = None
        self._plugin: Any = None
        self._root = ""
        self._version = NEWEST
        self._opening = threading.Lock()
        self.where = (section.endpoint_override or "ironic").rstrip("/")

    def nodes(self, deadline: Deadline) -> dict[str, Listed]:
        """
        List all nodes of the shard and the conductor group, by uuid.

        Raises:
            DriverUnreachable: no answer, 5xx, or not all in time.
            DriverError: Ironic refused, or what it sent is not a whole list.
        """
        for _ in range(_LISTS_MAX):
            try:
                return self._listed(deadline)
            except _MarkerGone:
                LOG.info("a node that a page ended with was deleted meanwhile: the list is begun anew")
        what = f"nodes were deleted while they were listed, {_LISTS_MAX} times over"
        raise DriverError(what, where=self.where, remedy="The next refresh lists them again.")

    def latest(
        self, order: Order, limit: int, deadline: Deadline, *, oldest: bool = False
    ) -> tuple[tuple[Listed, str | None], ...]:
        """Give the nodes that were changed or made last (or first), with the time of their last change."""
        # The details are the only form that tells when a node was changed.
        query = {"sort_key": order, "sort_dir": "asc" if oldest else "desc", "limit": limit}
        page = self._page("/v1/nodes/detail", query, deadline)
        return tuple(
            (read_node(text, where=self.where), read_updated_at(text, where=self.where)) for text in page.nodes
        )

    def node(self, uuid: str, deadline: Deadline) -> Listed | None:
        """Read one node, of whatever shard and group; None if Ironic says that there is none (404)."""
        answer = self._get(f"/v1/nodes/{uuid}", {"fields": self._fields()}, deadline)
        if answer.status == 404:
            # A proxy's 404 says nothing of a node; Ironic's own names it.
            if uuid.encode() not in answer.body:
                raise _refused(answer, f"{self.where}/v1/nodes/{uuid}")
            return None
        if answer.status >= 400:
            raise _refused(answer, f"{self.where}/v1/nodes/{uuid}")
        return read_node(answer.body, where=self.where)

    def close(self) -> None:
        """Close the connections."""
        with self._opening:
            if self._adapter is not None:
                self._adapter.session.session.close()

    def _listed(self, deadline: Deadline) -> dict[str, Listed]:
        found: dict[str, Listed] = {}
        marker: str | None = None
        for _ in range(_PAGES_MAX):
            query: dict[str, object] = {"limit": PAGE, "fields": self._fields()}
            page = self._page("/v1/nodes", query if marker is None else {**query, "marker": marker}, deadline)
            before = len(found)
            for text in page.nodes:
                node = read_node(text, where=self.where)
                found[node.uuid] = node
                marker = node.uuid
            if page.next is None:
                return found
            if len(found) == before:
                break
        what = f"the list does not end: {len(found)} nodes, then a page without a new one that says there are more"
        raise DriverError(what, where=self.where, remedy="A proxy before Ironic loses pages of its answers.")

    def _page(self, path: str, query: Mapping[str, object], deadline: Deadline) -> NodePage:
        filters: dict[str, object] = {}
        if self._section.conductor_group is not None:
            filters["conductor_group"] = self._section.conductor_group
        if self._section.shard is not None:
            filters["shard"] = self._section.shard
        answer = self._get(path, {**query, **filters}, deadline)
        if answer.status == 404 and "marker" in query:
            raise _MarkerGone
        if answer.status >= 400:
            raise _refused(answer, self.where + path)
        try:
            return msgspec.json.decode(answer.body, type=NodePage)
        except msgspec.DecodeError as error:
            what = f"the answer can't be understood: {error}"
            raise DriverError(what, where=self.where, remedy="Check that this URL is Ironic's.") from error

    def _fields(self) -> str:
        return ",".join(name for name in Node.__struct_fields__ if name != "shard" or self._version >= NEWEST)

    def _get(self, path: str, query: Mapping[str, object], deadline: Deadline) -> _Answer:
        """Ask, again while there is no answer or 5xx, a bounded number of times."""
        tries = self._section.api_max_retries + 1
        for left in reversed(range(tries)):
            try:
                return self._agreed(path, query, deadline)
            except DriverUnreachable:
                if not left or self._closed.is_set():
                    raise
                wait_s = deadline.left_s(self._section.api_retry_interval, self.where)
                self._clock.wait(self._closed, wait_s)
        raise AssertionError("the last try returns or raises")

    def _agreed(self, path: str, query: Mapping[str, object], deadline: Deadline) -> _Answer:
        """Ask at the version agreed on; the first request to an older Ironic agrees on its newest."""
        answer = self._send(path, query, deadline)
        newest = _pair(answer.newest)
        if answer.status != 406 or newest >= self._version:
            return answer
        oldest = NEWEST if self._section.shard is not None else OLDEST
        if newest < oldest:
            what = f"the server's newest API version is {_text(newest)}, {_text(oldest)} is needed"
            why = " for shards" if self._section.shard is not None else ""
            raise DriverError(what + why, where=self.where, remedy="Upgrade Ironic.")
        self._version = newest
        asked = {**query, "fields": self._fields()} if "fields" in query else query
        return self._send(path, asked, deadline)

    def _send(self, path: str, query: Mapping[str, object], deadline: Deadline) -> _Answer:
        from keystoneauth1 import exceptions
        from requests import exceptions as transport

        where = self.where + path
        try:
            adapter = self._opened()
            response = adapter.get(
                f"{self._root}{path}?{urlencode(query)}",
                raise_exc=False,
                log=False,
                microversion=_text(self._version),
                timeout=deadline.left_s(self._section.timeout_s, where),
            )
            content = response.content
        except (exceptions.ClientException, transport.RequestException) as error:
            trouble = trouble_of(
                error, self._plugin, section="ironic", service="Ironic", request=where, url_setting="endpoint_override"
            )
            kind = DriverUnreachable if trouble.away else DriverError
            raise kind(trouble.what, where=trouble.where, remedy=trouble.remedy) from error
        if response.status_code >= 500:
            what = f"answered {response.status_code}: {_words(content)}"
            raise DriverUnreachable(what, where=where, remedy=_REMEDY)
        return _Answer(response.status_code, content, response.headers.get(_NEWEST_THERE, ""))

    def _opened(self) -> "Adapter":
        """Open the session at the first request: Keystone may be asked then."""
        with self._opening:
            if self._adapter is None:
                section, url = self._section, self._section.endpoint_override
                self._plugin = read_plugin(
                    section.auth_type,
                    section.auth,
                    section="ironic",
                    url=url,
                    url_setting="endpoint_override",
                    service="Ironic",
                )
                adapter = open_adapter(
                    self._plugin,
                    service_type="baremetal",
                    url=url,
                    timeout_s=section.timeout_s,
                    insecure=section.insecure,
                    cafile=section.cafile,
                    region_name=section.region_name,
                    interface=section.interface,
                )
                found = url or adapter.get_endpoint() or ""
                self._root = found.rstrip("/").removesuffix("/v1")
                self.where = self._root or self.where
                self._adapter = adapter
            return self._adapter


def _refused(answer: _Answer, where: str) -> DriverError:
    remedy = "Check that this URL is Ironic's." if answer.status == 404 else ""
    if answer.status in (401, 403):
        remedy = "Check ironic.auth_type and ironic.auth in the settings: the user must be allowed to list nodes."
    return DriverError(f"refused with {answer.status}: {_words(answer.body)}", where=where, remedy=remedy)


def _words(body: bytes) -> str:
    """Find Ironic's own words in an error, which are JSON within JSON; a proxy's are whatever it sent."""
    text = body[:2000].decode(errors="replace")
    for key in ("error_message", "faultstring"):
        try:
            said = msgspec.json.decode(text)
        except msgspec.DecodeError:
            break
        found = said.get(key) if isinstance(said, dict) else None
        text = found if isinstance(found, str) else (str(found.get("faultstring")) if isinstance(found, dict) else text)
    return " ".join(text.split())[:300] or "no reason given"


def _pair(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else (0, 0)


def _text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
