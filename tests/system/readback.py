"""
Placement as an operator sees it: plain HTTP, nothing of the program.

What is embedded in the program is read back through Placement's own service, started on the same database file.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

from tests.servers.placement import TOKEN, PlacementServer, private_placement

_HEADERS = {"X-Auth-Token": TOKEN, "OpenStack-API-Version": "placement 1.39"}
_TIMEOUT_S = 150


class Readback:
    """One Placement, by its URL."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str) -> Any:
        """Ask, and insist on an answer."""
        answer = requests.get(self._url + path, headers=_HEADERS, timeout=_TIMEOUT_S)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def write(self, method: str, path: str, body: object = None) -> None:
        """Write as somebody else does, and insist that it works."""
        answer = requests.request(method, self._url + path, headers=_HEADERS, json=body, timeout=_TIMEOUT_S)
        assert answer.status_code in (200, 201, 204), answer.text

    def providers(self) -> dict[str, Any]:
        """List all providers, by name."""
        return {one["name"]: one for one in self.get("/resource_providers")["resource_providers"]}

    def inventories(self, name: str) -> Any:
        """Read a provider's inventories, by class."""
        return self.get(f"/resource_providers/{self.providers()[name]['uuid']}/inventories")["inventories"]

    def traits(self, name: str) -> frozenset[str]:
        """Read a provider's traits."""
        return frozenset(self.get(f"/resource_providers/{self.providers()[name]['uuid']}/traits")["traits"])

    def consumers(self, name: str) -> frozenset[str]:
        """Say who holds something of a provider."""
        return frozenset(self.get(f"/resource_providers/{self.providers()[name]['uuid']}/allocations")["allocations"])

    def usages(self, name: str) -> Mapping[str, int]:
        """Read how much of a provider's classes is held."""
        usages: Mapping[str, int] = self.get(f"/resource_providers/{self.providers()[name]['uuid']}/usages")["usages"]
        return usages

    def held(self, name: str) -> dict[str, dict[str, int]]:
        """Say who holds how much of a provider, by class."""
        path = f"/resource_providers/{self.providers()[name]['uuid']}/allocations"
        return {consumer: there["resources"] for consumer, there in self.get(path)["allocations"].items()}

    def allocate(self, consumer: str, held: Mapping[str, Mapping[str, int]]) -> None:
        """Give a new consumer resources of providers, by name, as a cloud's scheduler does."""
        uuids = {name: one["uuid"] for name, one in self.providers().items()}
        body = {
            "allocations": {uuids[name]: {"resources": amounts} for name, amounts in held.items()},
            "project_id": "p",
            "user_id": "u",
            "consumer_generation": None,
            "consumer_type": "INSTANCE",
        }
        self.write("PUT", f"/allocations/{consumer}", body)

    def everything(self) -> str:
        """Give all that there is, generations too, as one text to compare."""
        parts: list[object] = []
        for _, one in sorted(self.providers().items()):
            base = f"/resource_providers/{one['uuid']}"
            parts.append([one, *(self.get(f"{base}/{part}") for part in ("inventories", "traits", "allocations"))])
        return json.dumps(parts, sort_keys=True, default=sorted)

    def clear(self) -> None:
        """Delete everything."""
        there = self.providers()
        for name in there:
            for consumer in self.consumers(name):
                self.write("DELETE", f"/allocations/{consumer}")
        for _, one in sorted(there.items(), key=lambda pair: pair[1]["parent_provider_uuid"] is None):
            self.write("DELETE", f"/resource_providers/{one['uuid']}")


@contextlib.contextmanager
def read_back(state: Path) -> Iterator[Readback]:
    """Serve the Placement that was embedded with this state path."""
    assert (state / "placement.db").exists(), "nothing was embedded here"
    with private_placement(state) as server:
        yield Readback(server.url)


def remote(server: PlacementServer, **settings: object) -> dict[str, object]:
    """The settings that report to a server."""
    auth = {"auth_type": "admin_token", "auth": {"token": TOKEN}}
    return {"mode": "remote", "url": server.url, **auth, **settings}


def writes(server: PlacementServer) -> int:
    """Count all requests that were not GETs."""
    return sum(count for method, count in server.counts().items() if method != "GET")
