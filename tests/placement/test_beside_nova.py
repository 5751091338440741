"""
One Placement for stocktake and a Nova: what Nova's own commands and scheduler do with what is ours.

Keystone, Placement, `nova-manage` and the scheduler's code that asks Placement are real. Of Nova's hosts there is a
provider only, and a row for its compute service.
"""

import uuid
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from stocktake.placement.allocations import read_held
from stocktake.placement.session import PlacementSession, open_remote
from stocktake.refresh.run import refresh
from tests.context import Fleet, an_instance, context_of
from tests.placement.making import Section
from tests.placement.schedulers import some_name
from tests.servers.keystone import SERVICE, Cloud
from tests.servers.nova import Nova, nova_beside
from tests.servers.postgres import private_postgres

# Nova's scheduler asks for its own providers once all its compute services are of version 73.
UPGRADED, OLDER = 74, 72
OURS = 4
SIZE = {"vcpus": 1, "memory_mb": 64}
FORBIDDEN = "CUSTOM_STOCKTAKE"
_PROVIDERS = f"""
meta: {{schema_version: "1.0"}}
providers:
  - identification: {{uuid: $COMPUTE_NODE}}
    traits: {{additional: [{FORBIDDEN}]}}
"""


class _Candidates(msgspec.Struct):
    allocation_requests: list[object]
    provider_summaries: dict[str, object]


@pytest.fixture(scope="module")
def nova(tmp_path_factory: pytest.TempPathFactory, cloud: Cloud) -> Iterator[Nova]:
    with private_postgres() as postgres, nova_beside(tmp_path_factory.mktemp("nova"), postgres, cloud.keystone) as made:
        made.add_compute("nova-1", version=OLDER)
        yield made


@pytest.fixture
def other(cloud: Cloud) -> Iterator[PlacementSession]:
    """Somebody else who reads and writes Placement."""
    session = open_remote(Section(**placement_of(cloud)))  # type: ignore[arg-type]
    yield session
    session.close()


def placement_of(cloud: Cloud) -> dict[str, object]:
    auth = cloud.keystone.auth_of(SERVICE)
    return {"mode": "remote", "auth_type": "password", "auth": auth, "cafile": cloud.cafile, "timeout_s": 20.0}


def test_given_novas_audit_took_our_allocations_when_refreshed_then_they_are_back_and_the_node_says_so_once(
    tmp_path: Path, cloud: Cloud, nova: Nova, other: PlacementSession
) -> None:
    name, guests = some_name(), sorted(str(uuid.uuid4()) for _ in range(2))
    Fleet(tmp_path / "fleet.json").has(name)
    with context_of(tmp_path, placement=placement_of(cloud), allocations="own") as context:
        context.ledger.put_instances([an_instance(guest, host="alpha", node=name) for guest in guests])
        for _ in range(2):
            assert refresh(context).fine
        root = context.ledger.node(name).uuid
        held, _ = read_held(other, [root])
        assert held.keys() == set(guests)
        # It finds leaked ones (3), and takes them (4).
        found = nova.manage("placement", "audit", "--verbose", codes=(3,))
        assert all(f"Allocations were set against consumer UUID {guest}" in found for guest in guests)
        nova.manage("placement", "audit", "--delete", "--verbose", codes=(4,))
        assert read_held(other, [root])[0] == {}

        refresh(context)
        (problem,) = context.ledger.node(name).problems
        assert (problem.code, problem.severity) == ("placement-allocation-removed", "warning")
        assert problem.text == f"somebody deleted the allocations of {', '.join(guests)} on it; they are written again"
        assert read_held(other, [root])[0] == held
        assert refresh(context).fine
        assert context.ledger.node(name).problems == ()


def test_given_providers_of_ours_when_novas_scheduler_asks_then_its_release_and_settings_say_whether_it_finds_them(
    tmp_path: Path, cloud: Cloud, nova: Nova, other: PlacementSession
) -> None:
    fleet = Fleet(tmp_path / "fleet.json")
    for _ in range(OURS):
        fleet.has(some_name())
    (tmp_path / "provider_config").mkdir()
    (tmp_path / "provider_config" / "ours.yaml").write_text(_PROVIDERS)
    zone = nova.add_aggregate("zone", availability_zone="nova-1")
    tenants = nova.add_aggregate("tenants", filter_tenant_id="p")
    apart = nova.add_aggregate("apart", **{f"trait:{FORBIDDEN}": "required"})
    theirs = provider_of_nova(other, zone, tenants)
    placement = placement_of(cloud)
    with context_of(tmp_path, placement=placement, provider_config_location=tmp_path / "provider_config") as context:
        assert refresh(context).fine
        ours = {node.uuid for node in context.ledger.nodes()}
        for root in ours:
            put_into(other, root, apart)
        # What others put a provider of ours into stays.
        assert refresh(context).fine
    everybody = {*ours, theirs}

    (plain, few, by_zone, by_tenant, by_flavor, isolated) = nova.asks(
        SIZE,
        {**SIZE, "settings": {"scheduler.max_placement_results": 3}},
        {**SIZE, "availability_zone": "nova-1"},
        {**SIZE, "settings": {"scheduler.limit_tenants_to_placement_aggregate": True}},
        {**SIZE, "extra_specs": {f"trait:{FORBIDDEN}": "forbidden"}},
        {**SIZE, "settings": {"scheduler.enable_isolated_aggregate_filtering": True}},
    )
    assert "OWNER_NOVA" not in plain
    assert found(other, plain) & everybody == everybody
    # Of a limited answer ours take places of Nova's.
    assert len(found(other, few)) == 3
    assert found(other, few) - {theirs}
    for query in (by_zone, by_tenant, by_flavor, isolated):
        assert found(other, query) & everybody == {theirs}, query

    nova.set_compute_version(UPGRADED)
    (upgraded,) = nova.asks(SIZE)
    nova.set_compute_version(OLDER)
    assert "root_required=OWNER_NOVA%2C%21COMPUTE_STATUS_DISABLED" in upgraded
    assert found(other, upgraded) & everybody == {theirs}


def provider_of_nova(other: PlacementSession, *aggregates: str) -> str:
    """Make what a nova-compute makes of its host, and give its uuid."""
    made = str(uuid.uuid4())
    path = f"/resource_providers/{made}"
    inventories = {"VCPU": {"total": 8}, "MEMORY_MB": {"total": 8192}}
    for method, where, body in (
        ("POST", "/resource_providers", {"uuid": made, "name": some_name()}),
        ("PUT", f"{path}/inventories", {"resource_provider_generation": 0, "inventories": inventories}),
        ("PUT", f"{path}/traits", {"resource_provider_generation": 1, "traits": ["OWNER_NOVA", "COMPUTE_NODE"]}),
    ):
        answer = other.write(method, where, body)
        assert answer.fine, answer
    put_into(other, made, *aggregates)
    return made


def put_into(other: PlacementSession, provider: str, *aggregates: str) -> None:
    """Put a provider into aggregates."""
    path = f"/resource_providers/{provider}"
    generation = other.get(path).read(dict[str, object])["generation"]
    body = {"resource_provider_generation": generation, "aggregates": aggregates}
    answer = other.write("PUT", f"{path}/aggregates", body)
    assert answer.fine, answer


def found(other: PlacementSession, query: str) -> set[str]:
    """Give the providers that a query of the scheduler's finds."""
    answer = other.get(f"/allocation_candidates?{query}")
    assert answer.fine, answer
    return set(answer.read(_Candidates).provider_summaries)
