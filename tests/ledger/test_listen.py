"""Whoever watches a host hears soon that its promises changed, whoever changed them; and not what is no promise."""

import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from stocktake.errors import LedgerError
from stocktake.ledger import DatabaseLedger
from stocktake.model.value import replace
from tests.ledger.making import HOST, again, exported, instance, migration, opened, saved
from tests.servers.postgres import private_postgres
from tests.wakes import Wakes

OTHER = "kvm-2"


@pytest.fixture
def wakes(ledger: DatabaseLedger) -> Wakes:
    """The agent of HOST, which hears."""
    wakes = Wakes()
    ledger.watch(HOST, wakes.wake)
    return wakes


@pytest.fixture
def somebody(url: str) -> Iterator[DatabaseLedger]:
    """Somebody else who writes."""
    other = opened(url)
    yield other
    other.close()


def heard_once(wakes: Wakes, change: Callable[[], object]) -> None:
    """One transaction is heard as one thing."""
    before = wakes.count
    change()
    wakes.until(before + 1)
    assert wakes.count == before + 1


def test_given_promises_that_change_when_somebody_writes_them_then_each_is_heard_once(
    wakes: Wakes, somebody: DatabaseLedger
) -> None:
    one, two = instance(), instance()
    heard_once(wakes, lambda: somebody.put_instances([one, two]))
    heard_once(wakes, lambda: somebody.change_instances([replace(one, vm_state="stopped"), two]))
    heard_once(wakes, lambda: somebody.put_migrations([migration(1, one.uuid, source_compute=HOST)]))
    heard_once(wakes, lambda: somebody.put_migrations([migration(2, one.uuid, source_compute=None, dest_compute=HOST)]))
    heard_once(wakes, lambda: somebody.delete_instances([one.uuid]))
    assert wakes.count == 5


def test_given_several_changes_in_one_transaction_then_they_are_heard_once(
    wakes: Wakes, somebody: DatabaseLedger
) -> None:
    one = instance()
    somebody.put_instances([one])
    wakes.until(1)

    def change() -> None:
        with somebody.transaction() as held:
            held.change_instances([one])
            held.put_migrations([migration(1, one.uuid, source_compute=HOST)])
            held.change_migrations([migration(1, one.uuid, source_compute=HOST, status="error")])
            held.delete_instances([one.uuid])

    heard_once(wakes, change)


def test_given_a_node_whose_books_are_held_then_that_is_heard(wakes: Wakes, somebody: DatabaseLedger) -> None:
    record = saved(somebody)

    def hold() -> None:
        with somebody.transaction([record.uuid]):
            pass

    heard_once(wakes, hold)


def test_given_a_service_that_is_disabled_then_its_agent_hears(
    wakes: Wakes, ledger: DatabaseLedger, somebody: DatabaseLedger
) -> None:
    ledger.register(HOST, version="1")
    heard_once(wakes, lambda: somebody.set_service(HOST, disabled=True, reason="paint"))


def test_given_an_import_then_everybody_hears(wakes: Wakes, somebody: DatabaseLedger, tmp_path: Path) -> None:
    elsewhere = opened(f"sqlite:///{tmp_path}/elsewhere.db")
    elsewhere.put_instances([instance(host=OTHER)])
    lines = exported(elsewhere)
    elsewhere.close()
    heard_once(wakes, lambda: somebody.import_(lines))


def test_given_what_an_agent_saves_itself_then_that_is_not_heard(
    wakes: Wakes, ledger: DatabaseLedger, somebody: DatabaseLedger
) -> None:
    ledger.register(HOST, version="1")
    record = saved(ledger)
    for _ in range(3):
        ledger.heartbeat(HOST, version="1")
        ledger.note_failures({record.uuid: None})
        (record,) = again(ledger, replace(record, vcpus_used=record.vcpus_used + 1)).values()
    heard_once(wakes, lambda: somebody.put_instances([instance()]))


def test_given_a_transaction_that_is_rolled_back_then_nothing_is_heard(wakes: Wakes, somebody: DatabaseLedger) -> None:
    # One is refused as it is there twice, and the other goes with it.
    one = instance()
    with pytest.raises(LedgerError):
        somebody.put_instances([instance(), one, one])
    heard_once(wakes, lambda: somebody.put_instances([instance()]))


def test_given_an_instance_that_moves_then_both_hosts_hear(wakes: Wakes, url: str, somebody: DatabaseLedger) -> None:
    there = Wakes()
    neighbour = opened(url)
    neighbour.watch(OTHER, there.wake)
    one = instance()
    somebody.put_instances([one])
    wakes.until(1)
    before = there.count
    somebody.change_instances([replace(one, host=OTHER, node="n")])
    wakes.until(2)
    there.until(before + 1)
    neighbour.close()


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_given_promises_of_another_host_then_they_are_not_heard(wakes: Wakes, somebody: DatabaseLedger) -> None:
    for _ in range(5):
        somebody.put_instances([instance(host=OTHER), instance(host=None)])
    heard_once(wakes, lambda: somebody.put_instances([instance()]))


@pytest.mark.parametrize("url", ["postgresql"], indirect=True)
def test_given_somebody_with_sql_of_his_own_when_he_notifies_then_that_is_heard(wakes: Wakes, url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("NOTIFY stocktake, 'nobody'")
        heard_once(wakes, lambda: connection.execute(f"NOTIFY stocktake, '{HOST}'".encode()))


def test_given_a_watch_that_is_closed_then_its_thread_ends(url: str) -> None:
    def threads() -> int:
        return sum(thread.name == "stocktake-ledger-watch" for thread in threading.enumerate())

    before = threads()
    ledger = opened(url)
    ledger.watch(HOST, lambda: None)
    assert threads() == before + 1
    ledger.close()
    ledger.close()
    assert threads() == before


def test_given_a_postgresql_that_restarts_then_that_is_heard_once_and_changes_are_heard_again() -> None:
    with private_postgres() as server:
        url = server.create_database()
        ledger = opened(url)
        wakes = Wakes()
        ledger.watch(HOST, wakes.wake)
        server.stop()
        server.start()
        wakes.until(1, timeout_s=30)
        heard_once(wakes, lambda: ledger.put_instances([instance()]))
        assert wakes.count == 2
        ledger.close()


def test_given_a_ledger_file_that_is_another_one_then_that_is_heard_and_it_is_watched_from_then_on(
    sqlite_template: Path, tmp_path: Path
) -> None:
    path = tmp_path / "ledger.db"
    shutil.copy(sqlite_template, path)
    ledger = opened(f"sqlite:///{path}")
    wakes = Wakes()
    ledger.watch(HOST, wakes.wake)
    ledger.put_instances([instance()])
    wakes.until(1)
    for part in tmp_path.glob("ledger.db*"):
        part.rename(part.with_name(part.name.replace("ledger", "old")))
    restored = tmp_path / "restored.db"
    shutil.copy(sqlite_template, restored)
    restored.rename(path)
    wakes.until(2)
    other = opened(f"sqlite:///{path}")
    other.put_instances([instance()])
    wakes.until(3)
    other.close()
    ledger.close()
