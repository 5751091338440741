"""
What of the embedded Placement one host's agent may ask. Invariant: the providers of its own host's nodes, and names.

A provider belongs to the node whose uuid its root has; a node that was deleted still has its providers to delete.
"""

import re
from typing import Any, Final

import msgspec
import webob

from stocktake.errors import AccessDenied
from stocktake.ledger import DatabaseLedger
from stocktake.placement.embedded import Embedded

_NAMES: Final = re.compile(r"(traits|resource_classes)(/[A-Z0-9_]+)?")
_PROVIDER: Final = re.compile(r"resource_providers/(?P<uuid>[0-9A-Fa-f-]{36})(/[a-z]+)?")
_VERSION: Final = "placement 1.39"


class OwnProviders:
    """
    Which providers are a host's.

    Args:
        identity: whom Placement believes to be an administrator.
    """

    def __init__(self, embedded: Embedded, ledger: DatabaseLedger, host: str, identity: str) -> None:
        self._embedded = embedded
        self._ledger = ledger
        self._host = host
        self._identity = identity

    def check(self, method: str, path: str, body: bytes) -> None:
        """
        See to it that a request is about the host's own providers, or about names.

        Args:
            path: below the root of Placement, without a slash before it.

        Raises:
            AccessDenied: it is not.
        """
        if _NAMES.fullmatch(path) and method in {"GET", "PUT"}:
            return
        if path == "resource_providers" and method == "GET":
            return
        found = _PROVIDER.fullmatch(path)
        new = path == "resource_providers" and method == "POST"
        if not (new or found is not None):
            raise self._denied(method, path)
        asked = _named(body, new=new) if new or method == "PUT" else []
        if not all(self._is_mine(uuid) for uuid in asked):
            raise self._denied(method, path)
        # Of one that is not there Placement says so.
        if found is not None and not self._is_mine(found["uuid"].lower(), absent=True):
            raise self._denied(method, path)

    def _denied(self, method: str, path: str) -> AccessDenied:
        what = f"this token is for the providers of host {self._host!r} only"
        return AccessDenied(what, where=f"{method} {path}"[:200], remedy="Allocations take a token of role operator.")

    def _is_mine(self, uuid: str, *, absent: bool = False) -> bool:
        if self._has(uuid):
            return True
        root = self._root_of(uuid)
        return absent if root == "" else root is not None and self._has(root)

    def _has(self, uuid: str) -> bool:
        owner = self._ledger.owners([uuid]).get(uuid)
        if owner is not None:
            return owner == self._host
        return any(one.uuid == uuid for one in self._ledger.deleted_nodes(self._host))

    def _root_of(self, uuid: str) -> str | None:
        """Ask Placement for a provider's root; empty if there is no such provider."""
        headers = {"X-Auth-Token": self._identity, "OpenStack-API-Version": _VERSION, "Accept": "application/json"}
        answer = self._embedded.answer(webob.Request.blank(f"/resource_providers/{uuid}", headers=headers))
        if answer.status_int == 404:
            return ""
        return str(answer.json.get("root_provider_uuid")) if answer.status_int < 400 else None


def _named(body: bytes, *, new: bool) -> list[str]:
    """Name the providers that a body is about: the new one, if it is a root, or the one that it is to be under."""
    try:
        said: Any = msgspec.json.decode(body or b"{}")
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        # Placement might read it all the same.
        return [""]
    if not isinstance(said, dict):
        return []
    parent = said.get("parent_provider_uuid")
    if parent is not None:
        return [str(parent)]
    return [str(said.get("uuid"))] if new else []
