"""Nodes, services and failures: what is written is what is read."""

from datetime import timedelta

import pytest

from stocktake.errors import NotFound
from stocktake.ledger import Ledger, NodeSave
from stocktake.model.books import Tally
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from tests.ledger.making import (
    HOST,
    NODE,
    START,
    again,
    device,
    entry,
    first_save,
    full_node,
    instance,
    migration,
    node,
    saved,
)

AWAY = Problem(code="DriverUnreachable", about=NODE, text="no answer")


@pytest.fixture
def ledger(any_ledger: Ledger) -> Ledger:
    """Whoever is before it, it says the same."""
    return any_ledger


def test_given_a_full_record_when_saved_then_it_reads_back_field_by_field(ledger: Ledger) -> None:
    """Nothing is lost on the way, and the save says what is there now."""
    wanted = full_node()
    record = saved(ledger, wanted, entries=(entry(),))
    assert ledger.node(wanted.uuid) == record == ledger.node(NODE)
    now = START + timedelta(seconds=1)
    assert record == replace(wanted, generation=1, created_at=now, updated_at=now)
    assert ledger.entries(wanted.uuid) == (entry(),)
    (brief,) = ledger.nodes_in_brief(host=record.host)
    large = ("cpu_info", "supported_instances", "numa_topology", "pci_device_pools", "metrics", "owned_traits")
    none = {name: getattr(node(), name) for name in large}
    assert brief == replace(record, **none)
    assert ledger.nodes_in_brief(host="another") == ()


def test_given_a_saved_node_when_saved_again_then_generation_and_time_go_on(ledger: Ledger) -> None:
    """The time of making stays."""
    first = saved(ledger)
    second = again(ledger, replace(first, vcpus_used=3))[first.uuid]
    assert (second.vcpus_used, second.generation, second.created_at) == (3, 2, first.created_at)
    assert second.updated_at is not None
    assert first.updated_at is not None
    assert second.updated_at > first.updated_at
    assert ledger.node(first.uuid) == second


def test_given_a_changed_row_when_saved_from_the_old_generation_then_only_that_node_is_left(ledger: Ledger) -> None:
    """A conflict writes nothing of its node: no record, entry, device, migration or release; the others are written."""
    gone = instance(deleted=True)
    ledger.put_instances([gone, mover := instance()])
    ledger.put_migrations([migration(1, mover.uuid)])
    old = saved(ledger, entries=(entry("old"),))
    other = saved(ledger, node("other"))
    again(ledger, replace(old, vcpus_used=1), entries=(entry("new"),))
    late = NodeSave(
        tally=Tally(
            node=replace(old, vcpus_used=9),
            entries=(entry("late"),),
            stale_migrations=(1,),
            pci_devices=(device(),),
        ),
        expected_generation=old.generation,
        released=frozenset({gone.uuid}),
    )
    outcome = ledger.save(
        [late, NodeSave(tally=Tally(node=replace(other, vcpus_used=5), entries=()), expected_generation=1)]
    )
    assert outcome.conflicts == {old.uuid}
    assert outcome.saved.keys() == {other.uuid}
    assert ledger.node("other").vcpus_used == 5
    assert ledger.node(old.uuid).vcpus_used == 1
    assert [one.id for one in ledger.entries(old.uuid)] == ["new"]
    work = ledger.work(HOST, [NODE], {})[NODE]
    assert work.pci_devices == ()
    assert work.deleted_uuids == {gone.uuid}
    assert [one.status for one in work.migrations] == ["migrating"]


@pytest.mark.parametrize("missing", ["never", "deleted"])
def test_given_no_row_when_a_generation_is_expected_then_it_is_a_conflict(ledger: Ledger, missing: str) -> None:
    """A deleted node does not come back by a late save."""
    record = saved(ledger)
    if missing == "deleted":
        ledger.delete_node(record.uuid)
    else:
        record = replace(node("never"), generation=1)
    assert again(ledger, record) == {}
    assert record.uuid not in [one.uuid for one in ledger.nodes()]


@pytest.mark.parametrize("same", ["uuid", "name"])
def test_given_a_row_when_made_anew_then_it_is_a_conflict(ledger: Ledger, same: str) -> None:
    """Two agents that find a node at once make one row."""
    record = saved(ledger)
    twin = replace(record, hypervisor_hostname="else") if same == "uuid" else replace(record, uuid=node().uuid)
    outcome = ledger.save([first_save(twin), first_save(node("third"))])
    assert outcome.conflicts == {twin.uuid}
    assert len(ledger.nodes()) == 2


def test_given_devices_when_they_change_then_only_rows_that_differ_are_written(ledger: Ledger) -> None:
    """New ones come, changed ones change, missing ones go, the same stay."""
    a, b, c = (device(f"0000:01:00.{number}") for number in range(3))
    record = saved(ledger, pci_devices=(a, b))
    held = replace(b, status="allocated", instance_uuid="u", traits=frozenset({"CUSTOM_X"}), numa_node=1)
    after = again(ledger, record, pci_devices=(held, c))[record.uuid]
    assert ledger.work(HOST, [NODE], {})[NODE].pci_devices == (held, c)
    again(ledger, after)
    assert ledger.work(HOST, [NODE], {})[NODE].pci_devices == ()


def test_given_entries_unchanged_when_saved_then_they_stay(ledger: Ledger) -> None:
    """A save after the scheduler's answer does not write them again."""
    record = saved(ledger, entries=(entry("kept"),))
    one = NodeSave(tally=Tally(node=record, entries=()), expected_generation=1, record_only=True)
    assert ledger.save([one]).saved
    assert [entry_.id for entry_ in ledger.entries(record.uuid)] == ["kept"]


def test_given_stale_migrations_when_saved_then_they_are_errors_unless_settled_meanwhile(ledger: Ledger) -> None:
    """Their time goes on too."""
    ledger.put_migrations([migration(1, "a"), migration(2, "b", status="completed"), migration(3, "c")])
    saved(ledger, stale_migrations=(1, 2))
    found = {one.id: one for one in ledger.migrations(all=True)}
    assert {number: one.status for number, one in found.items()} == {1: "error", 2: "completed", 3: "migrating"}
    assert found[1].updated_at is not None
    assert found[2].updated_at is None


def test_given_nothing_to_save_when_saved_then_nothing_happens(ledger: Ledger) -> None:
    """An empty pass costs nothing."""
    assert ledger.save([]).saved == {}
    ledger.note_failures({})


def test_given_failures_when_noted_then_figures_time_and_generation_stay(ledger: Ledger) -> None:
    """Twice the same is written once; None takes it away; a node that is not there is passed over."""
    record = saved(ledger)
    for failure in (AWAY, AWAY, None):
        ledger.note_failures({record.uuid: failure, "not-there": failure})
        assert ledger.node(NODE) == replace(record, failure=failure)


def test_given_nodes_of_two_hosts_when_listed_then_by_name_and_host(ledger: Ledger) -> None:
    """Deleted ones are not listed."""
    for name, host in (("b", HOST), ("a", HOST), ("c", "kvm-2"), ("d", HOST)):
        saved(ledger, node(name, host))
    ledger.delete_node(ledger.node("d").uuid)
    assert [one.hypervisor_hostname for one in ledger.nodes()] == ["a", "b", "c"]
    assert [one.hypervisor_hostname for one in ledger.nodes(host=HOST, replica=True)] == ["a", "b"]


def test_given_a_misspelt_name_when_read_then_the_nearest_are_named(ledger: Ledger) -> None:
    """An operator mistypes."""
    saved(ledger)
    with pytest.raises(NotFound, match=r"Did you mean kvm-1\.example\.org"):
        ledger.node("kvm-l.example.org")
    with pytest.raises(NotFound, match="stocktake nodes"):
        ledger.node("zzz")


def test_given_a_name_on_two_hosts_when_read_then_the_uuids_are_named(ledger: Ledger) -> None:
    """Names are unique on a service only."""
    saved(ledger)
    second = saved(ledger, node(host="kvm-2"))
    with pytest.raises(NotFound, match=second.uuid):
        ledger.node(NODE)


def test_given_a_deleted_node_when_its_provider_is_gone_then_it_is_not_listed_again(ledger: Ledger) -> None:
    """Its devices and entries go with it; deleted rows may share a uuid."""
    record = saved(ledger, entries=(entry(),), pci_devices=(device(),))
    ledger.delete_node(record.uuid)
    assert ledger.nodes() == ()
    assert ledger.entries(record.uuid) == ()
    assert [one.uuid for one in ledger.deleted_nodes(HOST)] == [record.uuid]
    assert ledger.deleted_nodes("kvm-2") == ()
    with pytest.raises(NotFound):
        ledger.delete_node(record.uuid)
    saved(ledger, record)
    # Its provider is in use again, and must not be deleted.
    assert ledger.deleted_nodes(HOST) == ()
    ledger.delete_node(record.uuid)
    assert len(ledger.deleted_nodes(HOST)) == 2
    ledger.note_provider_deleted([record.uuid])
    assert ledger.deleted_nodes(HOST) == ()


def test_given_heartbeats_when_read_then_one_row_a_host(ledger: Ledger) -> None:
    """The first makes the row; its uuid stays."""
    assert ledger.service(HOST) is None
    first = ledger.heartbeat(HOST, version="1").service
    second = ledger.heartbeat(HOST, version="2").service
    ledger.heartbeat("kvm-0", version="2")
    assert (first.uuid, first.report_count, second.report_count, second.version) == (second.uuid, 1, 2, "2")
    assert first.last_seen_up is not None
    assert second.last_seen_up is not None
    assert second.last_seen_up > first.last_seen_up
    assert [one.host for one in ledger.services()] == ["kvm-0", HOST]
    assert ledger.service(HOST) == second


def test_given_a_host_when_registered_then_that_is_no_sign_of_life(ledger: Ledger) -> None:
    """A single pass needs the row; only an agent lives. What is there stays."""
    first = ledger.register(HOST, version="1")
    assert (first.report_count, first.last_seen_up) == (0, None)
    beat = ledger.heartbeat(HOST, version="2").service
    assert (beat.uuid, beat.report_count) == (first.uuid, 1)
    assert ledger.register(HOST, version="3") == beat


def test_given_a_service_when_forced_down_then_heartbeats_and_being_disabled_leave_it_so(ledger: Ledger) -> None:
    ledger.heartbeat(HOST, version="1")
    ledger.set_service(HOST, disabled=True, reason="disk")
    down = ledger.set_service(HOST, forced_down=True)
    assert (down.forced_down, down.disabled, down.disabled_reason) == (True, True, "disk")
    assert ledger.heartbeat(HOST, version="1").service.forced_down
    assert ledger.set_service(HOST, disabled=False).forced_down
    up = ledger.set_service(HOST, forced_down=False)
    assert (up.forced_down, up.disabled, up.disabled_reason) == (False, False, None)


def test_given_a_service_when_disabled_then_heartbeats_leave_it_so(ledger: Ledger) -> None:
    """The reason goes when it is enabled."""
    with pytest.raises(NotFound):
        ledger.set_service(HOST, disabled=True, reason="x")
    ledger.heartbeat(HOST, version="1")
    assert ledger.set_service(HOST, disabled=True, reason="disk").disabled_reason == "disk"
    assert ledger.heartbeat(HOST, version="1").service.disabled
    enabled = ledger.set_service(HOST, disabled=False, reason=None)
    assert (enabled.disabled, enabled.disabled_reason) == (False, None)


def test_given_two_runs_of_an_agent_when_both_say_that_they_live_then_each_hears_of_the_other(
    ledger: Ledger,
) -> None:
    first = ledger.heartbeat(HOST, version="1", run="a")
    # Whoever was there before the first sign of life is a predecessor.
    second = ledger.heartbeat(HOST, version="1", run="b")
    assert (first.other, second.other, second.service.run) == (None, None, "b")
    again = ledger.heartbeat(HOST, version="1", run="a", since=first.service.last_seen_up)
    assert again.other == "b"
    assert ledger.heartbeat(HOST, version="1", run="b", since=second.service.last_seen_up).other == "a"
    # Of a pass by hand nobody hears.
    assert ledger.heartbeat(HOST, version="1").service.run == "b"
    last = ledger.heartbeat(HOST, version="1", run="b", since=second.service.last_seen_up)
    assert last.other is None
    # What was sent before and arrived late is no sign of life, nor is one that is too old.
    late = ledger.heartbeat(HOST, version="1", run="a", since=last.service.last_seen_up)
    assert late.other is None
    assert ledger.heartbeat(HOST, version="1", run="b", since=second.service.last_seen_up, down_time_s=0).other is None


def test_given_a_machine_when_noted_then_the_service_has_it_and_registering_keeps_it(ledger: Ledger) -> None:
    assert ledger.register(HOST, version="1", machine="m").machine == "m"
    assert ledger.register(HOST, version="1", machine="n").machine == "m"
    ledger.note_machine(HOST, "n")
    assert ledger.heartbeat(HOST, version="1").service.machine == "n"
