"""Nova's sample through everything: ledger, fake driver, refresh, embedded Placement; the same answers as `tally`."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stocktake.cli.tally import parse_documents, tally_document
from stocktake.model.value import plain
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.context import Fleet, context_of
from tests.nova import scenarios
from tests.placement.schedulers import embedded_backend

# What a record has besides what Nova's has: its place in this ledger, and the times.
OWN = frozenset({"generation", "created_at", "updated_at", "host_ip", "owned_traits", "owned_classes", "traits"})


@contextmanager
def opened(
    tmp_path: Path, scenario: Mapping[str, Any], config: Mapping[str, Any], connection: str
) -> Iterator[Context]:
    """Open the context of the document's host under these settings."""
    specs = scenario["pci_device_spec"] or []
    with context_of(
        tmp_path,
        host=scenario["host"],
        placement={"mode": "embedded", "connection": connection},
        pci={"device_spec": specs, "report_in_placement": scenario["pci_report_in_placement"]},
        **config,
    ) as context:
        yield context


def record_of(node: Mapping[str, Any], problems: list[Mapping[str, Any]]) -> dict[str, Any]:
    """What of a record both must say alike; the order of pools and problems says nothing."""
    told = {name: value for name, value in node.items() if name not in OWN}
    for name, listed in (("pci_device_pools", node["pci_device_pools"]), ("problems", problems)):
        told[name] = sorted(json.dumps(one, sort_keys=True) for one in listed)
    return told


def node_in(fleet: Fleet, scenario: Mapping[str, Any], resources: Mapping[str, Any]) -> None:
    fleet.nodes = {scenario["node"]: {"resources": {**resources, "uuid": scenario["node_uuid"]}}}
    fleet.write()


@pytest.mark.parametrize("number", sorted(scenarios()))
def test_given_a_sample_document_when_refreshed_then_ledger_and_placement_say_what_tally_says(
    tmp_path: Path, embedded_connection: str, number: str
) -> None:
    scenario = scenarios()[number]
    (document,) = parse_documents([json.dumps(scenario).encode()], number)
    fleet = Fleet(tmp_path / "fleet.json")
    backend = embedded_backend(embedded_connection)
    with_record = scenario["mode"] != "new_node"
    if with_record:
        prior = scenario["prior"] or {"resources": {}, "config": {}}
        node_in(fleet, scenario, {**scenario["resources"], **prior["resources"]})
        with opened(tmp_path, scenario, {**scenario["config"], **prior["config"]}, embedded_connection) as context:
            assert refresh(context).fine
        for allocation in scenario["allocations"]:
            backend.allocate(allocation["consumer_uuid"], {scenario["node_uuid"]: allocation["resources"]})
    node_in(fleet, scenario, scenario["resources"])
    with opened(tmp_path, scenario, scenario["config"], embedded_connection) as context:
        context.ledger.put_instances(document.instances)
        context.ledger.put_migrations(document.migrations)
        context.ledger.register(scenario["host"], version="test")
        context.ledger.set_service(scenario["host"], disabled=scenario["service_disabled"], reason=None)
        result = refresh(context)
        assert result.fine, (result.failed, result.unsynced)
        record = context.ledger.node(scenario["node"])
        stale = [one.id for one in context.ledger.migrations(all=True) if one.status == "error"]
        providers = context.scheduler.providers(root_uuid=scenario["node_uuid"], contents=True)
        allocations = context.scheduler.allocations(scenario["node_uuid"])
        again = refresh(context)
        assert (again.changed, again.writes) == (set(), 0)
    backend.other.close()
    answer = json.loads(json.dumps(tally_document(document)))
    ours = json.loads(json.dumps(plain(record)))
    assert record_of(ours, ours["problems"]) == record_of(answer["compute_node"], answer["problems"])
    assert set(answer["migrations_set_to_error"]) <= set(stale)
    wanted = {one["name"]: one for one in answer["placement"]["providers"]}
    assert {one.name: (sorted(one.traits), sorted(one.inventories)) for one in providers} == {
        name: (one["traits"], sorted(one["inventories"])) for name, one in wanted.items()
    }
    for one in providers:
        for name, inventory in one.inventories.items():
            shown = plain(inventory)
            assert {key: shown[key] for key in wanted[one.name]["inventories"][name]} == wanted[one.name][
                "inventories"
            ][name]
    # Nova takes those of deleted instances away, and so says tally; a refresh touches no foreign ones.
    if with_record:
        assert allocations.keys() == {allocation["consumer_uuid"] for allocation in scenario["allocations"]}
