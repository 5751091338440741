"""Nova's API in its details: versions, pages, ids, errors, and what the real clients don't ask."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from stocktake.ledger import NodeSave
from stocktake.model.books import Tally
from stocktake.model.value import replace
from stocktake.web.nova.hypervisors import uptime_text
from tests.claims.desk import Time
from tests.servers.serve import HOST, ServedHere, served_here

ROOT = "/compute/v2.1"
NEW = {"OpenStack-API-Version": "compute 2.87"}
NOBODY = "2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10"
BOOTED = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def here(books: str, tmp_path: Path) -> Iterator[ServedHere]:
    with served_here(tmp_path, books) as made:
        yield made


@pytest.fixture
def client(here: ServedHere) -> TestClient:
    made = here.client("operator")
    made.headers.update(NEW)
    return made


def fault(answer: Any) -> tuple[int, str, str]:
    """Read an error: its status, its name, its message; the status stands in it too."""
    ((name, said),) = answer.json().items()
    assert said.keys() == {"code", "message"}
    assert said["code"] == answer.status_code
    return answer.status_code, name, said["message"]


@pytest.mark.parametrize("path", ["/compute/v2.1", "/compute/v2.1/"])
def test_given_nobody_when_he_discovers_then_he_learns_of_one_version_without_a_redirect(
    here: ServedHere, path: str
) -> None:
    answer = here.client().get(path, follow_redirects=False)
    assert answer.status_code == 200
    version = answer.json()["version"]
    assert (version["id"], version["status"], version["min_version"], version["version"]) == (
        "v2.1",
        "CURRENT",
        "2.1",
        "2.87",
    )
    assert version["links"] == [{"rel": "self", "href": "/compute/v2.1/"}]
    for listed in ("/compute", "/compute/"):
        assert here.client().get(listed, follow_redirects=False).json() == {"versions": [version]}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 406),
        ({"OpenStack-API-Version": "compute 2.52"}, 406),
        ({"OpenStack-API-Version": "compute 2.53"}, 200),
        ({"OpenStack-API-Version": "compute 2.87"}, 200),
        ({"OpenStack-API-Version": "compute latest"}, 200),
        ({"OpenStack-API-Version": "compute 2.88"}, 406),
        ({"OpenStack-API-Version": "compute 3.0"}, 406),
        ({"OpenStack-API-Version": "compute 2"}, 400),
        ({"OpenStack-API-Version": "compute x.y"}, 400),
        ({"OpenStack-API-Version": "compute 2.00000000000000000000060"}, 400),
        ({"OpenStack-API-Version": "placement 1.39, compute 2.60"}, 200),
        ({"OpenStack-API-Version": "placement 1.39"}, 406),
        ({"X-OpenStack-Nova-API-Version": "2.60"}, 200),
        ({"X-OpenStack-Nova-API-Version": "2.60", "OpenStack-API-Version": "compute 2.1"}, 406),
    ],
    ids=str,
)
def test_given_a_microversion_when_asked_for_then_it_is_answered_or_the_range_is_named(
    here: ServedHere, headers: dict[str, str], status: int
) -> None:
    answer = here.client("viewer").get(f"{ROOT}/os-hypervisors", headers=headers)
    assert answer.status_code == status, answer.text
    if status == 406:
        assert "2.87" in fault(answer)[2]
    if status == 200:
        said = answer.headers["OpenStack-API-Version"].removeprefix("compute ")
        assert said == answer.headers["X-OpenStack-Nova-API-Version"]
        assert said in f"{headers} 2.87"
        assert "OpenStack-API-Version" in answer.headers["Vary"]


@pytest.mark.parametrize("path", ["os-hypervisors/statistics", "os-hosts", "os-aggregates"])
def test_given_no_microversion_when_what_is_the_same_at_all_of_them_is_asked_then_it_is_answered(
    here: ServedHere, path: str
) -> None:
    answer = here.client("viewer").get(f"{ROOT}/{path}")
    assert (answer.status_code, answer.headers["OpenStack-API-Version"]) == (200, "compute 2.1")


@pytest.mark.parametrize("path", ["os-hypervisors", "os-hypervisors/detail"])
@pytest.mark.parametrize("limit", [1, 3, 8, 100])
def test_given_pages_when_their_links_are_followed_then_each_hypervisor_is_on_one(
    client: TestClient, here: ServedHere, path: str, limit: int
) -> None:
    url, seen = f"{ROOT}/{path}?limit={limit}", []
    for _ in range(10):
        page = client.get(url).json()
        assert len(page["hypervisors"]) <= limit
        seen += [one["id"] for one in page["hypervisors"]]
        links = page.get("hypervisors_links")
        if not links:
            break
        assert links[0]["rel"] == "next"
        assert links[0]["href"].startswith(f"http://127.0.0.1{ROOT}/{path}?")
        url = links[0]["href"]
    assert seen == [node.uuid for node in here.web.ledger.nodes()]


def test_given_a_marker_when_it_is_the_last_then_the_page_is_empty_and_when_unknown_it_is_refused(
    client: TestClient, here: ServedHere
) -> None:
    last = here.web.ledger.nodes()[-1].uuid
    assert client.get(f"{ROOT}/os-hypervisors?marker={last}").json() == {"hypervisors": []}
    assert fault(client.get(f"{ROOT}/os-hypervisors?marker={NOBODY}"))[:2] == (400, "badRequest")
    assert client.get(f"{ROOT}/os-hypervisors?limit=0").json()["hypervisors"] != []


@pytest.mark.parametrize(
    ("query", "status", "name"),
    [
        ("limit=x", 400, "badRequest"),
        ("limit=-1", 400, "badRequest"),
        ("colour=red", 400, "badRequest"),
        ("hypervisor_hostname_pattern=zzz", 404, "itemNotFound"),
        ("hypervisor_hostname_pattern=0001&limit=1", 400, "badRequest"),
    ],
)
def test_given_a_question_that_can_not_be_answered_when_asked_then_the_error_is_novas(
    client: TestClient, query: str, status: int, name: str
) -> None:
    assert fault(client.get(f"{ROOT}/os-hypervisors/detail?{query}"))[:2] == (status, name)


def test_given_names_that_are_no_uuids_when_shown_then_clients_learn_to_look_through_the_list(
    client: TestClient, here: ServedHere
) -> None:
    node = here.web.ledger.nodes()[0]
    assert fault(client.get(f"{ROOT}/os-hypervisors/{node.hypervisor_hostname}"))[:2] == (400, "badRequest")
    assert fault(client.get(f"{ROOT}/os-hypervisors/{NOBODY}"))[:2] == (404, "itemNotFound")
    shown = client.get(f"{ROOT}/os-hypervisors/{node.uuid.upper()}").json()["hypervisor"]
    assert shown["hypervisor_hostname"] == node.hypervisor_hostname
    assert "servers" not in shown
    mine = client.get(f"{ROOT}/os-hypervisors/{node.uuid}?with_servers=True").json()["hypervisor"]["servers"]
    there = here.web.ledger.instances(host=node.host, node=node.hypervisor_hostname)
    assert {one["uuid"] for one in mine} == {one.uuid for one in there}


def test_given_what_is_not_here_when_asked_then_the_error_is_novas_for_those_who_may_read(
    client: TestClient, here: ServedHere
) -> None:
    status, name, message = fault(client.get(f"{ROOT}/flavors/detail"))
    assert (status, name, "os-hypervisors" in message) == (404, "itemNotFound", True)
    assert fault(client.post(f"{ROOT}/servers", json={}))[:2] == (404, "itemNotFound")
    answer = here.client().get(f"{ROOT}/flavors/detail")
    assert fault(answer)[:2] == (401, "unauthorized")
    assert "Basic" in answer.headers["WWW-Authenticate"]
    assert fault(here.client("agent").get(f"{ROOT}/os-services", headers=NEW))[:2] == (403, "forbidden")


def test_given_a_node_without_a_service_when_shown_then_it_is_down_and_its_service_has_its_hosts_name(
    client: TestClient, here: ServedHere
) -> None:
    node = here.web.ledger.nodes()[0]
    assert here.web.ledger.take_nodes({node.uuid: node.host}, "elsewhere") == {node.uuid}
    shown = client.get(f"{ROOT}/os-hypervisors/{node.uuid}").json()["hypervisor"]
    assert (shown["state"], shown["status"]) == ("down", "enabled")
    assert shown["service"] == {"id": "", "host": "elsewhere", "disabled_reason": None}


def start_at(here: ServedHere, booted_at: datetime | None) -> None:
    """Have the first node started then, or never known to have."""
    node = here.web.ledger.nodes()[0]
    known = Tally(node=replace(node, booted_at=booted_at), entries=())
    here.web.ledger.save([NodeSave(tally=known, expected_generation=node.generation, record_only=True)])


def test_given_a_host_whose_start_is_known_when_its_uptime_is_asked_then_it_is_told_until_it_is_silent(
    books: str, tmp_path: Path
) -> None:
    clock = Time()
    with served_here(tmp_path, books, clock=clock) as here:
        client = here.client("viewer")
        client.headers.update(NEW)
        node = here.web.ledger.nodes()[0]
        url = f"{ROOT}/os-hypervisors/{node.uuid}/uptime"
        start_at(here, None)
        assert fault(client.get(url))[:2] == (501, "notImplemented")
        start_at(here, clock.now() - timedelta(days=2, hours=2, minutes=33))
        here.web.ledger.heartbeat(HOST, version="1")
        told = client.get(url).json()["hypervisor"]
        assert (told["id"], told["state"]) == (node.uuid, "up")
        assert " up 2 days,  2:33,  ? users,  load average: ?, ?, ?" in told["uptime"]
        here.web.ledger.set_service(HOST, forced_down=True)
        assert fault(client.get(url))[:2] == (501, "notImplemented")


@pytest.mark.parametrize(
    ("up", "text"),
    [
        (timedelta(minutes=-5), " 00:00:00 up  0:00,  ? users,  load average: ?, ?, ?"),
        (timedelta(hours=1, seconds=59), " 01:00:59 up  1:00,  ? users,  load average: ?, ?, ?"),
        (timedelta(days=1, minutes=5), " 00:05:00 up 1 day,  0:05,  ? users,  load average: ?, ?, ?"),
        (timedelta(days=40, hours=23), " 23:00:00 up 40 days, 23:00,  ? users,  load average: ?, ?, ?"),
    ],
)
def test_given_a_time_since_the_start_when_told_then_it_is_in_the_words_of_uptime(up: timedelta, text: str) -> None:
    now = BOOTED + max(up, timedelta())
    assert uptime_text(now - up, now) == text


def test_given_a_disabled_service_when_added_up_then_its_nodes_are_left_out(
    client: TestClient, here: ServedHere
) -> None:
    before = client.get(f"{ROOT}/os-hypervisors/statistics").json()["hypervisor_statistics"]
    assert (before["count"], before["vcpus"] > 0) == (8, True)
    here.web.ledger.set_service(HOST, disabled=True, reason="x")
    after = client.get(f"{ROOT}/os-hypervisors/statistics").json()["hypervisor_statistics"]
    assert set(after.values()) == {0}
    listed = client.get(f"{ROOT}/os-hypervisors").json()["hypervisors"]
    assert {one["status"] for one in listed} == {"disabled"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"status": "disabled", "disabled_reason": "disk"}, (True, "disk", False)),
        ({"status": "disabled"}, (True, None, False)),
        ({"forced_down": True}, (False, None, True)),
        ({"status": "disabled", "forced_down": True}, (True, None, True)),
        ({"status": "enabled"}, (False, None, False)),
    ],
    ids=str,
)
def test_given_a_service_when_changed_then_the_ledger_and_the_answer_say_so(
    client: TestClient, here: ServedHere, body: dict[str, Any], expected: tuple[bool, str | None, bool]
) -> None:
    uuid = here.web.ledger.services()[0].uuid
    told = client.put(f"{ROOT}/os-services/{uuid}", json=body).json()["service"]
    (row,) = here.web.ledger.services()
    assert (row.disabled, row.disabled_reason, row.forced_down) == expected
    assert (told["status"] == "disabled", told["disabled_reason"], told["forced_down"]) == expected
    assert told["state"] == ("down" if row.forced_down else "up")
    (listed,) = client.get(f"{ROOT}/os-services?host={HOST}&binary=nova-compute").json()["services"]
    assert listed == told
    for other in ("host=elsewhere", "binary=nova-scheduler"):
        assert client.get(f"{ROOT}/os-services?{other}").json() == {"services": []}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"disabled_reason": "x"},
        {"status": "enabled", "disabled_reason": "x"},
        {"status": "off"},
        {"forced_down": "yes"},
        {"status": "disabled", "disabled_reason": ""},
        {"status": "enabled", "colour": "red"},
    ],
    ids=str,
)
def test_given_a_change_that_makes_no_sense_when_asked_then_it_is_refused_and_nothing_is_changed(
    client: TestClient, here: ServedHere, body: dict[str, Any]
) -> None:
    (before,) = here.web.ledger.services()
    assert fault(client.put(f"{ROOT}/os-services/{before.uuid}", json=body))[:2] == (400, "badRequest")
    assert here.web.ledger.services() == (before,)


def test_given_a_service_that_is_not_there_when_changed_then_nothing_is_found(client: TestClient) -> None:
    assert fault(client.put(f"{ROOT}/os-services/{NOBODY}", json={"status": "enabled"}))[0] == 404
    assert fault(client.get(f"{ROOT}/os-hosts/nobody"))[0] == 404
