"""What accounting is given of a node: each rule of docs/accounting.md that the ledger answers for."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text

from stocktake.ledger import DatabaseLedger, Ledger
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration, Place
from tests.ledger.making import (
    HOST,
    NODE,
    counting,
    device,
    first_save,
    full_instance,
    instance,
    migration,
    node,
    saved,
)

OTHER_HOST = {"source_compute": "kvm-3", "dest_compute": "kvm-4"}
CLOSED = ("confirmed", "reverted", "failed", "completed", "cancelled", "done")
IN_PLAY = ("error", "finished", "migrating", "queued", "Done", "CONFIRMED", "post-migrating", None)


@pytest.fixture
def ledger(any_ledger: Ledger) -> Ledger:
    """Whoever is before it, it says the same."""
    return any_ledger


def test_given_a_full_instance_when_read_then_nothing_is_lost(ledger: Ledger) -> None:
    """Field by field, times and sets and pinning included."""
    wanted = full_instance()
    ledger.put_instances([wanted])
    assert ledger.work(HOST, [NODE], {})[NODE].instances == (wanted,) == ledger.instances()


def test_given_an_unknown_node_when_read_then_its_work_is_empty(ledger: Ledger) -> None:
    """A new node has no record, and every name asked for is answered."""
    work = ledger.work(HOST, [NODE, "b"], {NODE: frozenset({"nobody"})})
    assert work.keys() == {NODE, "b"}
    assert work[NODE].record is None
    assert (work[NODE].instances, work[NODE].places) == ((), {})


def test_given_a_node_of_another_service_when_read_then_its_record_is_not_ours(ledger: Ledger) -> None:
    """Host and name must match; a deleted row is none."""
    saved(ledger, node(host="kvm-2"))
    gone = saved(ledger)
    ledger.delete_node(gone.uuid)
    assert ledger.work(HOST, [NODE], {})[NODE].record is None
    ours = saved(ledger)
    assert ledger.work(HOST, [NODE, "b"], {})[NODE].record == ours


@pytest.mark.parametrize(
    ("fields", "counted"),
    [
        ({}, True),
        ({"vm_state": "error"}, True),
        ({"vm_state": "shelved_offloaded"}, True),
        ({"host": "kvm-2"}, False),
        ({"node": "else"}, False),
        ({"host": None}, False),
        ({"node": None}, False),
        ({"host": HOST.upper()}, False),
        ({"deleted": True}, False),
    ],
)
def test_given_an_instance_when_host_and_node_match_then_it_is_there(
    ledger: Ledger, fields: dict[str, Any], *, counted: bool
) -> None:
    """Host and node, not deleted; states are for accounting."""
    ledger.put_instances([instance(**fields)])
    assert len(ledger.work(HOST, [NODE], {})[NODE].instances) == counted


@pytest.mark.parametrize(
    ("fields", "looked_at"),
    [
        *(({"status": status}, True) for status in IN_PLAY),
        *(({"status": status}, False) for status in CLOSED),
        ({"deleted": True}, False),
        ({**OTHER_HOST}, False),
        ({"source_compute": "kvm-3"}, False),
        ({"source_node": "else"}, False),
        ({"source_compute": "kvm-3", "dest_compute": HOST, "dest_node": NODE}, True),
        # Host of one side and node of the other do not make a match.
        ({"source_node": "else", "dest_node": NODE}, False),
        ({"dest_compute": HOST, "dest_node": NODE}, True),
        ({"source_compute": None, "source_node": None, "dest_compute": HOST, "dest_node": NODE}, True),
    ],
)
def test_given_a_migration_when_it_is_in_play_here_then_it_is_looked_at(
    ledger: Ledger, fields: dict[str, Any], *, looked_at: bool
) -> None:
    """Source or destination is this host and node; the status is compared letter by letter; no soft-deleted row."""
    mover = instance(host="kvm-9", node="far")
    ledger.put_instances([mover])
    wanted = migration(1, mover.uuid, **fields)
    ledger.put_migrations([wanted])
    work = ledger.work(HOST, [NODE], {})[NODE]
    assert [_bare(one) for one in work.migrations] == ([wanted] if looked_at else [])
    assert set(work.moving) == ({mover.uuid} if looked_at else set())
    shown = ledger.migrations(host=HOST, node=NODE)
    assert [one.id for one in shown] == ([1] if looked_at else [])


def _bare(one: Migration) -> Migration:
    return replace(one, created_at=None)


def test_given_movers_when_read_then_here_elsewhere_and_deleted_are_named_and_the_vanished_are_not(
    ledger: Ledger,
) -> None:
    """A deleted instance whose record is there does count; one that is alive again comes before it."""
    here, away = instance(), full_instance(host="kvm-2", node="far")
    gone = instance(deleted=True)
    reborn = instance(name="old", deleted=True)
    ledger.put_instances([here, away, gone, reborn])
    ledger.put_instances([replace(reborn, name="new", deleted=False, host="kvm-5")])
    movers = [here.uuid, away.uuid, gone.uuid, reborn.uuid, "vanished"]
    ledger.put_migrations([migration(number, uuid) for number, uuid in enumerate(movers)])
    work = ledger.work(HOST, [NODE, "b"], {})
    assert work["b"].moving == {}
    moving = work[NODE].moving
    assert set(moving) == set(movers[:-1])
    assert moving[away.uuid] == away
    assert moving[here.uuid] == work[NODE].instances[0]
    assert moving[gone.uuid].deleted
    assert (moving[reborn.uuid].name, moving[reborn.uuid].deleted) == ("new", False)


def test_given_a_move_within_a_host_when_read_then_both_nodes_have_it(ledger: Ledger) -> None:
    """Source node and destination node of one service; on one node it is there once."""
    ledger.put_migrations(
        [
            migration(1, "a", dest_compute=HOST, dest_node="b"),
            migration(2, "b", dest_compute=HOST, dest_node=NODE),
        ]
    )
    work = ledger.work(HOST, [NODE, "b"], {})
    assert [one.id for one in work[NODE].migrations] == [1, 2]
    assert [one.id for one in work["b"].migrations] == [1]


def test_given_held_devices_when_read_then_instances_name_them_on_their_own_node(ledger: Ledger) -> None:
    """An address of another node means nothing on this one."""
    here, away = instance(), instance(host="kvm-2", node="far")
    ledger.put_instances([here, away])
    ledger.put_migrations([migration(1, away.uuid, source_compute="kvm-2", dest_compute=HOST, dest_node=NODE)])
    held = [
        device("0000:02:00.0", status="allocated", instance_uuid=here.uuid),
        device("0000:01:00.0", status="claimed", instance_uuid=here.uuid),
        device("0000:03:00.0", status="claimed", instance_uuid=away.uuid),
        device("0000:04:00.0"),
    ]
    far = [device("0000:09:00.0", status="allocated", instance_uuid=away.uuid)]
    saved(ledger, pci_devices=tuple(held))
    saved(ledger, node("far", "kvm-2"), pci_devices=tuple(far))
    work = ledger.work(HOST, [NODE], {})[NODE]
    assert work.instances[0].pci_devices == ("0000:01:00.0", "0000:02:00.0")
    assert work.moving[away.uuid].pci_devices == ("0000:09:00.0",)
    assert [one.address for one in work.pci_devices] == sorted(one.address for one in held)
    assert {one.uuid: one.pci_devices for one in ledger.instances()} == {
        here.uuid: ("0000:01:00.0", "0000:02:00.0"),
        away.uuid: ("0000:09:00.0",),
    }


def test_given_guests_when_not_on_their_node_then_their_places_are_told(ledger: Ledger) -> None:
    """On another node of this host, on another host, deleted, alive again, nowhere, unknown."""
    here, neighbour = instance(), instance(node="b")
    far, gone, reborn = instance(host="kvm-2", node="far"), instance(deleted=True), instance(deleted=True)
    nowhere = instance(host=None, node=None)
    ledger.put_instances([here, neighbour, far, gone, reborn, nowhere])
    ledger.put_instances([replace(reborn, deleted=False, host="kvm-5")])
    guests = frozenset({here.uuid, neighbour.uuid, far.uuid, gone.uuid, reborn.uuid, nowhere.uuid, "unknown"})
    places = {
        neighbour.uuid: Place(host=HOST, node="b", deleted=False),
        far.uuid: Place(host="kvm-2", node="far", deleted=False),
        gone.uuid: Place(host=HOST, node=NODE, deleted=True),
        reborn.uuid: Place(host="kvm-5", node=NODE, deleted=False),
        nowhere.uuid: Place(host=None, node=None, deleted=False),
    }
    for nodes in ([NODE], [NODE, "b"]):
        work = ledger.work(HOST, nodes, {NODE: guests, "not-asked": frozenset({"x"})})
        assert work[NODE].places == places
        assert work.keys() == set(nodes)


def test_given_deleted_instances_when_read_then_those_not_released_are_named(ledger: Ledger) -> None:
    """Of this host and node; not one whose uuid is in use again, whose allocations are somebody's."""
    gone, other, reborn = instance(deleted=True), instance(node="b", deleted=True), instance(deleted=True)
    ledger.put_instances([gone, other, reborn])
    ledger.put_instances([replace(reborn, deleted=False, host="kvm-5")])
    alive = instance()
    ledger.put_instances([alive])
    assert ledger.work(HOST, [NODE], {})[NODE].deleted_uuids == {gone.uuid}
    ledger.delete_instances([alive.uuid])
    record = saved(ledger)
    work = ledger.work(HOST, [NODE], {})[NODE]
    assert work.deleted_uuids == {gone.uuid, alive.uuid}
    released = replace(first_save(record), expected_generation=1, released=frozenset({gone.uuid}))
    ledger.save([released])
    assert ledger.work(HOST, [NODE], {})[NODE].deleted_uuids == {alive.uuid}
    ledger.save([replace(released, expected_generation=2, released=frozenset({alive.uuid}))])
    assert ledger.work(HOST, [NODE], {})[NODE].deleted_uuids == frozenset()


def _fleet(ledger: Ledger, count: int) -> Callable[[], object]:
    """Fill a host's nodes with something of everything, and give the call that reads it."""
    nodes = [node(f"n{number}") for number in range(count)]
    movers = [instance(host="kvm-2", node="far") for _ in nodes]
    here: list[Instance] = [instance(node=one.hypervisor_hostname) for one in nodes]
    gone = [instance(node=one.hypervisor_hostname, deleted=True) for one in nodes]
    ledger.put_instances([*movers, *here, *gone])
    ledger.put_migrations(
        [migration(place, movers[place].uuid, source_node=one.hypervisor_hostname) for place, one in enumerate(nodes)]
    )
    ledger.save([first_save(one, pci_devices=(device(instance_uuid="u"),)) for one in nodes])
    guests = {one.hypervisor_hostname: frozenset({one.uuid, gone[place].uuid}) for place, one in enumerate(nodes)}
    return lambda: ledger.work(HOST, [one.hypervisor_hostname for one in nodes], guests)


def test_given_1_or_500_nodes_when_read_then_as_many_queries(database: DatabaseLedger) -> None:
    """The first and the five-hundredth cost the same round trips; so does saving."""
    counts = {}
    for count in (1, 500):
        for record in database.nodes():
            database.delete_node(record.uuid)
        database.delete_instances([one.uuid for one in database.instances()])
        with database._database.writing() as connection:
            connection.execute(text("DELETE FROM migrations"))
        call = _fleet(database, count)
        with counting(database) as reads:
            call()
        devices = (device("0000:05:00.0"),)
        saves = [
            replace(first_save(replace(one, vcpus_used=1), pci_devices=devices), expected_generation=1)
            for one in database.nodes()
        ]
        with counting(database) as writes:
            assert len(database.save(saves).saved) == count
        counts[count] = (len(reads), len(writes))
    assert counts[1] == counts[500]
    assert max(counts[1]) <= 9, counts


def test_given_a_long_history_when_the_query_is_planned_then_no_table_is_walked(database: DatabaseLedger) -> None:
    """SQLite serves each of a refresh's queries from an index."""
    if database._database.engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL plans by its statistics")
    call = _fleet(database, 1)
    with counting(database) as sent:
        call()
    asked = [one for one in sent if one[0].startswith("SELECT")]
    assert len(asked) >= 7
    with database._database.reading() as connection:
        for statement, parameters in asked:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
            walked = [row[3] for row in plan if row[3].startswith("SCAN") and "json_each" not in row[3]]
            assert not walked, (statement, walked)
