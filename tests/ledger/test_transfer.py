"""Export and import: the identity between any two databases, and nothing of a file that is wrong anywhere."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from stocktake.errors import InvalidData
from stocktake.ledger import DatabaseLedger
from stocktake.ledger.tables import METADATA
from stocktake.model.value import replace
from tests.ledger.making import (
    START,
    again,
    device,
    entry,
    exported,
    full_instance,
    full_node,
    instance,
    migration,
    node,
    opened,
    saved,
)
from tests.servers.postgres import PrivatePostgres


def fill(ledger: DatabaseLedger) -> None:
    """Put something of everything into a ledger, in all states."""
    ledger.heartbeat("kvm-1", version="1")
    ledger.heartbeat("kvm-2", version="1")
    ledger.set_service("kvm-2", disabled=True, reason="disk")
    held = full_instance()
    devices = (device(status="allocated", instance_uuid=held.uuid, traits=frozenset({"X"})), device("0000:02:00.0"))
    record = saved(ledger, full_node(), entries=(entry(), entry("b")), pci_devices=devices)
    again(ledger, record, entries=(entry(),), pci_devices=devices[::-1])
    gone = saved(ledger, node("gone"))
    ledger.delete_node(gone.uuid)
    ledger.note_provider_deleted([gone.uuid])
    saved(ledger, replace(gone, hypervisor_hostname="back"))
    dead = instance()
    ledger.put_instances([held, dead, instance(deleted=True), instance(host=None, node=None, name="\u2028 'ö")])
    ledger.delete_instances([dead.uuid], released=True)
    ledger.put_instances([dead])
    ledger.put_migrations(
        [migration(9, held.uuid), migration(4, "x", status=None, uuid=None), migration(5, "y", deleted=True)]
    )


@pytest.fixture
def other_url(request: pytest.FixtureRequest, tmp_path: Path, other: str) -> Iterator[str]:
    """Give a second empty ledger, in the other kind of database or in the same."""
    if other == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "second.db")
        yield f"sqlite:///{tmp_path}/second.db"
        return
    server: PrivatePostgres = request.getfixturevalue("postgres")
    copied = server.create_database(request.getfixturevalue("postgres_template"))
    yield copied
    server.drop_database(copied)


@pytest.mark.parametrize("other", ["sqlite", "postgresql"])
def test_given_a_ledger_when_exported_and_imported_then_it_is_the_same(ledger: DatabaseLedger, other_url: str) -> None:
    """Between any two databases, line by line and noun by noun; and it can be written to as before."""
    fill(ledger)
    lines = exported(ledger)
    second = opened(other_url)
    try:
        assert second.import_(lines) == len(lines) - 2
        assert exported(second) == lines
        assert second.nodes() == ledger.nodes()
        assert second.instances(deleted=True) == ledger.instances(deleted=True)
        assert second.migrations(all=True) == ledger.migrations(all=True)
        assert second.services() == ledger.services()
        for one in ledger.nodes():
            assert second.entries(one.uuid) == ledger.entries(one.uuid)
            assert second.work(one.host, [one.hypervisor_hostname], {}) == ledger.work(
                one.host, [one.hypervisor_hostname], {}
            )
        second.put_instances([instance()])
        second.put_migrations([migration(10, "z")])
        saved(second, node("more"), pci_devices=(device(),))
        second.heartbeat("kvm-3", version="1")
    finally:
        second.close()


def test_given_an_empty_ledger_when_exported_then_it_imports(ledger: DatabaseLedger) -> None:
    """Nothing is something too."""
    lines = exported(ledger)
    assert [json.loads(line)["table"] for line in lines] == ["ledger", "end"]
    assert ledger.import_([line.replace("\n", "\r\n") for line in lines] + ["\n"]) == 0


def test_given_what_is_there_already_when_imported_then_each_line_is_named_and_nothing_changes(
    ledger: DatabaseLedger,
) -> None:
    """An import adds; it never overwrites."""
    fill(ledger)
    lines = exported(ledger)
    with pytest.raises(InvalidData) as raised:
        ledger.import_(lines)
    assert "line 2: services uuid" in str(raised.value)
    assert "is in the ledger already; line 3" in str(raised.value)
    assert exported(ledger) == lines


def test_given_another_ledgers_rows_when_imported_then_they_are_added(ledger: DatabaseLedger) -> None:
    """What was there stays."""
    saved(ledger, node("mine"))
    ledger.put_instances([instance()])
    row = json.loads(exported(ledger)[1])
    row["row"] |= {"uuid": "5d", "hypervisor_hostname": "theirs"}
    assert ledger.import_(_by_hand([row])) == 1
    assert [one.hypervisor_hostname for one in ledger.nodes()] == ["mine", "theirs"]


def _by_hand(rows: list[object]) -> list[str]:
    documents = [{"table": "ledger", "version": "0001"}, *rows, {"table": "end", "rows": len(rows)}]
    return [json.dumps(document) for document in documents]


MINIMAL = {"uuid": "u1", "flavor": {"vcpus": 1, "memory_mb": 1}}
DEVICE = {"address": "a", "vendor_id": "8086", "product_id": "1520", "dev_type": "type-PCI"}


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"table": "instances"}, r"line 2: .*missing required field `row`"),
        ({"table": "instances", "row": {"uuid": "u"}}, r"line 2: .*`flavor` - at `\$\.row`"),
        ({"table": "instances", "row": MINIMAL | {"vm_sate": "x"}}, r"no such field `vm_sate` - at `\$\.row`"),
        ({"table": "instances", "row": MINIMAL, "extra": 1}, "extra"),
        ({"table": "instances", "row": MINIMAL | {"name": "a\0b"}}, r"NUL character - at `\$\.row\.name`"),
        ({"table": "instances", "row": MINIMAL | {"a\0b": 1}}, r"NUL character - at `\$\.row`"),
        ({"table": "instances", "row": MINIMAL | {"power_state": 2**64}}, r"\$\.row\.power_state"),
        ({"table": "instances", "row": MINIMAL | {"power_state": "1"}}, r"Expected `int \| null`, got `str`"),
        (
            {"table": "instances", "row": MINIMAL | {"created_at": "2026-01-01T00:00:00"}},
            r"without a zone - at .*created",
        ),
        ({"table": "instances", "row": MINIMAL | {"pci_devices": ["a"]}}, r"lines of pci_devices"),
        (
            {"table": "instances", "row": {"uuid": "u", "flavor": {"vcpus": -1, "memory_mb": 1}}},
            r"\$\.row\.flavor\.vcpus",
        ),
        (
            {"table": "pci_devices", "node_uuid": "nobody", "row": DEVICE},
            r"line 2: no node nobody - at `\$\.node_uuid`",
        ),
        ({"table": "pci_devices", "node_uuid": "n", "row": DEVICE | {"dev_type": "x"}}, r"\$\.row\.dev_type"),
        ({"table": "compute_node_entries", "node_uuid": "nobody", "entries": []}, "no node nobody"),
        ({"table": "nonsense"}, "nonsense"),
        ({}, "line 2: .*`table`"),
        ([], "line 2: Expected `object`"),
        ({"table": "ledger", "version": "0001"}, "there is a second head"),
        ({"table": "end", "rows": 0}, "there is text after the end"),
    ],
)
def test_given_a_wrong_line_when_imported_then_its_number_and_path_are_named(
    ledger: DatabaseLedger, row: object, what: str
) -> None:
    """And what was there before stays as it was."""
    with pytest.raises(InvalidData, match=what):
        ledger.import_(_by_hand([row]))
    assert len(exported(ledger)) == 2


def test_given_many_wrong_lines_when_imported_then_the_first_are_told_at_once(ledger: DatabaseLedger) -> None:
    """An operator corrects them in one go, not one by one."""
    rows: list[object] = [{"table": "instances", "row": MINIMAL | {"uuid": n}} for n in range(40)]
    with pytest.raises(InvalidData) as raised:
        ledger.import_(_by_hand(rows))
    assert [f"line {n}: " in raised.value.what for n in (2, 3, 21, 22)] == [True, True, True, False]


def test_given_rows_twice_in_a_file_when_imported_then_both_lines_are_named(ledger: DatabaseLedger) -> None:
    """A deleted row may share its uuid with one that is not."""
    row: object = {"table": "instances", "row": MINIMAL}
    gone: object = {"table": "instances", "row": MINIMAL | {"deleted": True}}
    with pytest.raises(InvalidData, match="line 4: instances uuid u1 is in line 2 too"):
        ledger.import_(_by_hand([row, gone, row]))
    assert ledger.import_(_by_hand([row, gone, gone])) == 3


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([], "line 1: the end is missing"),
        (["\n"], "line 1: "),
        (['{"table":"ledger","version":"0001"}'], "line 2: the end is missing"),
        (['{"table":"ledger","version":"9999"}', '{"table":"end","rows":0}'], "schema '9999' is not one of 0001"),
        (['{"table":"end","rows":0}', '{"table":"end","rows":0}'], "the first line is not the head of an export"),
        (['{"table":"ledger","version":"0001"}', '{"table":"end","rows":3}'], "the end counts 3 rows, the file has 0"),
        (['{"table":"ledger","version":"0001"}', "\udcff"], "line 2"),
        (["[" * 100_000], "line 1"),
    ],
)
def test_given_a_broken_file_when_imported_then_it_is_refused(
    ledger: DatabaseLedger, lines: list[str], what: str
) -> None:
    """A file cut off is not half an import."""
    with pytest.raises(InvalidData, match=what):
        ledger.import_(lines)


def test_given_an_edited_export_when_its_checksum_is_left_out_then_it_imports(ledger: DatabaseLedger) -> None:
    """An operator may edit on purpose."""
    saved(ledger)
    lines = exported(ledger)
    ledger.delete_node(ledger.nodes()[0].uuid)
    edited = [line.replace('"vcpus":8', '"vcpus":9') for line in lines]
    with pytest.raises(InvalidData, match="the lines differ from the checksum"):
        ledger.import_(edited)
    last = json.loads(edited[-1])
    del last["sha256"]
    ledger.import_([*edited[:-1], json.dumps(last)])
    assert ledger.nodes()[0].vcpus == 9


@pytest.fixture(scope="module")
def filled_lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Export a ledger with something of everything."""
    ledger = opened(f"sqlite:///{tmp_path_factory.mktemp('fill')}/ledger.db")
    fill(ledger)
    lines = exported(ledger)
    ledger.close()
    return lines


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_given_any_mutated_line_when_imported_then_it_is_refused_and_the_ledger_is_unchanged(
    ledger: DatabaseLedger, filled_lines: list[str], data: st.DataObject
) -> None:
    """Characters changed, put in or taken out, lines dropped, doubled or exchanged."""
    lines = [line.rstrip("\n") for line in filled_lines]
    place = data.draw(st.integers(0, len(lines) - 1))
    kind = data.draw(st.sampled_from(["change", "insert", "cut", "drop", "double", "exchange"]))
    if kind in ("change", "insert", "cut"):
        line = lines[place]
        at = data.draw(st.integers(0, len(line) - 1))
        new = data.draw(st.characters(exclude_characters="\r\n"))
        lines[place] = {
            "change": line[:at] + new + line[at + 1 :],
            "insert": line[:at] + new + line[at:],
            "cut": line[:at],
        }[kind]
    elif kind == "drop":
        del lines[place]
    elif kind == "double":
        lines.insert(place, lines[place])
    else:
        with_ = data.draw(st.integers(0, len(lines) - 1))
        lines[place], lines[with_] = lines[with_], lines[place]
    # White space at the end line's own ends says nothing.
    assume([line.strip() for line in lines] != [line.strip() for line in filled_lines])
    assume(
        json.loads(lines[-1]) != json.loads(filled_lines[-1])
        if _is_json(lines[-1]) and place == len(lines) - 1
        else True
    )
    with pytest.raises(InvalidData):
        ledger.import_(lines)
    assert len(exported(ledger)) == 2


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_given_any_value_edited_and_signed_anew_when_imported_then_it_is_taken_or_refused_never_half(
    ledger: DatabaseLedger, filled_lines: list[str], data: st.DataObject
) -> None:
    """Whatever decodes must go into either database, and come out as it went in; the rest is named."""
    documents = [json.loads(line) for line in filled_lines]
    place = data.draw(st.integers(1, len(documents) - 2))
    target = documents[place]
    for key in ("row", "entries"):
        if key in target and data.draw(st.booleans()):
            target = target[key] if key == "row" else (target[key] or [target])[0]
    scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    target[data.draw(st.sampled_from(sorted(target)))] = data.draw(scalars | st.text() | st.just([]) | st.just({}))
    lines = [json.dumps(document) for document in documents[:-1]]
    digest = hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    lines.append(json.dumps({"table": "end", "rows": len(lines) - 1, "sha256": digest}))
    try:
        ledger.import_(lines)
    except InvalidData:
        assert len(exported(ledger)) == 2
    else:
        # A node without entries has no line of them.
        nothing = target is documents[place] and target.get("entries") == []
        assert len(exported(ledger)) == len(lines) - nothing
        with ledger._database.writing() as connection:
            for table in reversed(METADATA.sorted_tables):
                connection.execute(delete(table))


def test_given_times_of_another_zone_when_imported_then_they_are_the_same_moment(ledger: DatabaseLedger) -> None:
    """Kept in UTC."""
    row: object = {"table": "instances", "row": MINIMAL | {"created_at": "2026-01-02T05:04:05.678901+02:00"}}
    ledger.import_(_by_hand([row]))
    assert ledger.instances()[0].created_at == START
