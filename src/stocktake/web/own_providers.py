"""
What of the embedded Placement one host's agent may ask. Invariant: the providers of its own host's nodes, and names of
traits and classes; it gives a provider no name but its node's, or that and a device's address.

Placement has each provider's name once: whoever has the name of a host to come keeps that one out.

A provider belongs to the node whose uuid its root has; a node that was deleted still has its providers to delete.
"""

import re
from typing import Final

import webob

from stocktake.errors import AccessDenied
from stocktake.ledger import DatabaseLedger
from stocktake.model.books import ComputeNode
from stocktake.placement.desired import child_uuid, is_device_name
from stocktake.placement.embedded import Embedded

_NAMES: Final = re.compile(r"(traits|resource_classes)(/[A-Z0-9_]+)?")
_PROVIDER: Final = re.compile(r"resource_providers/(?P<uuid>[0-9A-Fa-f-]{36})(?P<part>/[a-z]+)?")
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

    def check(self, method: str, path: str, said: object) -> None:
        """
        See to it that a request is about the host's own providers, or about names.

        Args:
            path: below the root of Placement, without a slash before it.
            said: the body; None without one.

        Raises:
            AccessDenied: it is not.
        """
        if _NAMES.fullmatch(path) and method in {"GET", "PUT"}:
            return
        if path == "resource_providers":
            if method == "GET" or (method == "POST" and self._may_make(said)):
                return
            raise self._denied(method, path)
        found = _PROVIDER.fullmatch(path)
        if found is None:
            raise self._denied(method, path)
        uuid = found["uuid"].lower()
        # Of one that is not there Placement says so.
        if not self._is_mine(uuid, absent=True):
            raise self._denied(method, path)
        if method == "PUT" and not found["part"] and not self._may_be(uuid, said):
            raise self._denied(method, path)

    def _may_make(self, said: object) -> bool:
        """A root for a node of the host, as it is called; below such a one a device, as it is called."""
        if not isinstance(said, dict):
            return False
        uuid, name, parent = said.get("uuid"), said.get("name"), said.get("parent_provider_uuid")
        if parent is None:
            return self._may_have(uuid, name)
        node = self._node(parent)
        return (
            node is not None
            and isinstance(name, str)
            and is_device_name(node.hypervisor_hostname, name)
            and uuid == child_uuid(node.uuid, name)
        )

    def _may_be(self, uuid: str, said: object) -> bool:
        """What there is keeps its place, and is called by the name that a new one would be given."""
        if not isinstance(said, dict):
            return False
        name, parent = said.get("name"), said.get("parent_provider_uuid")
        if self._node(uuid) is not None:
            return parent is None and self._may_have(uuid, name)
        node = self._node(self._root_of(uuid))
        named = node is not None and isinstance(name, str) and is_device_name(node.hypervisor_hostname, name)
        return named and (parent is None or parent == self._root_of(uuid))

    def _may_have(self, uuid: object, name: object) -> bool:
        """A root has its node's name, unless that is another host's: Placement has each name once."""
        node = self._node(uuid)
        if node is None or name != node.hypervisor_hostname:
            return False
        names = {node.hypervisor_hostname, node.hypervisor_hostname.partition(".")[0]} - {self._host}
        hosts = {token.host for token in self._ledger.tokens.all()}
        hosts |= {service.host for service in self._ledger.services()}
        return not names & hosts

    def _node(self, uuid: object) -> ComputeNode | None:
        """Give a node of the host that is not deleted."""
        found = self._ledger.nodes_in_brief(host=self._host, uuids=[uuid]) if isinstance(uuid, str) else ()
        return found[0] if found else None

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
