"""Patterns over the wire: whoever sends one that would take for ever is answered, and so is everybody else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec import inspect

from stocktake.ledger.calls import CALLS, LedgerCall
from stocktake.web.calls import Route
from stocktake.web.routes import ROUTES
from tests.ledger.test_host_scope import Sample
from tests.servers.fleets import stocked
from tests.servers.serve import HOST, Served, served

LONG = "a" * 250
PATTERNS = ("(a+)+$", "(a|aa)+$", "(.*a){20}$", "*a" * 100 + "b", "[a-" * 80, "%a" * 100 + "b")
ASKED = [
    route
    for route in ROUTES
    if route.method == "GET" and route.query is not None and route.media != "text/event-stream"
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory: Path = tmp_path_factory.mktemp("served")
    database = f"sqlite:///{directory / 'ledger.db'}"
    stocked(directory, database)
    with served(directory, database, server__request_timeout_s=600) as made:
        yield made


def others_are_answered(server: Served) -> None:
    """Write and read as somebody else: neither a thread nor the ledger's lock is held by the one before."""
    with server.client("operator") as other:
        assert other.post(f"/v1/services/{HOST}/enable").status_code == 200


@pytest.mark.parametrize("route", ASKED, ids=lambda route: route.path)
def test_given_a_pattern_in_any_parameter_when_asked_then_it_is_answered(server: Served, route: Route) -> None:
    assert route.query is not None
    path = route.path.replace("{", "").replace("}", "")
    with server.client("operator") as client:
        for name in route.query.__struct_encode_fields__:
            for pattern in PATTERNS:
                assert client.get(path, params={name: pattern + LONG}).status_code < 500
                assert client.get(path, params={name: pattern}).status_code < 500
    others_are_answered(server)


class Evil(Sample):
    """Arguments whose every text is a pattern, or what it takes long on."""

    def _leaf(self, path: str, plain: str | int) -> str | int:
        number = len(self.paths)
        self.paths.append(path)
        if isinstance(plain, int):
            return plain
        return (*PATTERNS, LONG)[number % (len(PATTERNS) + 1)]


@pytest.mark.parametrize("call", CALLS.values(), ids=lambda call: call.name)
def test_given_patterns_in_every_text_of_a_call_when_made_then_it_is_answered(server: Served, call: LedgerCall) -> None:
    body = Evil({}).of(inspect.type_info(call.arguments), call.name)
    with server.client("operator") as client:
        assert client.post(call.path, json=body).status_code in {200, 400, 403, 404, 409, 500}
    others_are_answered(server)


def test_given_an_agent_that_sends_patterns_of_devices_when_counted_then_nobody_matches_them(server: Served) -> None:
    """As an older agent did: the field is not there any more."""
    spec: dict[str, Any] = {"address_regex": {"domain": "(((0+)+)+)+x", "bus": "(.*){1,200}$"}, "tags": {}}
    arguments = {
        "host": HOST,
        "views": {},
        "uuids": {},
        "rules": {"host": HOST, "device_specs": [spec] * 1000},
        "overrides": {},
        "disabled": False,
    }
    with server.client("agent") as client:
        answer: httpx2.Response = client.post(
            "/v1/ledger/count-locked",
            content=json.dumps(arguments).encode(),
            headers={"Content-Type": "application/json"},
        )
        assert answer.status_code == 200, answer.text
    others_are_answered(server)
