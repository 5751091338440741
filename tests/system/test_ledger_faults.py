"""A ledger locked, gone or refusing: the pass is skipped, the scheduler hears nothing, and the next pass is right."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import LedgerError, LedgerUnreachable
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.context import Fleet, a_guest, context_of, database_of, dump
from tests.servers.placement import PlacementServer
from tests.servers.postgres import PrivatePostgres, private_postgres
from tests.system.conftest import NAMES, used
from tests.system.readback import Readback, remote, writes
from tests.system.running import Host

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"


class Away:
    """A ledger that somebody locks, or that goes away and comes back."""

    def __init__(self, url: str, server: PrivatePostgres | None) -> None:
        self.url = url
        self._server = server
        self._file = None if server else Path(url.removeprefix("sqlite:///"))

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Be somebody else whose transaction never ends."""
        if self._file is not None:
            connection: Any = sqlite3.connect(self._file)
            connection.execute("BEGIN IMMEDIATE")
        else:
            connection = psycopg.connect(self.url)
            connection.execute("LOCK TABLE compute_nodes, services, instances IN ACCESS EXCLUSIVE MODE")
        yield
        connection.rollback()
        connection.close()

    @contextlib.contextmanager
    def gone(self, ledger: DatabaseLedger) -> Iterator[None]:
        """Take it away: the folder is renamed, the server stopped."""
        if self._server is not None:
            self._server.stop()
            yield
            self._server.start()
            return
        assert self._file is not None
        ledger.close()
        away = self._file.parent.rename(self._file.parent.with_name("away"))
        yield
        away.rename(self._file.parent)


@pytest.fixture(scope="module")
def stoppable() -> Iterator[PrivatePostgres]:
    """A PostgreSQL of this module's own."""
    with private_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def away(request: pytest.FixtureRequest, tmp_path: Path) -> Away:
    if request.param == "sqlite":
        return Away(f"sqlite:///{tmp_path}/books/ledger.db", None)
    server: PrivatePostgres = request.getfixturevalue("stoppable")
    return Away(server.create_database(), server)


@pytest.fixture
def impatient(tmp_path: Path, fleet: Fleet, server: PlacementServer, away: Away) -> Iterator[Context]:
    """Three nodes taken stock of; a locked ledger is waited for half a second."""
    for name in NAMES:
        fleet.has(name)
    ledger = open_ledger(away.url, clock=SystemClock(), ids=RandomIds(), wait_s=0.5)
    with context_of(tmp_path, placement=remote(server), ledger=ledger) as opened:
        assert refresh(opened).fine
        yield opened


@pytest.mark.parametrize("how", ["locked", "gone"])
def test_given_a_ledger_that_is_away_when_refreshed_then_the_pass_is_skipped_and_the_scheduler_told_nothing(
    fleet: Fleet, impatient: Context, away: Away, server: PlacementServer, how: str
) -> None:
    there = Readback(server.url)
    lines, before, told = dump(impatient.ledger), there.everything(), writes(server)
    fleet.loses("three").has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)]).has("four")
    with away.locked() if how == "locked" else away.gone(database_of(impatient)):
        for _ in range(2):
            with pytest.raises(LedgerUnreachable):
                refresh(impatient)
        assert writes(server) == told
        assert there.everything() == before
    assert dump(impatient.ledger) == lines
    assert refresh(impatient).deleted == ["three"]
    assert used(impatient) == {"one": 2, "two": 0, "four": 0}
    assert {name: there.inventories(name)["VCPU"]["total"] for name in there.providers()} == {
        "one": 8,
        "two": 16,
        "four": 16,
    }


def test_given_a_save_that_fails_when_refreshed_again_then_it_is_saved_then(
    fleet: Fleet, context: Context, server: PlacementServer, there: Readback
) -> None:
    told = writes(server)
    fleet.has("one", report={"vcpus": 8}, guests=[a_guest(GUEST)])
    with sqlite3.connect(context.settings.database.connection.removeprefix("sqlite:///")) as other:
        other.execute(
            "CREATE TRIGGER refuse BEFORE UPDATE ON compute_nodes BEGIN SELECT RAISE(ABORT, 'the disk burns'); END"
        )
        other.commit()
        for _ in range(2):
            with pytest.raises(LedgerError, match="the disk burns"):
                refresh(context)
        assert (used(context)["one"], writes(server)) == (0, told)
        other.execute("DROP TRIGGER refuse")
        other.commit()
    other.close()
    assert refresh(context).changed == {"one"}
    assert (used(context)["one"], there.inventories("one")["VCPU"]["total"]) == (2, 8)


def test_given_a_ledger_opened_twice_when_one_closes_and_others_come_and_go_then_what_the_first_writes_is_not_lost(
    tmp_path: Path,
) -> None:
    """A process that closes a file loses all its locks on it: SQLite's log was once taken away under an agent so."""
    host = Host(tmp_path / "state", {"compute_driver": "fake", "placement.mode": "none"})
    with host.ledger() as first:
        with host.ledger():
            pass
        host.ask("services")
        first.register("alpha", version="1")
        assert [service["host"] for service in host.ask("services")] == ["alpha"]
