"""PostgreSQL killed, stalled, reset, too slow, strict: each is said in bounded time, and what was promised is there."""

import threading
import time
import uuid
from collections.abc import Iterator

import psycopg
import pytest

from stocktake.errors import LedgerUnreachable
from stocktake.ledger import engine
from tests.ledger.children import add_one
from tests.ledger.making import NODE, exported, instance, opened, saved
from tests.servers.postgres import PrivatePostgres, private_postgres
from tests.servers.stalling import Stalling, stalling

THREADS = 4


@pytest.fixture(scope="module")
def own_server() -> Iterator[PrivatePostgres]:
    """A server that may be killed, because nobody else uses it."""
    with private_postgres() as server:
        yield server


@pytest.fixture
def proxy(own_server: PrivatePostgres) -> Iterator[Stalling]:
    with stalling(own_server.port) as running:
        yield running


def test_given_the_postmaster_killed_under_load_when_it_is_back_then_all_that_was_promised_is_there(
    own_server: PrivatePostgres,
) -> None:
    """Whoever was told that it was saved finds it; whoever was not was told in bounded time."""
    url = own_server.create_database()
    with psycopg.connect(url, autocommit=True) as connection:
        # PostgreSQL's own default, which our tests' servers do without.
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET synchronous_commit = 'on'".encode())
    ledger = opened(url, wait_s=2)
    saved(ledger)
    promised: list[str] = []
    enough, wrong = threading.Event(), []

    def promise() -> None:
        while True:
            name = str(uuid.uuid4())
            try:
                ledger.put_instances([instance(uuid=name)])
            except LedgerUnreachable:
                return
            except Exception as error:  # noqa: BLE001 - it is looked at below
                wrong.append(error)
                return
            promised.append(name)
            if len(promised) >= THREADS * 5:
                enough.set()

    threads = [threading.Thread(target=promise) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    assert enough.wait(150)
    own_server.kill()
    for thread in threads:
        thread.join(150)
        assert not thread.is_alive()
    assert wrong == []
    own_server.start()
    assert {one.uuid for one in ledger.instances()} >= set(promised)
    ledger.put_instances([instance()])
    ledger.close()


def test_given_a_server_whose_default_is_serializable_when_many_write_then_none_fails(
    own_server: PrivatePostgres,
) -> None:
    """The ledger says for itself what it relies on."""
    url = own_server.create_database()
    name = url.rpartition("/")[2]
    with psycopg.connect(own_server.url("postgres"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'".encode())
    ledger = opened(url, wait_s=30)
    record = saved(ledger)
    wrong: list[BaseException] = []

    def write() -> None:
        try:
            for _ in range(10):
                add_one(ledger, record.uuid)
        except LedgerUnreachable as error:
            wrong.append(error)

    threads = [threading.Thread(target=write) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert ledger.node(NODE).vcpus_used == record.vcpus_used + 10 * THREADS
    ledger.close()


def test_given_a_deadlock_with_somebody_else_when_it_is_broken_then_nothing_is_half_done_and_again_it_works(
    own_server: PrivatePostgres,
) -> None:
    """By hand, in another order of rows than ours."""
    url = own_server.create_database()
    ledger = opened(url, wait_s=30)
    record = saved(ledger)
    ledger.put_instances([instance(uuid="first")])
    before = exported(ledger)
    with psycopg.connect(url) as other:
        # Ours looks for a deadlock first, and is the one that gives up.
        other.execute("SET deadlock_timeout = '100s'")
        other.execute("UPDATE instances SET host = host")
        waits = threading.Event()

        def lock_the_node() -> None:
            waits.set()
            other.execute("UPDATE compute_nodes SET host = host")

        thread = threading.Thread(target=lock_the_node)

        def claim() -> None:
            with ledger.transaction([record.uuid]) as tx:
                tx.put_instances([instance(uuid="second")])
                thread.start()
                assert waits.wait(150)
                tx.delete_instances(["first"])

        with pytest.raises(LedgerUnreachable, match="deadlock"):
            claim()
        thread.join()
        other.rollback()
    assert exported(ledger) == before
    ledger.delete_instances(["first"])
    ledger.close()


def test_given_a_statement_that_takes_too_long_when_made_then_it_is_ended_and_the_next_works(
    own_server: PrivatePostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "STATEMENT_S", 1)
    url = own_server.create_database()
    ledger = opened(url, wait_s=30)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(1000); RETURN new; END $$"
        )
        other.execute("CREATE TRIGGER slow BEFORE INSERT ON instances EXECUTE FUNCTION slow()")
        with pytest.raises(LedgerUnreachable, match="statement timeout"):
            ledger.put_instances([instance()])
        other.execute("DROP TRIGGER slow ON instances")
    assert ledger.instances() == ()
    ledger.put_instances([instance()])
    ledger.close()


@pytest.mark.parametrize("after", [0, 1, 20])
@pytest.mark.parametrize("how", ["stall", "reset"])
def test_given_a_proxy_that_stalls_or_resets_in_mid_answer_when_asked_then_it_is_said_in_time_and_then_it_works(
    own_server: PrivatePostgres, proxy: Stalling, monkeypatch: pytest.MonkeyPatch, how: str, after: int
) -> None:
    """TCP goes on acknowledging: nothing but a limit of our own ends that."""
    answer_s = 3.0
    monkeypatch.setattr(engine, "ANSWER_S", answer_s)
    url = own_server.create_database().replace(f":{own_server.port}/", f":{proxy.port}/")
    ledger = opened(url, wait_s=2)
    record = saved(ledger)
    (proxy.stall if how == "stall" else proxy.reset)(after=after)
    began_s = time.monotonic()
    # A connection that is found dead before it is used is opened again, and nobody hears of it.
    try:
        assert ledger.node(NODE) == record
    except LedgerUnreachable:
        assert time.monotonic() - began_s < 150
    assert proxy.met.is_set()
    proxy.behave()
    assert ledger.node(NODE) == record
    ledger.close()
