"""
Step 4: Ironic's nodes as its API tells them. Invariant: a node that can't be read is its own trouble, never the list's.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from stocktake.errors import DriverError

# Nova reads these, all but the last four; those are what an operator looks for.
FIELDS = (
    "uuid",
    "name",
    "resource_class",
    "properties",
    "provision_state",
    "target_provision_state",
    "power_state",
    "maintenance",
    "instance_uuid",
    "traits",
    "conductor_group",
    "shard",
    "fault",
    "maintenance_reason",
    "last_error",
)
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Order = Literal["updated_at", "created_at"]


class Node(msgspec.Struct, frozen=True):
    """
    One node, Ironic's names.

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


class Page(msgspec.Struct, frozen=True):
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
        remedy = "Correct the node in Ironic; the others are not touched by it."
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
        raise _no_ironic(f"{uuid[:60]!r} is no UUID", where)
    return uuid


def _no_ironic(what: str, where: str) -> DriverError:
    return DriverError(f"the answer can't be understood: {what}", where=where, remedy="Is this URL Ironic's?")
