"""What is changed through the API: services, nodes, instances, claims and moves, on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.claims.desk import Time
from tests.servers.fleets import stocked
from tests.servers.serve import HOST, ServedHere, served_here

SMALL = {"vcpus": 1, "memory_mb": 512, "root_gb": 1}
UUID = "2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10"
NODES = ("compute-1-00003", "compute-1-00007")


@pytest.fixture
def here(fleet_url: str, tmp_path: Path) -> Iterator[ServedHere]:
    with served_here(tmp_path, fleet_url) as made:
        yield made


@pytest.fixture
def client(here: ServedHere) -> TestClient:
    return here.client("operator")


def claimed(client: TestClient, **body: Any) -> Any:
    answer = client.post("/v1/claims", json={"flavor": SMALL, **body})
    assert answer.status_code == 201, answer.text[:300]
    return answer.json()


def test_given_a_service_when_disabled_and_enabled_then_its_row_says_so_and_fit_leaves_it_out(
    client: TestClient,
) -> None:
    done = client.post(f"/v1/services/{HOST}/disable", json={"reason": "new memory"}).json()
    assert (done["disabled"], done["disabled_reason"]) == (True, "new memory")
    assert client.get(f"/v1/services/{HOST}").json() == done
    assert client.get("/v1/services?disabled=false").json()["items"] == []
    fit = client.post("/v1/fit", json={"flavor": SMALL}).json()
    assert fit["fitting"] == []
    assert {reason["what"] for one in fit["refused"] for reason in one["reasons"]} == {"state.disabled"}
    done = client.post(f"/v1/services/{HOST}/enable").json()
    assert (done["disabled"], done["disabled_reason"]) == (False, None)
    near = client.post("/v1/services/compute-11/enable")
    assert (near.status_code, f"Did you mean {HOST}?" in near.text) == (404, True)


def test_given_a_machine_when_a_place_is_looked_for_then_the_best_node_is_first_and_nothing_is_promised(
    client: TestClient, here: ServedHere
) -> None:
    before = here.web.ledger.nodes()
    fit = client.post("/v1/fit", json={"flavor": SMALL, "nodes": list(NODES)}).json()
    assert {one["hypervisor_hostname"] for one in fit["fitting"]} == set(NODES)
    assert [one["rank"] for one in fit["fitting"]] == [1, 2]
    assert fit["fitting"][0]["score"] >= fit["fitting"][1]["score"]
    room = next(room for room in fit["fitting"][0]["resources"] if room["what"] == "MEMORY_MB")
    assert room["free_after"] == room["free"] - 512
    huge = client.post("/v1/fit", json={"flavor": {**SMALL, "memory_mb": 10**9}}).json()
    assert (huge["fitting"], len(huge["refused"])) == ([], 8)
    wrong = client.post("/v1/fit", json={"flavor": {**SMALL, "extra_specs": {"trait:HW_CPU_X86_AVX3": "required"}}})
    assert (wrong.status_code, "HW_CPU_X86_AVX2" in wrong.text) == (400, True)
    assert here.web.ledger.nodes() == before


def test_given_a_claim_when_made_kept_and_released_then_the_node_has_it_and_has_it_no_more(
    client: TestClient, here: ServedHere
) -> None:
    before = here.web.ledger.node(NODES[0])
    done = claimed(client, node=NODES[0], name="web-1", uuid=UUID, project_id="blue", expires_s=60)
    assert (done["instance"]["uuid"], done["instance"]["project_id"]) == (UUID, "blue")
    assert done["expires_at"] is not None
    assert here.web.ledger.node(NODES[0]).memory_mb_used == before.memory_mb_used + 512
    assert client.post("/v1/claims", json={"flavor": SMALL, "uuid": UUID}).status_code == 409
    later = client.post("/v1/instances/web-1/renew", json={"expires_s": 3600}).json()
    assert later["expires_at"] > done["expires_at"]
    assert client.post("/v1/instances/web-1/renew", json={"expires_s": "never"}).json()["expires_at"] is None
    kept = client.post(f"/v1/instances/{UUID}/keep").json()
    assert (kept["instance"]["vm_state"], kept["expires_at"]) == ("active", None)
    assert client.post(f"/v1/instances/{UUID}/abort").status_code == 409
    client.post(f"/v1/instances/{UUID}/release")
    assert here.web.ledger.node(NODES[0]).memory_mb_used == before.memory_mb_used
    assert client.get(f"/v1/instances/{UUID}").status_code == 404


def test_given_a_claim_when_repeated_with_its_uuid_then_it_is_answered_the_same_and_there_is_one(
    client: TestClient, here: ServedHere
) -> None:
    first = claimed(client, name="web-1", uuid=UUID)
    for body in ({"uuid": UUID}, {"uuid": UUID, "node": first["instance"]["node"]}):
        again = claimed(client, name="web-1", **body)
        assert (again["instance"], again["expires_at"]) == (first["instance"], first["expires_at"])
    other = next(node for node in NODES if node != first["instance"]["node"])
    for body, differs in (({"name": "web-2"}, "name"), ({"name": "web-1", "node": other}, "node")):
        answer = client.post("/v1/claims", json={"flavor": SMALL, "uuid": UUID, **body})
        assert (answer.status_code, answer.json()["code"]) == (409, "AlreadyThere")
        assert f"another {differs}" in answer.text
    assert len(here.web.ledger.instances(named=UUID)) == 1


@pytest.mark.parametrize("key", [UUID, f'"{UUID}"'], ids=["bare", "quoted"])
def test_given_an_idempotency_key_when_a_claim_is_repeated_then_it_is_the_claims_uuid(
    client: TestClient, key: str
) -> None:
    for body in ({}, {}, {"uuid": UUID}):
        answer = client.post("/v1/claims", json={"flavor": SMALL, **body}, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["instance"]["uuid"]) == (201, UUID)


@pytest.mark.parametrize(("key", "said"), [("17", "not a uuid"), (UUID.replace("2f", "3f"), "not the body's uuid")])
def test_given_an_idempotency_key_that_is_wrong_when_claimed_then_it_is_refused(
    client: TestClient, here: ServedHere, key: str, said: str
) -> None:
    answer = client.post("/v1/claims", json={"flavor": SMALL, "uuid": UUID}, headers={"Idempotency-Key": key})
    assert (answer.status_code, said in answer.text) == (400, True)
    assert here.web.ledger.instances(named=UUID) == ()


def test_given_no_room_when_claimed_then_every_reason_is_told_in_words_and_numbers(client: TestClient) -> None:
    huge = {**SMALL, "memory_mb": 10**9}
    answer = client.post("/v1/claims", json={"flavor": huge})
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (409, "ClaimRefused")
    assert len(problem["refused"]) == 8
    named = client.post("/v1/claims", json={"flavor": huge, "node": NODES[0], "limits": {"memory_mb": 100}}).json()
    (refused,) = named["refused"]
    assert (refused["node"], refused["by"]) == (NODES[0], "books")
    assert {"MEMORY_MB"} == {reason["what"] for reason in refused["reasons"]}
    narrow = client.post("/v1/claims", json={"flavor": SMALL, "limits": {"vcpus": 0}})
    assert (narrow.status_code, len(narrow.json()["refused"])) == (409, 8)


@pytest.mark.parametrize("end", ["confirm", "revert"])
def test_given_a_machine_when_resized_then_it_holds_both_sides_until_it_is_settled(
    client: TestClient, here: ServedHere, end: str
) -> None:
    uuid = claimed(client, node=NODES[0])["instance"]["uuid"]
    client.post(f"/v1/instances/{uuid}/keep")
    larger = {**SMALL, "memory_mb": 1024}
    begun = client.post(f"/v1/instances/{uuid}/move", json={"kind": "resize", "flavor": larger, "node": NODES[1]})
    assert begun.status_code == 201, begun.text[:300]
    assert begun.json()["migration"]["dest_node"] == NODES[1]
    assert client.post(f"/v1/instances/{uuid}/{end}").status_code == 409
    assert client.post(f"/v1/instances/{uuid}/finish").json()["instance"]["node"] == NODES[1]
    done = client.post(f"/v1/instances/{uuid}/{end}").json()
    assert done["instance"]["node"] == (NODES[1] if end == "confirm" else NODES[0])
    assert here.web.ledger.instances(named=uuid)[0].flavor.memory_mb == (1024 if end == "confirm" else 512)


def test_given_moves_of_other_kinds_when_begun_then_each_takes_what_it_needs_and_nothing_else(
    client: TestClient,
) -> None:
    uuid = claimed(client, node=NODES[0])["instance"]["uuid"]
    client.post(f"/v1/instances/{uuid}/keep")
    for kind in ("migration", "live-migration"):
        begun = client.post(f"/v1/instances/{uuid}/move", json={"kind": kind, "node": NODES[1]})
        assert begun.status_code == 201, begun.text[:300]
        assert client.post(f"/v1/instances/{uuid}/abort").json()["instance"]["node"] == NODES[0]
    alive = client.post(f"/v1/instances/{uuid}/move", json={"kind": "evacuation", "node": NODES[1]})
    assert (alive.status_code, "its agent is alive" in alive.text) == (409, True)
    forced = {"kind": "evacuation", "node": NODES[1], "force": True}
    assert client.post(f"/v1/instances/{uuid}/move", json=forced).status_code == 201
    for wrong in ({"kind": "resize"}, {"kind": "migration", "flavor": SMALL}, {"kind": "walk"}, {}):
        assert client.post(f"/v1/instances/{uuid}/move", json=wrong).status_code == 400
    assert client.post(f"/v1/instances/{uuid}/unshelve", json={}).status_code == 409


def test_given_an_instance_when_deleted_then_its_record_stays_and_a_name_is_as_good_as_a_uuid(
    client: TestClient, here: ServedHere
) -> None:
    instance = here.web.ledger.instances(node=NODES[0])[0]
    assert client.delete(f"/v1/instances/{instance.name}").status_code == 204
    assert client.delete(f"/v1/instances/{instance.uuid}").status_code == 404
    assert instance.uuid in {one.uuid for one in here.web.ledger.instances(deleted=True) if one.deleted}


def test_given_a_node_when_deleted_then_only_one_that_is_empty_and_not_looked_after_goes(
    fleet_url: str, tmp_path: Path
) -> None:
    clock = Time()
    stocked(tmp_path, fleet_url, host="compute-2", nodes=1)
    with served_here(tmp_path, fleet_url, clock=clock) as here:
        client = here.client("operator")
        full = client.delete("/v1/nodes/compute-2-00000")
        assert (full.status_code, "instances" in full.text) == (409, True)
        here.web.ledger.delete_instances([one.uuid for one in here.web.ledger.instances(host="compute-2")])
        alive = client.delete("/v1/nodes/compute-2-00000")
        assert (alive.status_code, "alive" in alive.text) == (409, True)
        clock.pass_by(3600)
        assert client.delete("/v1/nodes/compute-2-00000").json() == {"provider_left": None}
        assert client.delete("/v1/nodes/compute-2-00000").status_code == 404
        assert len(here.web.ledger.nodes()) == 8
