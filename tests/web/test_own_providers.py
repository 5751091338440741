"""What of Placement an agent's token opens: its own host's providers, and names."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from stocktake.ledger import NodeSave
from stocktake.model.books import ComputeNode, Tally
from stocktake.model.value import replace
from stocktake.placement.desired import child_uuid
from tests.refresh.test_identity import a_node
from tests.servers.serve import HOST, OTHER_HOST, ServedHere, served_here

ROOT = "/placement"
STOCK = {"resource_provider_generation": 0, "inventories": {"VCPU": {"total": 4}}}


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory, embedded_connection: str) -> Iterator[ServedHere]:
    directory = tmp_path_factory.mktemp("served")
    with served_here(directory, placement__mode="embedded", placement__connection=embedded_connection) as made:
        yield made


def client_of(here: ServedHere, name: str) -> TestClient:
    made = here.client(name)
    made.headers.update({"OpenStack-API-Version": "placement 1.39"})
    return made


def a_node_of(here: ServedHere, host: str) -> ComputeNode:
    """Put a node of a host into the ledger, of which Placement does not know yet."""
    made = replace(a_node(), uuid=str(uuid.uuid4()), host=host, hypervisor_hostname=f"n-{uuid.uuid4()}")
    save = NodeSave(tally=Tally(node=made, entries=()), expected_generation=None)
    return here.web.ledger.save([save]).saved[made.uuid]


def a_child_of(node: ComputeNode, address: str = "0000:81:00.0") -> dict[str, str]:
    """Say what the provider of one of a node's devices is made of."""
    name = f"{node.hypervisor_hostname}_{address}"
    return {"name": name, "uuid": child_uuid(node.uuid, name), "parent_provider_uuid": node.uuid}


def made_of(client: TestClient, **provider: Any) -> int:
    """Make a provider; give the status of the answer."""
    return client.post(f"{ROOT}/resource_providers", json={"name": f"p-{uuid.uuid4()}", **provider}).status_code


def test_given_an_agent_when_it_reports_its_own_node_then_all_of_it_is_done(here: ServedHere) -> None:
    agent, mine = client_of(here, "agent"), a_node_of(here, HOST)
    device = a_child_of(mine)
    child = device["uuid"]
    assert made_of(agent, uuid=mine.uuid, name=mine.hypervisor_hostname) == 200
    assert made_of(agent, **device) == 200
    # Whoever finds them under other names gives them theirs.
    client_of(here, "operator").put(f"{ROOT}/resource_providers/{mine.uuid}", json={"name": f"p-{uuid.uuid4()}"})
    named = {"name": mine.hypervisor_hostname, "parent_provider_uuid": None}
    assert agent.put(f"{ROOT}/resource_providers/{mine.uuid}", json=named).status_code == 200
    renamed = {"name": device["name"], "parent_provider_uuid": mine.uuid}
    assert agent.put(f"{ROOT}/resource_providers/{child}", json=renamed).status_code == 200
    trait = f"CUSTOM_{uuid.uuid4().hex.upper()}"
    assert agent.put(f"{ROOT}/traits/{trait}").status_code == 201
    for provider in (mine.uuid, child):
        path = f"{ROOT}/resource_providers/{provider}"
        assert agent.put(f"{path}/inventories", json=STOCK).status_code == 200
        said = {"resource_provider_generation": 1, "traits": [trait]}
        assert agent.put(f"{path}/traits", json=said).status_code == 200
        assert agent.get(f"{path}/usages").status_code == 200
    listed = agent.get(f"{ROOT}/resource_providers", params={"in_tree": mine.uuid}).json()["resource_providers"]
    assert {one["uuid"] for one in listed} == {mine.uuid, child}
    here.web.ledger.delete_node(mine.uuid)
    for provider in (child, mine.uuid):
        assert agent.delete(f"{ROOT}/resource_providers/{provider}").status_code == 204
        assert agent.get(f"{ROOT}/resource_providers/{provider}").status_code == 404
    here.web.ledger.note_provider_deleted([mine.uuid])
    assert made_of(agent, uuid=mine.uuid, name=mine.hypervisor_hostname) == 403


def test_given_an_agent_when_it_asks_for_another_hosts_then_it_is_refused(here: ServedHere) -> None:
    agent, operator = client_of(here, "agent"), client_of(here, "operator")
    mine, theirs, child = a_node_of(here, HOST), a_node_of(here, OTHER_HOST), str(uuid.uuid4())
    assert [made_of(operator, uuid=one.uuid) for one in (mine, theirs)] == [200, 200]
    assert made_of(operator, uuid=child, parent_provider_uuid=theirs.uuid) == 200
    assert made_of(agent) == made_of(agent, uuid=str(uuid.uuid4())) == 403
    assert made_of(agent, parent_provider_uuid=theirs.uuid) == 403
    assert made_of(agent, uuid=mine.uuid, parent_provider_uuid=child) == 403
    no_json = f'{{"name": "n", "uuid": "{uuid.uuid4()}", "x": NaN}}'
    typed = {"Content-Type": "application/json"}
    assert agent.post(f"{ROOT}/resource_providers", content=no_json, headers=typed).status_code == 400
    for provider in (theirs.uuid, theirs.uuid.upper(), child):
        path = f"{ROOT}/resource_providers/{provider}"
        answers = [
            agent.get(path),
            agent.get(f"{path}/inventories"),
            agent.put(f"{path}/inventories", json=STOCK),
            agent.put(path, json={"name": "mine now"}),
            agent.delete(path),
        ]
        assert [one.status_code for one in answers] == [403] * 5
        assert HOST in answers[0].json()["errors"][0]["detail"]
    moved = {"name": "n", "parent_provider_uuid": theirs.uuid}
    assert agent.put(f"{ROOT}/resource_providers/{mine.uuid}", json=moved).status_code == 403
    consumer = uuid.uuid4()
    assert agent.get(f"{ROOT}/allocations/{consumer}").status_code == 403
    assert agent.put(f"{ROOT}/allocations/{consumer}", json={"allocations": {}}).status_code == 403
    assert agent.delete(f"{ROOT}/traits/CUSTOM_X").status_code == 403
    assert agent.get(f"{ROOT}/resource_providers/{mine.uuid}%2F..%2F{theirs.uuid}").status_code == 403


LATE = "compute-9"


def squatters(mine: ComputeNode, child: dict[str, str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Ways to take the name of a host to come, with what is the agent's own."""
    providers = f"{ROOT}/resource_providers"
    name = mine.hypervisor_hostname
    for wanted in (
        LATE,
        name.upper(),
        f"{name} ",
        f" {name}",
        f"{name}\u200b",
        name.replace("n", "\u0578"),
        "",
        None,
        7,
        [name],
    ):
        yield "POST", providers, {"name": wanted, "uuid": mine.uuid}
        yield "PUT", f"{providers}/{mine.uuid}", {"name": wanted}
        yield "PUT", f"{providers}/{mine.uuid.upper()}", {"name": wanted}
    for end in ("", "_", "_x", f"_{LATE}", "_0000:81:00.8", "_0000:81:00.0\n", "_\u0660000:81:00.0", "_0000:81:00.0x"):
        yield "POST", providers, {**child, "name": name + end, "uuid": child_uuid(mine.uuid, name + end)}
        yield "PUT", f"{providers}/{child['uuid']}", {"name": name + end}
    yield "POST", providers, {**child, "name": LATE, "uuid": child_uuid(mine.uuid, LATE)}
    yield "POST", providers, {**child, "uuid": str(uuid.uuid4())}
    yield "POST", providers, {key: value for key, value in child.items() if key != "uuid"}
    yield "POST", providers, {**child, "parent_provider_uuid": mine.uuid.upper()}
    yield "POST", providers, {**child, "parent_provider_uuid": None}
    yield "POST", providers, {"name": name}
    yield "POST", providers, {"name": name, "uuid": mine.uuid.upper()}
    yield "PUT", f"{providers}/{child['uuid']}", {"name": LATE, "parent_provider_uuid": mine.uuid}
    yield "PUT", f"{providers}/{child['uuid']}", {"name": child["name"], "parent_provider_uuid": child["uuid"]}
    yield "PUT", f"{providers}/{mine.uuid}", {"name": name, "parent_provider_uuid": child["uuid"]}


def test_given_an_agent_when_it_gives_any_provider_a_name_that_is_not_its_own_then_it_is_refused(
    here: ServedHere,
) -> None:
    agent, operator, mine = client_of(here, "agent"), client_of(here, "operator"), a_node_of(here, HOST)
    child = a_child_of(mine)
    assert made_of(agent, uuid=mine.uuid, name=mine.hypervisor_hostname) == made_of(agent, **child) == 200
    before = operator.get(f"{ROOT}/resource_providers").json()
    for method, path, body in squatters(mine, child):
        answer = agent.request(method, path, json=body)
        assert answer.status_code == 403, (method, path, body, answer.text)
    others: tuple[object, ...] = ([], "name", None, 1)
    for other in others:
        assert agent.post(f"{ROOT}/resource_providers", json=other).status_code == 403
        assert agent.put(f"{ROOT}/resource_providers/{mine.uuid}", json=other).status_code == 403
    # As another media type than what is checked.
    text = f'{{"name": "{LATE}"}}'
    sent = agent.put(f"{ROOT}/resource_providers/{mine.uuid}", content=text, headers={"Content-Type": "text/json"})
    assert sent.status_code == 403
    assert operator.get(f"{ROOT}/resource_providers").json() == before
    assert made_of(operator, name=LATE) == 200


def test_given_an_agent_when_it_calls_its_node_as_another_host_is_called_then_the_node_gets_no_provider(
    here: ServedHere,
) -> None:
    agent = client_of(here, "agent")
    for name in (OTHER_HOST, f"{OTHER_HOST}.example.org"):
        mine = replace(a_node(), uuid=str(uuid.uuid4()), host=HOST, hypervisor_hostname=name)
        here.web.ledger.save([NodeSave(tally=Tally(node=mine, entries=()), expected_generation=None)])
        assert made_of(agent, uuid=mine.uuid, name=name) == 403
    assert made_of(client_of(here, "other"), name=OTHER_HOST) == 403
