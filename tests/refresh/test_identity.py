"""Identity: nothing is written or deleted under another's name."""

import contextlib
import datetime as dt
from collections.abc import Mapping
from pathlib import Path

import pytest

from stocktake.errors import IdentityError
from stocktake.model.books import ComputeNode
from stocktake.model.workload import Service
from stocktake.refresh import identity
from stocktake.settings.state_files import ComputeIdFile

OURS = "11111111-1111-4111-8111-111111111111"
THEIRS = "22222222-2222-4222-8222-222222222222"
MADE = "33333333-3333-4333-8333-333333333333"


class OneId:
    """Gives one known id."""

    def uuid(self) -> str:
        return MADE


def a_node(*, uuid: str = OURS, host: str = "alpha", name: str = "alpha.example") -> ComputeNode:
    return ComputeNode(
        uuid=uuid,
        host=host,
        hypervisor_hostname=name,
        vcpus=1,
        memory_mb=1,
        local_gb=1,
        vcpus_used=0,
        memory_mb_used=0,
        local_gb_used=0,
        free_ram_mb=1,
        free_disk_gb=1,
        cpu_allocation_ratio=1.0,
        ram_allocation_ratio=1.0,
        disk_allocation_ratio=1.0,
    )


def test_given_no_file_and_no_record_when_settled_then_a_new_id_is_made_and_kept(tmp_path: Path) -> None:
    state = tmp_path / "not" / "there" / "yet"
    assert identity.compute_id(ComputeIdFile(state), (), OneId()) == MADE
    assert identity.compute_id(ComputeIdFile(state), (), OneId()) == MADE
    assert (state / "compute_id").read_text() == MADE + "\n"


def test_given_a_lost_file_and_one_record_when_settled_then_the_records_uuid_is_restored(tmp_path: Path) -> None:
    assert identity.compute_id(ComputeIdFile(tmp_path), (a_node(),), OneId()) == OURS
    assert ComputeIdFile(tmp_path).read() == OURS


def test_given_a_file_with_an_id_when_settled_then_it_wins(tmp_path: Path) -> None:
    (tmp_path / "compute_id").write_text(f"  {OURS.upper()}\n")
    assert identity.compute_id(ComputeIdFile(tmp_path), (a_node(uuid=THEIRS),), OneId()) == OURS


@pytest.mark.parametrize("rubbish", ["", "no uuid", "1" * 5000, OURS + "x", "\u00e9"])
def test_given_rubbish_in_the_file_when_read_then_the_error_names_the_file(tmp_path: Path, rubbish: str) -> None:
    (tmp_path / "compute_id").write_text(rubbish, encoding="utf-8")
    with pytest.raises(IdentityError, match="compute_id"):
        ComputeIdFile(tmp_path).read()


def test_given_a_directory_for_a_file_when_read_or_written_then_it_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "compute_id" / "x").mkdir(parents=True)
    with pytest.raises(IdentityError):
        ComputeIdFile(tmp_path).read()
    with pytest.raises(IdentityError):
        ComputeIdFile(tmp_path).write(OURS)


def test_given_another_hosts_id_when_guarded_then_it_stops_and_says_how_to_go_on() -> None:
    with pytest.raises(IdentityError) as caught:
        identity.guard_host("alpha", OURS, "beta")
    assert "'beta'" in caught.value.what
    assert 'host = "beta"' in caught.value.remedy
    assert "copied" in caught.value.remedy


def test_given_a_renamed_hypervisor_when_guarded_then_it_stops_before_the_old_node_vanishes() -> None:
    row = a_node()
    with pytest.raises(IdentityError, match=r"alpha\.example.*new\.example"):
        identity.guard_nodes(OURS, ("new.example",), (row,))


def test_given_a_swapped_id_when_guarded_then_the_right_one_is_named() -> None:
    row = a_node(uuid=THEIRS)
    with pytest.raises(IdentityError) as caught:
        identity.guard_nodes(OURS, ("alpha.example",), (row,))
    assert THEIRS in caught.value.remedy


def test_given_itself_when_guarded_then_all_is_well() -> None:
    row = a_node()
    identity.guard_host("alpha", OURS, "alpha")
    identity.guard_host("alpha", OURS, None)
    identity.guard_nodes(OURS, ("alpha.example",), (row,))
    identity.guard_nodes(OURS, ("alpha.example",), ())
    identity.guard_nodes(OURS, ("one", "two"), ())


def test_given_a_fleet_that_shrank_to_one_node_when_guarded_then_its_derived_uuid_is_its_own() -> None:
    derived = identity.node_uuids(OURS, ("a", "b"), {}, ())["a"]
    identity.guard_nodes(OURS, ("a",), (a_node(uuid=derived, name="a"),))


@pytest.mark.parametrize(
    ("nodes", "reported", "expected"),
    [
        (("a",), {}, {"a": OURS}),
        (("a",), {"a": THEIRS}, {"a": THEIRS}),
        (("alpha.example", "b"), {}, {"alpha.example": OURS}),
    ],
)
def test_given_nodes_when_identified_then_driver_beats_record_beats_compute_id(
    nodes: tuple[str, ...], reported: Mapping[str, str], expected: Mapping[str, str]
) -> None:
    given = identity.node_uuids(OURS, nodes, reported, (a_node(),))
    assert expected.items() <= given.items()
    assert given.keys() == set(nodes)


def test_given_many_nodes_without_uuids_when_identified_twice_then_each_keeps_its_own() -> None:
    first = identity.node_uuids(OURS, ("a", "b", "c"), {}, ())
    again = identity.node_uuids(OURS, ("c", "b", "a"), {}, ())
    assert first == again
    assert len(set(first.values())) == 3


NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def a_service(*, machine: str | None = "m", silent_s: float | None = 1) -> Service:
    seen = None if silent_s is None else NOW - dt.timedelta(seconds=silent_s)
    return Service(uuid=THEIRS, host="alpha", machine=machine, last_seen_up=seen)


@pytest.mark.parametrize(
    ("service", "machine", "stops"),
    [
        (None, "m", False),
        (a_service(), "m", False),
        (a_service(), "other", True),
        (a_service(), None, False),
        (a_service(machine=None), "m", False),
        (a_service(silent_s=60), "other", False),
        (a_service(silent_s=None), "other", False),
    ],
)
def test_given_a_living_agent_on_another_machine_then_a_pass_stops(
    service: Service | None, machine: str | None, *, stops: bool
) -> None:
    with pytest.raises(IdentityError, match="another machine") if stops else contextlib.nullcontext():
        identity.guard_machine(service, machine, now=NOW, down_time_s=60)


@pytest.mark.parametrize(
    ("service", "machine", "stops"),
    [
        (None, "m", False),
        (a_service(), "m", True),
        (a_service(machine=None), "m", True),
        (a_service(silent_s=60), "m", False),
        (a_service(silent_s=60), "other", True),
        (a_service(silent_s=60), None, True),
        (a_service(machine=None, silent_s=60), "m", False),
        (a_service(machine=None, silent_s=None), None, False),
    ],
)
def test_given_no_id_when_an_identity_is_taken_then_only_that_of_a_silent_agent_of_the_same_machine(
    service: Service | None, machine: str | None, *, stops: bool
) -> None:
    with pytest.raises(IdentityError, match="compute_id") if stops else contextlib.nullcontext():
        identity.guard_taking(service, machine, now=NOW, down_time_s=60)


def test_given_a_machines_id_then_only_a_digest_of_it_is_told(tmp_path: Path) -> None:
    file = tmp_path / "machine-id"
    file.write_text("0123456789abcdef0123456789abcdef\n")
    told = identity.machine_of(None, [tmp_path / "missing", file])
    assert told is not None
    assert "0123456789abcdef" not in told
    assert told == identity.machine_of(None, [file])
    assert identity.machine_of("named", [file]) not in {None, told}
    assert identity.machine_of(None, [tmp_path / "missing"]) is None
