"""What the ledger holds, as the API tells it: the same that commands say, on both databases."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stocktake.model.problem import Problem
from tests.claims.desk import Time
from tests.servers.fleets import stocked
from tests.servers.serve import HOST, ServedHere, served_here


@pytest.fixture
def here(fleet_url: str, tmp_path: Path) -> Iterator[ServedHere]:
    with served_here(tmp_path, fleet_url) as made:
        yield made


def walked(here: ServedHere, path: str, limit: int) -> list[Any]:
    """Read all pages."""
    items: list[Any] = []
    marker: dict[str, str] = {}
    with here.client("viewer") as client:
        for _ in range(1000):
            page = client.get(path, params={"limit": limit, **marker}).json()
            assert len(page["items"]) <= limit
            items += page["items"]
            if page["next"] is None:
                return items
            marker = {"marker": page["next"]}
    raise AssertionError("pages without end")


@pytest.mark.parametrize("name", ["nodes", "instances", "migrations", "orphans", "problems", "services"])
def test_given_a_fleet_when_listed_by_pages_then_it_is_what_one_page_has(here: ServedHere, name: str) -> None:
    whole = here.client("viewer").get(f"/v1/{name}").json()
    assert whole["next"] is None
    assert whole["items"]
    for limit in (1, 3):
        assert walked(here, f"/v1/{name}", limit) == whole["items"]


def test_given_nodes_when_filtered_then_those_that_match_all_filters_are_listed(
    here: ServedHere, tmp_path: Path, fleet_url: str
) -> None:
    stocked(tmp_path, fleet_url, host="compute-2", nodes=3)
    ledger = here.web.ledger
    failed = ledger.node("compute-1-00002")
    ledger.note_failures({failed.uuid: Problem(code="ReportRefused", about=HOST, text="nonsense", severity="error")})
    with here.client("viewer") as client:

        def names(**params: Any) -> list[str]:
            items = client.get("/v1/nodes", params=params).json()["items"]
            return [node["hypervisor_hostname"] for node in items]

        assert len(names()) == 11
        assert names(host="compute-2") == ["compute-2-00000", "compute-2-00001", "compute-2-00002"]
        assert names(host="compute-3") == []
        assert names(name="*-1-0000[12]") == ["compute-1-00001", "compute-1-00002"]
        assert names(name="compute-?-00001") == ["compute-1-00001", "compute-2-00001"]
        assert names(state="failed") == ["compute-1-00002"]
        assert len(names(state=["failed", "up"])) == 11
        assert names(problem="ReportRefused") == ["compute-1-00002"]
        assert set(names(problem="any")) | set(names(problem="none")) == set(names())
        assert not set(names(problem="any")) & set(names(problem="none"))
        avx = names(trait="HW_CPU_X86_AVX2")
        assert avx == [node.hypervisor_hostname for node in ledger.nodes() if "HW_CPU_X86_AVX2" in node.traits]
        assert names(trait=["HW_CPU_X86_AVX2", "CUSTOM_NOWHERE"]) == []
        assert names(state="failed", host="compute-2") == []


def test_given_a_node_when_shown_then_it_is_its_record_and_what_follows_from_it(here: ServedHere) -> None:
    client = here.client("viewer")
    node = here.web.ledger.node("compute-1-00003")
    by_name = client.get("/v1/nodes/compute-1-00003").json()
    assert client.get(f"/v1/nodes/{node.uuid}").json() == by_name
    assert by_name["state"] == "up"
    assert by_name["service"]["host"] == HOST
    assert by_name["memory_mb_used"] == node.memory_mb_used
    assert (by_name["resources"]["vcpus"]["capacity"], by_name["resources"]["pcpus"]["capacity"]) == (128, 32)
    assert by_name["resources"]["memory_mb"]["reserved"] == 512


def test_given_nodes_when_listed_then_each_line_says_what_its_nodes_page_says(here: ServedHere) -> None:
    client = here.client("viewer")
    for line in client.get("/v1/nodes").json()["items"]:
        page = client.get(f"/v1/nodes/{line['uuid']}").json()
        same = line.keys() & page.keys()
        assert {"stats", "problems", "vcpus_used", "state"} <= same
        assert {name: line[name] for name in same} == {name: page[name] for name in same}
        assert line["stats"]


def test_given_a_silent_agent_when_its_nodes_are_shown_then_they_are_down_and_it_is_the_first_problem(
    fleet_url: str, tmp_path: Path
) -> None:
    clock = Time()
    clock.pass_by(timedelta(minutes=10).total_seconds())
    with served_here(tmp_path, fleet_url, clock=clock) as here:
        client = here.client("viewer")
        assert client.get("/v1/nodes/compute-1-00003").json()["state"] == "down"
        worst = client.get("/v1/problems?limit=1").json()["items"][0]
        assert (worst["code"], worst["severity"], worst["host"]) == ("agent-down", "error", HOST)
        assert "the figures of its nodes are old" in worst["text"]
        assert client.get("/v1/services?state=down").json()["items"][0]["host"] == HOST
        assert client.get("/v1/services?state=up").json()["items"] == []


def test_given_a_node_when_explained_then_every_figure_agrees_and_one_can_be_asked_for(here: ServedHere) -> None:
    client = here.client("viewer")
    whole = client.get("/v1/nodes/compute-1-00003/explain").json()
    assert whole["agrees"]
    assert {"vcpus_used", "memory_mb_used", "free_disk_gb"} <= {figure["field"] for figure in whole["figures"]}
    one = client.get("/v1/nodes/compute-1-00003/explain?field=vcpus_used").json()
    (figure,) = one["figures"]
    assert figure["recorded"] == sum(entry["vcpus"] for entry in whole["entries"])
    answer = client.get("/v1/nodes/compute-1-00003/explain?field=vcpu_used")
    assert (answer.status_code, "Did you mean vcpus_used" in answer.text) == (404, True)


def test_given_a_node_when_its_history_is_asked_then_it_begins_with_what_holds_now_and_a_span_can_be_given(
    here: ServedHere,
) -> None:
    client = here.client("viewer")
    now = client.get("/v1/nodes/compute-1-00003").json()
    (one,) = client.get("/v1/nodes/compute-1-00003/history").json()["items"]
    assert {name: one[name] for name in ("vcpus_used", "memory_mb_used", "local_gb_used", "running_vms")} == {
        name: now[name] for name in ("vcpus_used", "memory_mb_used", "local_gb_used", "running_vms")
    }
    assert client.get("/v1/nodes/compute-1-00003/history?since_s=60").json()["items"] == [one]
    assert client.get("/v1/nodes/compute-1-00003/history?since_s=0").status_code == 400
    assert client.get("/v1/nodes/nobody/history").status_code == 404


def test_given_instances_when_filtered_or_asked_for_by_name_then_they_are_the_ledgers(here: ServedHere) -> None:
    client, ledger = here.client("viewer"), here.web.ledger
    node = ledger.node("compute-1-00001")
    for place in ("compute-1-00001", node.uuid):
        items = client.get("/v1/instances", params={"node": place}).json()["items"]
        wanted = [one.uuid for one in ledger.instances(host=HOST, node="compute-1-00001")]
        assert [one["uuid"] for one in items] == wanted
    some, gone = items[:2]
    ledger.delete_instances([gone["uuid"]])
    alive = {one["uuid"] for one in client.get("/v1/instances").json()["items"]}
    every = {one["uuid"]: one["deleted"] for one in client.get("/v1/instances?deleted=true").json()["items"]}
    assert every.keys() - alive == {gone["uuid"]}
    assert every[gone["uuid"]]
    assert client.get(f"/v1/instances/{some['uuid']}").json() == some
    assert client.get(f"/v1/instances/{some['name']}").json() == some
    near = client.get(f"/v1/instances/{some['name'][:-1]}")
    assert (near.status_code, some["name"] in near.text) == (404, True)
    assert client.get("/v1/instances?node=nowhere").status_code == 404


def test_given_migrations_when_asked_for_then_those_in_play_are_listed_and_others_if_asked(here: ServedHere) -> None:
    client, ledger = here.client("viewer"), here.web.ledger
    in_play = [one["id"] for one in client.get("/v1/migrations").json()["items"]]
    every = [one["id"] for one in client.get("/v1/migrations?all=true").json()["items"]]
    assert in_play == [one.id for one in ledger.migrations()]
    assert every == [one.id for one in ledger.migrations(all=True)]
    assert set(in_play) < set(every)
    over = min(set(every) - set(in_play))
    assert client.get(f"/v1/migrations/{over}").json()["id"] == over
    assert client.get("/v1/migrations/999999").status_code == 404


def test_given_unmanaged_guests_when_listed_then_each_says_where_it_is_and_kinds_can_be_told_apart(
    here: ServedHere,
) -> None:
    client = here.client("viewer")
    items = client.get("/v1/orphans").json()["items"]
    assert {one["kind"] for one in items} == {"orphan", "misplaced"}
    assert all(one["node"].startswith("compute-1-") and one["host"] == HOST for one in items)
    orphans = client.get("/v1/orphans?kind=orphan").json()["items"]
    assert orphans == [one for one in items if one["kind"] == "orphan"]
    node = orphans[0]["node"]
    assert client.get("/v1/orphans", params={"node": node}).json()["items"] == [
        one for one in items if one["node"] == node
    ]
    assert client.get("/v1/orphans?host=compute-2").json()["items"] == []
    problems = client.get("/v1/problems?code=orphan").json()["items"]
    assert {one["about"] for one in problems} == {one["id"] for one in orphans}


def test_given_somebody_when_he_asks_who_he_is_then_he_is_told(here: ServedHere) -> None:
    assert here.client("agent").get("/v1/whoami").json() | {"token": ""} == {"role": "agent", "host": HOST, "token": ""}
    assert here.client("operator").get("/v1/whoami").json()["host"] is None
