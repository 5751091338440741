"""Placement at /placement: the real one, behind our server. Who the caller is, it learns from us and never from him."""

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.servers.serve import HOST, ServedHere, secret_of, served_here

MOUNT = "/placement"
VERSION = {"OpenStack-API-Version": "placement 1.39"}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, embedded_connection: str) -> Iterator[ServedHere]:
    with served_here(
        tmp_path_factory.mktemp("served"),
        placement__mode="embedded",
        placement__connection=embedded_connection,
        server__request_bytes_max=10_000,
    ) as made:
        yield made


def client_of(here: ServedHere, name: str | None) -> TestClient:
    made = here.client(name)
    made.headers.update(VERSION)
    return made


def error(answer: Any) -> tuple[int, str]:
    """Read an error in Placement's form."""
    (told,) = answer.json()["errors"]
    assert told["status"] == answer.status_code
    return told["status"], told["detail"]


def test_given_an_operator_when_he_makes_a_provider_then_its_links_and_its_place_lead_through_the_mount(
    here: ServedHere,
) -> None:
    client, name = client_of(here, "operator"), f"p-{uuid.uuid4()}"
    made = client.post(f"{MOUNT}/resource_providers", json={"name": name})
    assert made.status_code == 200, made.text
    one = made.json()
    path = f"{MOUNT}/resource_providers/{one['uuid']}"
    assert made.headers["Location"] == f"http://127.0.0.1{path}"
    assert made.headers["OpenStack-API-Version"] == "placement 1.39"
    links = {link["rel"]: link["href"] for link in one["links"]}
    assert (links["self"], links["inventories"]) == (path, f"{path}/inventories")
    assert client.get(links["self"]).json()["name"] == name
    stock = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 4}}}
    assert client.put(links["inventories"], json=stock).status_code == 200
    # A body of no media type, and none at all.
    assert client.put(f"{MOUNT}/traits/CUSTOM_{uuid.uuid4().hex.upper()}").status_code == 201
    found = client.get(f"{MOUNT}/allocation_candidates", params={"resources": "VCPU:1"}).json()
    assert one["uuid"] in found["provider_summaries"]
    assert client.delete(links["self"]).status_code == 204
    assert error(client.get(links["self"]))[0] == 404


def test_given_a_name_with_signs_in_it_when_asked_for_then_it_reaches_placement_as_it_is(here: ServedHere) -> None:
    client, name = client_of(here, "operator"), f"a b&c/ü%-{uuid.uuid4()}"
    made = client.post(f"{MOUNT}/resource_providers", json={"name": name}).json()
    listed = client.get(f"{MOUNT}/resource_providers", params={"name": name}).json()["resource_providers"]
    assert [one["uuid"] for one in listed] == [made["uuid"]]


@pytest.mark.parametrize(
    "claimed",
    [
        {"X-Auth-Token": "admin"},
        {"X-Roles": "admin,service", "X-User-Id": "admin", "X-Tenant-Id": "admin"},
        {"X_ROLES": "admin", "OpenStack-System-Scope": "all"},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", [None, "viewer", "agent", "operator"])
def test_given_headers_that_say_who_one_is_when_sent_then_they_make_nobody_more_than_his_token_does(
    here: ServedHere, name: str | None, claimed: dict[str, str]
) -> None:
    client = client_of(here, name)
    status = {None: 401, "agent": 403, "viewer": 200, "operator": 200}[name]
    assert client.get(f"{MOUNT}/allocation_candidates?resources=VCPU:1", headers=claimed).status_code == status
    made = client.post(f"{MOUNT}/resource_providers", headers=claimed, json={"name": f"p-{uuid.uuid4()}"})
    assert made.status_code == {None: 401, "agent": 403, "viewer": 403, "operator": 200}[name]
    # Placement gives that to a service only, which nobody here is.
    body: dict[str, Any] = {"inventories": {}, "allocations": {}}
    reshaped = client.post(f"{MOUNT}/reshaper", headers=claimed, json=body)
    assert reshaped.status_code == (401 if name is None else 403)


def test_given_nobody_when_he_asks_for_versions_then_he_learns_them_and_nothing_else(here: ServedHere) -> None:
    client = client_of(here, None)
    for path in (MOUNT, f"{MOUNT}/"):
        answer = client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.json()["versions"][0]["max_version"]) == (200, "1.39")
    answer = client.get(f"{MOUNT}/resource_providers")
    assert error(answer)[0] == 401
    assert "Basic" in answer.headers["WWW-Authenticate"]
    assert error(client_of(here, "wrong").get(f"{MOUNT}/traits"))[0] == 401


def test_given_a_token_as_the_password_of_http_basic_when_shown_then_it_lets_in(here: ServedHere) -> None:
    answer = client_of(here, None).get(f"{MOUNT}/traits", auth=("anybody", secret_of("viewer")))
    assert answer.status_code == 200


def test_given_what_placement_refuses_when_asked_then_its_own_words_come_through(here: ServedHere) -> None:
    client = client_of(here, "operator")
    assert "nobody" in error(client.get(f"{MOUNT}/resource_providers/nobody"))[1]
    assert error(client.put(f"{MOUNT}/resource_providers"))[0] == 405
    assert (
        error(client.post(f"{MOUNT}/resource_providers", content=b"{}", headers={"Content-Type": "text/plain"}))[0]
        == 415
    )
    assert client.head(f"{MOUNT}/traits").status_code == 200
    too_new = client.get(f"{MOUNT}/traits", headers={"OpenStack-API-Version": "placement 1.99"})
    assert error(too_new)[0] == 406


def test_given_a_body_that_is_too_large_when_sent_then_placement_never_sees_it(here: ServedHere) -> None:
    answer = client_of(here, "operator").post(f"{MOUNT}/resource_providers", json={"name": "x" * 20_000})
    assert error(answer)[0] == 413


def named(text: str) -> str:
    return f'{{"name": {text}}}'


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 9_000, "nested too deeply"),
        (named("[" * 40 + "]" * 40).encode(), "nested too deeply"),
        (named(r'"\ud800"').encode(), "surrogate"),
        (rb'{"\udfff": 1}', "surrogate"),
        (named(r'"a\u0000b"').encode(), "zero byte"),
        (b'{"name": "\xff"}', "UTF-8"),
        ('{"name": "a"}'.encode("utf-16"), "UTF-8"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (named('"a\x01"').encode(), "not JSON"),
        (named('"a", "name": "b"').encode(), "twice"),
        (named('"a", "uuid": {"x": 1, "x": 1}').encode(), "twice"),
        (named("NaN").encode(), "NaN"),
        (named("-Infinity").encode(), "-Infinity"),
        (named("1e999").encode(), "too large"),
        (named("9" * 30).encode(), "too large"),
        (named("9" * 5000).encode(), "not JSON"),
        (b'{"name": "a"', "not JSON"),
        (b"'", "not JSON"),
    ],
    ids=lambda part: repr(part)[:30],
)
@pytest.mark.parametrize("name", ["operator", "agent"])
def test_given_a_body_that_is_not_quite_json_when_sent_then_it_is_refused_as_the_clients_mistake(
    here: ServedHere, name: str, body: bytes, said: str
) -> None:
    client = client_of(here, name)
    typed = {"Content-Type": "application/json"}
    for method, path in (
        ("POST", "resource_providers"),
        ("PUT", f"resource_providers/{uuid.uuid4()}/inventories"),
        ("PUT", f"allocations/{uuid.uuid4()}"),
        ("POST", "allocations"),
    ):
        status, detail = error(client.request(method, f"{MOUNT}/{path}", content=body, headers=typed))
        assert (status, said in detail) == (400, True), detail


@pytest.mark.parametrize(
    "path",
    [
        "resource_providers?name=%ff",
        "resource_providers?name=%ed%a0%80",
        "resource_providers?name=a%00",
        "resource_providers?%ff=1",
        "resource_providers/%ff",
        "resource_providers/%00",
        "allocation_candidates?resources=VCPU:99999999999999999999",
        "allocation_candidates?resources=VCPU:1&limit=" + "9" * 5000,
        "allocation_candidates?resources1=VCPU:" + "9" * 20,
    ],
    ids=lambda path: path[:50],
)
def test_given_an_address_that_placement_can_not_read_when_asked_then_it_is_refused_as_the_clients_mistake(
    here: ServedHere, path: str
) -> None:
    assert error(client_of(here, "operator").get(f"{MOUNT}/{path}"))[0] == 400


def test_given_a_body_that_is_odd_and_right_when_sent_then_placement_hears_it_as_it_was_meant(here: ServedHere) -> None:
    client, name = client_of(here, "operator"), f"\u00fc \U0001f4a1 {uuid.uuid4()}"
    typed = {"Content-Type": "application/json; charset=UTF-8"}
    body = json.dumps({"name": name}).encode()
    made = client.post(f"{MOUNT}/resource_providers", content=b" \n" + body, headers=typed)
    assert (made.status_code, made.json()["name"]) == (200, name)
    # A ratio that is no whole number stays what it is.
    stock = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 4, "allocation_ratio": 1.1}}}
    path = f"{MOUNT}/resource_providers/{made.json()['uuid']}/inventories"
    assert client.put(path, json=stock).json()["inventories"]["VCPU"]["allocation_ratio"] == 1.1


def test_given_many_writers_when_they_write_at_once_then_each_is_answered_and_none_finds_it_locked(
    here: ServedHere,
) -> None:
    answers: list[int] = []

    def write() -> None:
        client = client_of(here, "operator")
        for _ in range(5):
            made = client.post(f"{MOUNT}/resource_providers", json={"name": f"p-{uuid.uuid4()}"})
            answers.append(made.status_code)
            answers.append(client.get(f"{MOUNT}/resource_providers").status_code)

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 60


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"placement__mode": "none"}, "placement.mode is none"),
        (
            {"placement__mode": "remote", "placement__url": "https://op:secret@placement.example:8778"},
            "https://op:***@placement.example:8778",
        ),
        (
            {
                "placement__mode": "remote",
                "placement__auth_type": "password",
                "placement__auth": {
                    "auth_url": "https://keystone.example/v3",
                    "username": "stocktake",
                    "password": "secret",
                    "project_name": "service",
                },
            },
            "the catalogue of https://keystone.example/v3",
        ),
    ],
    ids=["none", "url", "catalogue"],
)
def test_given_no_embedded_placement_when_asked_then_the_answer_names_the_real_one(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with served_here(tmp_path, **settings) as here:
        for path in (MOUNT, f"{MOUNT}/resource_providers"):
            status, detail = error(client_of(here, "viewer").get(path))
            assert (status, said in detail, "secret" in detail) == (404, True, False), detail
        assert error(client_of(here, "operator").delete(f"{MOUNT}/resource_providers/{HOST}"))[0] == 404
