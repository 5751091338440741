"""Support cases: Nova's sample through `tally`, differing only where the rules say so; and wrong documents."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.cli.documents import Document, parse_documents, read_documents, tally_document
from stocktake.errors import InvalidInput
from tests.nova import (
    SCENARIOS,
    counts_where_nova_does_not,
    cut_disk_gb,
    expected,
    first_ratios,
    latest_only,
    scenarios,
)


def answer_to(document: Document) -> dict[str, Any]:
    """What a program that reads the JSON gets."""
    answer: dict[str, Any] = json.loads(json.dumps(tally_document(document)))
    return answer


ANSWERS = {document.id: answer_to(document) for document in read_documents(SCENARIOS)}
SOUND = [number for number in ANSWERS if "error" not in expected()[number]]


def test_given_the_sample_when_tallied_then_every_document_has_an_answer() -> None:
    assert len(ANSWERS) == 60
    assert all("error" not in answer for answer in ANSWERS.values())


@pytest.mark.parametrize("number", SOUND)
def test_given_a_sample_document_when_tallied_then_the_record_is_novas_but_for_the_listed_differences(
    number: str,
) -> None:
    answer, nova, scenario = ANSWERS[number], expected()[number], scenarios()[number]
    ours, theirs = dict(answer["compute_node"]), dict(nova["compute_node"])
    more = [
        entry
        for entry in answer["entries"]
        if entry["kind"] == "migration" and entry["id"] in counts_where_nova_does_not(scenario, answer)
    ]
    _without_disk_and_moves(ours, theirs, scenario, answer["entries"], more)
    if scenario["mode"] == "new_node":
        for name, initial in first_ratios(scenario).items():
            assert theirs.pop(name) == initial
            assert ours.pop(name) == (scenario["config"][name] or initial)
    # Difference 7: our stats are numbers, Nova's are strings.
    ours["stats"] = {name: None if value is None else str(value) for name, value in ours["stats"].items()}
    ours["pci_device_pools"] = _sorted(ours["pci_device_pools"])
    theirs["pci_device_pools"] = _sorted(theirs["pci_device_pools"])
    assert {name: ours[name] for name in theirs} == theirs


def _without_disk_and_moves(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    scenario: Mapping[str, Any],
    entries: list[Mapping[str, Any]],
    more: list[Mapping[str, Any]],
) -> None:
    """Check the figures that differences 1 and 5 change to differ by just that, and take them out."""
    disks_mb = [entry["disk_mb"] for entry in entries if entry["kind"] != "reserved" and entry not in more]
    exact_mb = sum(entry["disk_mb"] for entry in entries)
    nova_gb = theirs.pop("local_gb_used")
    assert nova_gb == cut_disk_gb(scenario, disks_mb)
    assert theirs.pop("free_disk_gb") == theirs["local_gb"] - nova_gb
    assert ours.pop("local_gb_used") == -(-exact_mb // 1024)
    assert ours.pop("free_disk_gb") == ours["local_gb"] + exact_mb // -1024
    for name, sign, field in (
        ("vcpus_used", 1, "vcpus"),
        ("memory_mb_used", 1, "memory_mb"),
        ("free_ram_mb", -1, "memory_mb"),
    ):
        assert ours.pop(name) == theirs.pop(name) + sign * sum(entry[field] for entry in more)
    if any(entry["cells"] for entry in more):
        del theirs["numa_topology"]


@pytest.mark.parametrize("number", SOUND)
def test_given_a_sample_document_when_tallied_then_who_counts_is_novas_but_for_stale_migrations(number: str) -> None:
    answer, nova, scenario = ANSWERS[number], expected()[number], scenarios()[number]
    counted = {
        kind: {entry["id"] for entry in answer["entries"] if entry["kind"] == kind}
        for kind in ("instance", "migration")
    }
    assert counted["instance"] == set(nova["tracked_instances"])
    more = counts_where_nova_does_not(scenario, answer)
    assert counted["migration"] - more == set(nova["tracked_migrations"])
    for uuid in more:
        # Only where Nova was looking at a later migration than the one that the instance's context names.
        (named,) = (one["migration_context"]["migration_id"] for one in scenario["instances"] if one["uuid"] == uuid)
        others = [one["id"] for one in scenario["migrations"] if one["instance_uuid"] == uuid and one["id"] != named]
        assert set(others) & set(nova["migrations_set_to_error"])
    assert latest_only(scenario, answer["migrations_set_to_error"]) == nova["migrations_set_to_error"]


@pytest.mark.parametrize("number", SOUND)
def test_given_a_sample_document_when_tallied_then_placement_is_novas_but_for_its_owner(number: str) -> None:
    ours, theirs = ANSWERS[number]["placement"], expected()[number]["placement"]
    assert ours["allocations"] == theirs["allocations"]
    without_owner = [
        {**provider, "traits": [trait for trait in provider["traits"] if trait != "OWNER_NOVA"]}
        for provider in theirs["providers"]
    ]
    assert ours["providers"] == without_owner


def test_given_the_guest_that_made_novas_refresh_fail_when_tallied_then_the_node_is_counted_and_says_why() -> None:
    (number,) = set(ANSWERS) - set(SOUND)
    answer, scenario = ANSWERS[number], scenarios()[number]
    codes = {problem["code"] for problem in answer["problems"]}
    assert codes == {"page-size-unknown"}
    counted = {entry["id"] for entry in answer["entries"] if entry["kind"] == "instance"}
    guests = [one for one in scenario["instances"] if one["uuid"] in counted]
    assert answer["compute_node"]["vcpus_used"] == scenario["config"]["reserved_host_cpus"] + sum(
        one["flavor"]["vcpus"] for one in guests
    )


def a_document(**changes: object) -> bytes:
    scenario = next(iter(scenarios().values()))
    return json.dumps({**scenario, **changes}).encode()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "line 2"),
        (b"[]", "line 2: Expected `object`"),
        (b"\xff", "line 2"),
        (a_document(node_uuid=7), "$.node_uuid"),
        (a_document(instances=[7]), "$.instances[0]"),
        (a_document(instances=[{"uuid": "x", "flavor": {"vcpus": -1, "memory_mb": 1}}]), "$.instances[0].flavor.vcpus"),
        (a_document(mode="later"), "$.mode"),
    ],
)
def test_given_a_wrong_document_when_read_then_its_line_and_place_are_named(line: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(parse_documents([b"\n", line], "case.jsonl"))
    assert said in str(caught.value)


def test_given_a_report_that_lacks_keys_when_tallied_then_every_reason_is_given() -> None:
    (document,) = parse_documents([a_document(mode="new_node", resources={"vcpus": -1})], "x")
    answer = tally_document(document)
    assert len(answer["error"]) == 7
    assert "memory_mb is missing" in answer["error"]


def test_given_devices_marked_before_when_tallied_then_they_are_the_instances_and_not_in_a_pool() -> None:
    device = {"address": "0000:05:00.0", "vendor_id": "10de", "product_id": "20b5", "dev_type": "type-PCI"}
    scenario = next(iter(scenarios().values()))
    first = {**scenario["instances"][0], "pci_devices": [{"address": "0000:05:00.0", "status": "claimed"}]}
    line = a_document(
        instances=[first],
        migrations=[],
        pci_device_spec=[{"vendor_id": "10de"}],
        resources={**scenario["resources"], "pci_passthrough_devices": [device]},
    )
    (document,) = parse_documents([line], "x")
    answer = answer_to(document)
    assert answer["compute_node"]["pci_device_pools"] == []
    assert [entry["pci"] for entry in answer["entries"] if entry["id"] == first["uuid"]] == [["0000:05:00.0"]]


@given(st.binary(max_size=200))
def test_given_rubbish_when_read_then_it_is_one_clear_error_or_nothing(line: bytes) -> None:
    try:
        documents = list(parse_documents([line], "x"))
    except InvalidInput as error:
        said = str(error)
    else:
        said = "" if documents else "x line 1"
    assert "x line 1" in said


def _sorted(pools: list[Mapping[str, Any]]) -> list[str]:
    return sorted(json.dumps(pool, sort_keys=True) for pool in pools)
