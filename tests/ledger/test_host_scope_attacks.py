"""An agent that writes its requests by hand: other spellings of others' names, names said twice, very many of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from msgspec import inspect

from stocktake.ledger.calls import CALLS
from tests.ledger.conftest import DATABASES, database_of
from tests.ledger.making import exported
from tests.ledger.test_host_scope import AGENTS_CALLS, FOREIGN, Ours, Sample, kind_of, two_hosts
from tests.servers.serve import HOST, OTHER_HOST, headers_of

HOSTS = (
    "",
    " ",
    f"{OTHER_HOST} ",
    OTHER_HOST.upper(),
    OTHER_HOST.replace("o", "\u043e"),
    f"{HOST}\u200b",
    HOST.upper(),
)


@pytest.fixture(scope="module", params=DATABASES)
def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    directory: Path = tmp_path_factory.mktemp("untouched")
    with database_of(request, request.param, directory) as url, two_hosts(url, directory) as filled:
        yield filled


def body_of(ours: Ours, name: str, path: str, value: str) -> dict[str, Any]:
    said: dict[str, Any] = Sample(ours.mine_by_kind, path, value).of(inspect.type_info(CALLS[name].arguments), name)
    return said


def status_of(ours: Ours, name: str, body: bytes) -> int:
    headers = {**headers_of("agent"), "Content-Type": "application/json"}
    return httpx2.post(f"{ours.at}{CALLS[name].path}", content=body, headers=headers, timeout=120).status_code


@pytest.mark.parametrize(
    ("name", "path"), [(name, path) for name, path in FOREIGN if kind_of(path) == "host"], ids=lambda part: part
)
def test_given_a_host_that_is_written_otherwise_when_an_agent_names_it_then_it_is_another_host(
    untouched: Ours, name: str, path: str
) -> None:
    before = exported(untouched.ledger)
    for host in HOSTS:
        body = body_of(untouched, name, path, host)
        assert status_of(untouched, name, json.dumps(body).encode()) in {400, 403}, host
    assert exported(untouched.ledger) == before


@pytest.mark.parametrize(
    "name", sorted(name for name in AGENTS_CALLS if "host" in CALLS[name].arguments.__struct_fields__)
)
def test_given_a_host_that_is_said_twice_when_sent_then_the_one_that_was_checked_is_the_one_that_counts(
    untouched: Ours, name: str
) -> None:
    before = exported(untouched.ledger)
    body = json.dumps(body_of(untouched, name, "", "")).encode()
    twice = body[:-1] + f', "host": "{OTHER_HOST}"}}'.encode()
    assert status_of(untouched, name, twice) == 403
    assert exported(untouched.ledger) == before


def test_given_ten_thousand_of_its_own_and_one_of_anothers_when_sent_then_all_of_it_is_refused(untouched: Ours) -> None:
    before = exported(untouched.ledger)
    uuids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(10_000)]
    failures = dict.fromkeys([*uuids, untouched.theirs.uuid])
    assert status_of(untouched, "note_failures", json.dumps({"failures": failures}).encode()) == 403
    deleted = {"uuids": [*uuids, untouched.their_instance.uuid]}
    assert status_of(untouched, "delete_instances", json.dumps(deleted).encode()) == 403
    assert exported(untouched.ledger) == before
