"""Support cases: Nova's sample through `tally`, differing only where the rules say so; and wrong documents."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.cli.tally import LINE_BYTES_MAX, Document, parse_documents, read_documents, tally_document
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


AN_INSTANCE: Mapping[str, Any] = {
    **next(iter(scenarios().values()))["instances"][0],
    "host": next(iter(scenarios().values()))["host"],
    "node": next(iter(scenarios().values()))["node"],
    "vm_state": "active",
    "task_state": None,
    "deleted": False,
    "hidden": False,
    "migration_context": None,
}


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
        (a_document(instances=[{**AN_INSTANCE, "pci_devices": [7]}]), "$.instances[0].pci_devices[0]"),
        (a_document(instances=[{**AN_INSTANCE, "pci_devices": [{}]}]), "$.instances[0].pci_devices[0]"),
        (a_document(instances=[{**AN_INSTANCE, "pci_devices": "x"}]), "$.instances[0].pci_devices"),
        (a_document(instances=[{**AN_INSTANCE, "migration_context": {"new_pci_devices": 7}}]), "new_pci_devices"),
        (a_document(instances={}), "$.instances"),
        (a_document(config={"reserved_host_cpus": "two"}), "$.reserved_host_cpus"),
        (a_document(prior={"config": {"reserved_host_cpus": "two"}}), "$.reserved_host_cpus"),
        (
            a_document(pci_device_spec=[{"vendor_id": "intel"}]),
            "vendor_id must be a hexadecimal number or *, not 'intel'",
        ),
        (a_document(pci_device_spec=[{"devname": "eth0"}]), "devname"),
    ],
)
def test_given_a_wrong_document_when_read_then_its_line_and_place_are_named(line: bytes, said: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        list(parse_documents([b"\n", line], "case.jsonl"))
    assert said in str(caught.value)
    assert "case.jsonl line 2" in str(caught.value)


def test_given_a_line_that_never_ends_when_read_then_it_is_refused_before_it_is_held(tmp_path: Path) -> None:
    path = tmp_path / "case.jsonl"
    with path.open("wb") as file:
        file.truncate(LINE_BYTES_MAX + 2)
    with pytest.raises(InvalidInput, match=r"line 1: the document is longer than 64 MiB"):
        list(read_documents(path))


def test_given_a_file_that_is_not_there_when_read_then_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none\.jsonl.*can't be read"):
        list(read_documents(tmp_path / "none.jsonl"))


def test_given_a_report_that_lacks_keys_when_tallied_then_every_reason_is_given() -> None:
    (document,) = parse_documents([a_document(mode="new_node", resources={"vcpus": -1})], "x")
    answer = tally_document(document)
    assert len(answer["error"]) == 7
    assert "memory_mb is missing" in answer["error"]


def test_given_a_first_report_that_lacks_keys_when_tallied_then_every_reason_is_given() -> None:
    (document,) = parse_documents([a_document(mode="restart", prior={"resources": {"vcpus": -1}})], "x")
    answer = tally_document(document)
    assert answer.keys() == {"id", "error"}
    assert len(answer["error"]) == 1


GPU = {"address": "0000:05:00.0", "vendor_id": "10de", "product_id": "20b5", "dev_type": "type-PCI"}


def with_gpu(*instances: Mapping[str, Any], there: bool = True, **changes: object) -> dict[str, Any]:
    """Tally the first scenario's node with one device and these instances."""
    scenario = next(iter(scenarios().values()))
    line = a_document(
        instances=list(instances),
        pci_device_spec=[{"vendor_id": "10de"}],
        resources={**scenario["resources"], "pci_passthrough_devices": [GPU] if there else []},
        **{"migrations": [], **changes},
    )
    (document,) = parse_documents([line], "x")
    return answer_to(document)


def a_move(instance: Mapping[str, Any]) -> dict[str, Any]:
    scenario = next(iter(scenarios().values()))
    return {
        "id": 1,
        "instance_uuid": instance["uuid"],
        "migration_type": "migration",
        "status": "finished",
        "source_compute": scenario["host"],
        "source_node": scenario["node"],
        "dest_compute": "other",
        "dest_node": "other",
    }


@pytest.mark.parametrize("mark", [GPU["address"], {"address": GPU["address"]}, {**GPU, "status": "claimed"}])
@pytest.mark.parametrize("there", [True, False])
def test_given_devices_marked_before_when_tallied_then_they_are_the_instances_and_not_in_a_pool(
    mark: object, *, there: bool
) -> None:
    answer = with_gpu({**AN_INSTANCE, "pci_devices": [mark]}, there=there)
    assert answer["compute_node"]["pci_device_pools"] == []
    assert [entry["pci"] for entry in answer["entries"] if entry["kind"] == "instance"] == [[GPU["address"]]]


def test_given_a_device_of_a_deleted_instance_when_tallied_then_it_is_free_unless_the_instance_still_moves() -> None:
    gone = {**AN_INSTANCE, "deleted": True, "vm_state": "resized", "task_state": None, "pci_devices": [GPU["address"]]}
    assert len(with_gpu(gone)["compute_node"]["pci_device_pools"]) == 1
    moving = with_gpu(gone, migrations=[a_move(gone)])
    assert moving["compute_node"]["pci_device_pools"] == []
    assert [entry["pci"] for entry in moving["entries"] if entry["kind"] == "migration"] == [[GPU["address"]]]


def test_given_a_device_named_by_an_instance_elsewhere_too_when_tallied_then_the_one_here_has_it() -> None:
    here = {**AN_INSTANCE, "pci_devices": [GPU["address"]]}
    away = {**here, "uuid": "00000000-0000-4000-8000-000000000001", "host": "other", "node": "other"}
    for order in ((here, away), (away, here)):
        assert with_gpu(*order)["compute_node"]["pci_device_pools"] == []


# Nova removes what a deleted instance holds, unless its record is hidden: then another cell has the machine.
@pytest.mark.parametrize(
    ("mode", "instance", "kept"),
    [
        ("restart", {}, True),
        ("restart", {"deleted": True}, False),
        ("periodic", {"deleted": True}, False),
        ("periodic", {"deleted": True, "hidden": True}, True),
        ("periodic", {"deleted": True, "host": "other", "node": "other"}, False),
        ("periodic", {"hidden": True}, True),
        # The provider of a new node is made by the same run: nothing is looked at.
        ("new_node", {"deleted": True}, True),
        ("periodic", {"uuid": "00000000-0000-4000-8000-000000000001"}, True),
    ],
)
def test_given_an_allocation_when_tallied_then_it_goes_only_with_a_deleted_instance(
    mode: str, instance: Mapping[str, Any], *, kept: bool
) -> None:
    uuid = AN_INSTANCE["uuid"]
    allocations = [{"consumer_uuid": uuid, "resources": {"VCPU": 1}}]
    answer = with_gpu({**AN_INSTANCE, **instance}, mode=mode, allocations=allocations)
    name = answer["compute_node"]["hypervisor_hostname"]
    assert answer["placement"]["allocations"] == ({uuid: {name: {"VCPU": 1}}} if kept else {})


def test_given_times_with_and_without_a_zone_when_tallied_then_those_without_are_utc() -> None:
    moving = {**AN_INSTANCE, "vm_state": "resized", "task_state": None, "host": "other", "node": "other"}
    first = {**a_move(moving), "created_at": "2026-01-01T12:00:00"}
    second = {**a_move(moving), "id": 2, "created_at": "2026-01-01T13:30:00+02:00"}
    (entry,) = (one for one in with_gpu(moving, migrations=[first, second])["entries"] if one["kind"] == "migration")
    assert entry["why"].startswith("migration 1: ")


def test_given_guests_when_tallied_then_orphans_are_counted() -> None:
    guest = {"uuid": "u", "name": "stray", "state": "running", "active": True, "vcpus": 3}
    answer = with_gpu(guests=[guest], mode="restart")
    assert [(one["name"], one["vcpus"]) for one in answer["entries"] if one["kind"] == "orphan"] == [("stray", 3)]


@given(st.binary(max_size=200))
def test_given_rubbish_when_read_then_it_is_one_clear_error_or_nothing(line: bytes) -> None:
    try:
        documents = list(parse_documents([line], "x"))
    except InvalidInput as error:
        said = str(error)
    else:
        said = "" if documents else "x line 1"
    assert "x line 1" in said
