"""Instances, migrations and transactions: what is refused, and that a refusal leaves nothing behind."""

import pytest

from stocktake.errors import InvalidData, LedgerError, NotFound
from stocktake.ledger import DatabaseLedger, Ledger, NodeSave
from stocktake.model.books import Tally
from stocktake.model.value import replace
from stocktake.model.workload import Flavor
from tests.ledger.making import HOST, NODE, START, again, entry, full_instance, instance, migration, saved


@pytest.fixture
def ledger(any_ledger: Ledger) -> Ledger:
    """Whoever is before it, it says the same."""
    return any_ledger


def test_given_instances_when_listed_then_by_host_node_and_deletion(ledger: Ledger) -> None:
    """The first made comes first."""
    rows = [instance(name="a"), instance(name="b", node="else"), instance(name="c", host="kvm-2")]
    ledger.put_instances([*rows, instance(name="d", deleted=True)])

    def names(**asked: object) -> list[str | None]:
        return [one.name for one in ledger.instances(**asked)]  # type: ignore[arg-type]

    assert names() == ["a", "b", "c"]
    assert names(deleted=True) == ["a", "b", "c", "d"]
    assert names(host=HOST) == ["a", "b"]
    assert names(host=HOST, node=NODE) == ["a"]
    assert names(node=NODE) == ["a", "c"]


@pytest.mark.parametrize("where", ["there", "twice in the list"])
def test_given_an_instance_there_when_put_again_then_it_is_named_and_none_is_put(ledger: Ledger, where: str) -> None:
    """All or nothing."""
    known, new = instance(), instance()
    if where == "there":
        ledger.put_instances([known])
        rows = [new, known]
    else:
        rows = [known, new, known]
    with pytest.raises(LedgerError, match=known.uuid) as raised:
        ledger.put_instances(rows)
    assert new.uuid not in str(raised.value)
    assert len(ledger.instances()) == (where == "there")


def test_given_instances_without_times_when_put_then_they_were_made_now(ledger: Ledger) -> None:
    """A given time is kept."""
    ledger.put_instances([instance(), instance(created_at=START), instance(deleted=True)])
    now, given, gone = ledger.instances(deleted=True)
    assert now.created_at is not None
    assert now.created_at > START
    assert given.created_at == START
    assert gone.deleted_at == now.created_at


def test_given_consumers_when_asked_for_then_instances_and_migrations_are_known_deleted_ones_too(
    ledger: Ledger,
) -> None:
    """The scheduler's consumers are either's uuids."""
    here, gone = instance(), instance(deleted=True)
    move, over = migration(1, here.uuid), migration(2, gone.uuid, deleted=True)
    ledger.put_instances([here, gone])
    ledger.put_migrations([move, over, migration(3, here.uuid, uuid=None)])
    assert move.uuid is not None
    assert over.uuid is not None
    ours = {here.uuid, gone.uuid, move.uuid, over.uuid}
    assert ledger.known_consumers({*ours, "somebody", "else"}) == ours
    assert ledger.known_consumers(frozenset({"somebody"})) == frozenset()
    assert ledger.known_consumers([]) == frozenset()


def test_given_an_instance_when_changed_then_all_but_its_making_changes(database: DatabaseLedger) -> None:
    """The figures for people who look with SQL follow the flavor."""
    before = full_instance()
    database.put_instances([before])
    wanted = instance(
        uuid=before.uuid, flavor=Flavor(vcpus=1, memory_mb=2, root_gb=3, ephemeral_gb=4), vm_state="stopped"
    )
    database.change_instances([wanted])
    after = database.instances()[0]
    assert after.updated_at is not None
    assert after == replace(wanted, created_at=before.created_at, updated_at=after.updated_at)
    with database._database.reading() as connection:
        row = connection.exec_driver_sql("SELECT vcpus, memory_mb, root_gb, ephemeral_gb, deleted FROM instances").one()
    assert tuple(row) == (1, 2, 3, 4, 0)


def test_given_an_unknown_instance_when_changed_or_deleted_then_none_is(ledger: Ledger) -> None:
    """A deleted one is unknown too."""
    known, gone = instance(), instance(deleted=True)
    ledger.put_instances([known, gone])
    with pytest.raises(NotFound, match=gone.uuid):
        ledger.change_instances([replace(known, vm_state="error"), gone])
    with pytest.raises(NotFound, match=gone.uuid):
        ledger.delete_instances([known.uuid, gone.uuid])
    assert [one.vm_state for one in ledger.instances()] == ["active"]


def test_given_a_deleted_instance_when_its_uuid_is_promised_again_then_both_rows_are_there(
    database: DatabaseLedger,
) -> None:
    """As in Nova, the deleted row carries its own id in `deleted`."""
    one = instance()
    database.put_instances([one])
    database.delete_instances([one.uuid])
    database.put_instances([one])
    assert [found.deleted for found in database.instances(deleted=True)] == [True, False]
    with database._database.reading() as connection:
        rows = connection.exec_driver_sql("SELECT id, deleted FROM instances ORDER BY id").all()
    assert rows[0][0] == rows[0][1]


def test_given_a_migration_there_when_put_again_then_it_is_named_and_none_is_put(ledger: Ledger) -> None:
    """By its id or its uuid."""
    known = migration(1, "a")
    ledger.put_migrations([known])
    with pytest.raises(LedgerError, match="migration 1 is"):
        ledger.put_migrations([migration(2, "b"), migration(1, "c")])
    with pytest.raises(LedgerError, match="migration 3 is"):
        ledger.put_migrations([replace(known, id=3)])
    assert [one.id for one in ledger.migrations(all=True)] == [1]


def test_given_migrations_when_listed_then_those_in_play_unless_all(ledger: Ledger) -> None:
    """By host or node of either side."""
    ledger.put_migrations(
        [
            migration(4, "a"),
            migration(3, "b", status="done"),
            migration(2, "c", deleted=True),
            migration(1, "d", source_compute="kvm-2", dest_compute=HOST, dest_node="else"),
        ]
    )
    assert [one.id for one in ledger.migrations()] == [1, 4]
    assert [one.id for one in ledger.migrations(all=True)] == [1, 2, 3, 4]
    assert [one.id for one in ledger.migrations(host=HOST)] == [1, 4]
    assert [one.id for one in ledger.migrations(node=NODE)] == [1, 4]
    assert [one.id for one in ledger.migrations(host=HOST, node=NODE)] == [4]
    assert [one.id for one in ledger.migrations(host=HOST, node=NODE, all=True)] == [2, 3, 4]
    assert [one.deleted for one in ledger.migrations(all=True)] == [False, True, False, False]


def test_given_a_transaction_when_it_ends_well_then_everything_is_there_and_a_late_save_is_refused(
    database: DatabaseLedger,
) -> None:
    """A claim: read, decide, promise, write; the refresh that read before it reads again."""
    record = saved(database)
    promised = instance()
    with database.transaction([record.uuid]) as tx:
        work = tx.work(HOST, [NODE], {})[NODE]
        assert work.record is not None
        assert work.record.generation == record.generation + 1
        tx.put_instances([promised])
        tx.change_instances([replace(promised, vm_state="building")])
        tx.put_migrations([migration(1, promised.uuid)])
        counted = replace(work.record, vcpus_used=2)
        outcome = tx.save([NodeSave(tally=Tally(node=counted, entries=()), expected_generation=counted.generation)])
        assert outcome.saved.keys() == {record.uuid}
    assert again(database, record) == {}
    assert database.node(NODE).vcpus_used == 2
    assert [one.vm_state for one in database.instances()] == ["building"]


def test_given_a_transaction_when_it_is_left_by_an_error_then_nothing_of_it_is_there(database: DatabaseLedger) -> None:
    """The caller's own error comes through as it is."""
    record = saved(database)
    kept = instance()
    database.put_instances([kept])

    def claim() -> None:
        with database.transaction([record.uuid]) as tx:
            tx.put_instances([instance()])
            tx.delete_instances([kept.uuid])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        claim()
    assert database.instances() == (replace(kept, created_at=database.instances()[0].created_at),)
    assert database.node(NODE) == record
    with pytest.raises(NotFound, match="nobody"), database.transaction(["nobody"]):
        pass


def test_given_rubbish_in_a_row_when_read_then_table_id_and_column_are_named(database: DatabaseLedger) -> None:
    """Somebody wrote with SQL; nothing is skipped and nothing is guessed."""
    record = saved(database)
    database.put_instances([instance()])
    cases = [
        ("compute_nodes", "pci_stats", "'[{]'"),
        ("compute_nodes", "problems", "'{}'"),
        ("compute_nodes", "stats", "'nonsense'"),
        ("instances", "flavor", """'{"vcpus": -1, "memory_mb": 1}'"""),
        ("instances", "numa_topology", """'{"cells": [{"id": "x"}]}'"""),
    ]
    for table, column, rubbish in cases:
        with database._database.writing() as connection:
            before = connection.exec_driver_sql(f"SELECT {column} FROM {table}").scalar_one()
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = {rubbish}".replace("%", "%%"))
        with pytest.raises(LedgerError, match=f"{table} id 1, column {column} can't be read"):
            database.work(HOST, [NODE], {})
        with database._database.writing() as connection:
            written = "NULL" if before is None else f"'{before}'"
            connection.exec_driver_sql(f"UPDATE {table} SET {column} = {written}")
    assert database.work(HOST, [NODE], {})[NODE].record == record


def test_given_times_that_somebody_wrote_when_read_then_without_a_zone_is_utc_and_rubbish_is_named(
    database: DatabaseLedger,
) -> None:
    """SQLite's CURRENT_TIMESTAMP has none; PostgreSQL keeps moments, and refuses the rest by itself."""
    if not database._database.sqlite:
        pytest.skip("PostgreSQL's columns hold moments only")
    saved(database)
    with database._database.writing() as connection:
        connection.exec_driver_sql("UPDATE compute_nodes SET updated_at = '2026-01-02 03:04:05'")
    assert database.node(NODE).updated_at == START.replace(microsecond=0)
    for rubbish in ("'yesterday'", "5"):
        with database._database.writing() as connection:
            connection.exec_driver_sql(f"UPDATE compute_nodes SET updated_at = {rubbish}")
        with pytest.raises(LedgerError, match=r"compute_nodes id 1 can't be read: .*updated_at"):
            database.node(NODE)


def test_given_nothing_when_put_changed_or_deleted_then_nothing_happens(database: DatabaseLedger) -> None:
    """Callers need not look first."""
    database.put_instances([])
    database.change_instances([])
    database.delete_instances([])
    database.put_migrations([])
    with database.transaction():
        pass
    assert database.work(HOST, [], {}) == {}


def test_given_rubbish_in_the_entries_when_read_then_they_are_named(database: DatabaseLedger) -> None:
    """And how to be rid of them."""
    record = saved(database, entries=(entry("one"),))
    with database._database.writing() as connection:
        connection.exec_driver_sql("UPDATE compute_node_entries SET entry = '[1]'")
    with pytest.raises(LedgerError, match=rf"compute_node_entries node_uuid {record.uuid}, column entry"):
        database.entries(record.uuid)


def test_given_a_number_too_big_for_a_column_when_saved_then_it_is_refused_and_nothing_is_written(
    ledger: Ledger,
) -> None:
    """A driver may lie beyond all bounds."""
    record = saved(ledger)
    with pytest.raises(InvalidData, match="can't hold it"):
        again(ledger, replace(record, vcpus_used=2**70))
    assert ledger.node(NODE) == record
