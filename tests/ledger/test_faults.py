"""The database locked, gone, back: typed, in bounded time, and nothing half done."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from stocktake.errors import LedgerError, LedgerUnreachable, SettingsError
from stocktake.ledger import DatabaseLedger
from stocktake.ledger.tables import COMPUTE_NODES
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from tests.ledger.making import HOST, NODE, again, entry, exported, first_save, instance, node, opened, saved
from tests.servers.postgres import PrivatePostgres, private_postgres

WAIT_S = 0.5


@pytest.fixture
def impatient(url: str) -> Iterator[DatabaseLedger]:
    """Open a ledger that waits half a second."""
    ledger = opened(url, wait_s=WAIT_S)
    yield ledger
    ledger.close()


@pytest.fixture
def lock(url: str) -> Callable[[], "Lock"]:
    """Give what locks the ledger as somebody else."""
    return lambda: Lock(url)


class Lock:
    """Somebody else's transaction that never ends."""

    def __init__(self, url: str) -> None:
        if url.startswith("sqlite"):
            self._connection: sqlite3.Connection | psycopg.Connection = sqlite3.connect(url.removeprefix("sqlite:///"))
            self._connection.execute("BEGIN IMMEDIATE")
        else:
            self._connection = psycopg.connect(url)
            self._connection.execute("LOCK TABLE compute_nodes, services, instances IN EXCLUSIVE MODE")

    def end(self) -> None:
        """Let go."""
        self._connection.rollback()
        self._connection.close()


def test_given_a_locked_ledger_when_written_then_unreachable_in_bounded_time_and_reads_go_on(
    impatient: DatabaseLedger, lock: Callable[[], Lock]
) -> None:
    """The database is told the limit, and the lock is held for as long as anybody waits. Let go, it works again."""
    record = saved(impatient)
    with impatient._database.reading() as connection:
        if impatient._database.sqlite:
            assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == WAIT_S * 1000
        else:
            assert connection.exec_driver_sql("SHOW lock_timeout").scalar() == f"{WAIT_S * 1000:.0f}ms"
    held = lock()
    for write in (
        lambda: again(impatient, record),
        lambda: impatient.heartbeat(HOST, version="1"),
        lambda: impatient.put_instances([instance()]),
        lambda: impatient.note_failures({record.uuid: Problem(code="x", about="x", text="x")}),
    ):
        with pytest.raises(LedgerUnreachable):
            write()
    assert impatient.work(HOST, [NODE], {})[NODE].record == record
    held.end()
    assert again(impatient, record)


def test_given_a_failure_in_the_middle_of_a_save_when_it_ends_then_nothing_of_it_was_written(
    ledger: DatabaseLedger,
) -> None:
    """Record, entries and devices are one; the next try saves them."""
    record = saved(ledger, entries=(entry("old"),))
    before = exported(ledger)
    ledger.put_instances([instance(uuid="kept")])
    sqlite = ledger._database.sqlite
    with ledger._database.writing() as connection:
        # The entries are written after the records: a rule that refuses them fails the save in its middle.
        if sqlite:
            connection.exec_driver_sql(
                "CREATE TRIGGER fault BEFORE INSERT ON compute_node_entries "
                "WHEN new.entry LIKE '%fault%' BEGIN SELECT RAISE(ABORT, 'fault'); END"
            )
        else:
            connection.exec_driver_sql(
                "ALTER TABLE compute_node_entries ADD CONSTRAINT fault CHECK (entry NOT LIKE '%%fault%%')"
            )
    saves = [
        replace(first_save(replace(record, vcpus_used=7), entries=(entry("fault"),)), expected_generation=1),
        first_save(node("new"), entries=(entry("new"),)),
    ]
    with pytest.raises(LedgerError, match="fault"):
        ledger.save(saves)
    ledger.delete_instances(["kept"])
    assert [line for line in exported(ledger) if '"instances"' not in line][:-1] == before[:-1]
    with ledger._database.writing() as connection:
        connection.exec_driver_sql(
            "DROP TRIGGER fault" if sqlite else "ALTER TABLE compute_node_entries DROP CONSTRAINT fault"
        )
    assert len(ledger.save(saves).saved) == 2


def test_given_all_connections_in_use_when_one_more_is_wanted_then_unreachable_in_bounded_time(url: str) -> None:
    """A pool is a limit."""
    ledger = opened(url, wait_s=WAIT_S)
    hold, held = threading.Event(), threading.Semaphore(0)
    limit = 25

    def read() -> None:
        with ledger._database.reading():
            held.release()
            hold.wait(20)

    threads = [threading.Thread(target=read) for _ in range(limit)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert held.acquire(timeout=20)
    try:
        with pytest.raises(LedgerUnreachable, match="all connections"):
            ledger.ping()
    finally:
        hold.set()
        for thread in threads:
            thread.join()
    ledger.ping()
    ledger.close()


@pytest.fixture(scope="module")
def own_server() -> Iterator[PrivatePostgres]:
    """A server that may be stopped, because nobody else uses it."""
    with private_postgres() as server:
        yield server


def test_given_postgresql_stopped_and_started_when_used_then_unreachable_then_it_works(
    own_server: PrivatePostgres,
) -> None:
    """Connections of the pool that died meanwhile are noticed before they are used."""
    ledger = opened(own_server.create_database(), wait_s=2)
    record = saved(ledger)
    own_server.stop()
    for _ in range(2):
        with pytest.raises(LedgerUnreachable):
            ledger.ping()
    with pytest.raises(LedgerUnreachable):
        again(ledger, record)
    own_server.start()
    assert ledger.node(NODE) == record
    assert again(ledger, record)
    ledger.close()


def test_given_postgresql_stopped_within_a_transaction_when_it_ends_then_unreachable_and_nothing_is_written(
    own_server: PrivatePostgres,
) -> None:
    """The server dies between the claim's two writes."""
    ledger = opened(own_server.create_database(), wait_s=2)
    record = saved(ledger)

    def claim() -> None:
        with ledger.transaction([record.uuid]) as tx:
            tx.put_instances([instance()])
            own_server.stop()
            tx.put_instances([instance()])

    with pytest.raises(LedgerUnreachable):
        claim()
    own_server.start()
    assert ledger.instances() == ()
    assert ledger.node(NODE) == record
    ledger.close()


def test_given_nothing_listens_when_opened_then_unreachable_and_the_password_is_not_told() -> None:
    """The remedy is."""
    with pytest.raises(LedgerUnreachable) as raised:
        opened("postgresql://me:secret@127.0.0.1:1/books", wait_s=2)
    assert "secret" not in str(raised.value)
    assert "Check that the database runs" in str(raised.value)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("nonsense", "not a database URL"),
        ("", "not a database URL"),
        ("mysql://me:secret@h/d", "no such ledger database: mysql"),
        ("postgresql+psycopg2://h/d", "no such ledger database"),
        ("postgresql://h:port/d", "not a database URL"),
        ("sqlite://", "needs a file"),
        ("sqlite:///:memory:", "needs a file"),
    ],
)
def test_given_a_wrong_url_when_opened_then_it_is_a_settings_error(url: str, what: str) -> None:
    """Said without the password."""
    with pytest.raises(SettingsError, match=what) as raised:
        opened(url)
    assert "secret" not in str(raised.value)


def test_given_a_replica_when_nodes_are_asked_of_it_then_only_they_come_from_it(tmp_path: Path, url: str) -> None:
    """All else comes from the ledger itself; a replica that is gone says so."""
    copy = f"sqlite:///{tmp_path}/replica.db"
    other = opened(copy)
    saved(other, node("of the replica"))
    other.close()
    ledger = opened(url, replica_url=copy)
    saved(ledger)
    assert [one.hypervisor_hostname for one in ledger.nodes(replica=True)] == ["of the replica"]
    assert [one.hypervisor_hostname for one in ledger.nodes()] == [NODE]
    assert ledger.work(HOST, [NODE], {})[NODE].record is not None
    ledger.close()
    for path in tmp_path.glob("replica.db*"):
        path.unlink()
    with_none = opened(url, replica_url=copy)
    with pytest.raises(LedgerUnreachable, match="replica"):
        with_none.nodes(replica=True)
    assert [one.hypervisor_hostname for one in with_none.nodes()] == [NODE]
    with_none.close()


def test_given_a_missing_table_when_read_then_the_upgrade_is_the_remedy(ledger: DatabaseLedger) -> None:
    """Somebody dropped it."""
    with ledger._database.writing() as connection:
        connection.exec_driver_sql(f"ALTER TABLE {COMPUTE_NODES.name} RENAME TO away")
    with pytest.raises(LedgerError, match="ledger upgrade"):
        ledger.nodes()
