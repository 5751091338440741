"""Where nothing changed nothing is written: not a row of the ledger, not a request to Placement that is not a GET."""

import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from stocktake.drivers.fake.fleet import DEVICE_SPEC
from stocktake.drivers.fake.work import generate_work
from tests.servers.placement import PlacementServer
from tests.system.readback import Readback, remote, writes
from tests.system.running import Host

pytestmark = pytest.mark.system

NODES, SEED = 10, 3
Writes = Callable[[], object]


@pytest.fixture(params=["sqlite", "postgresql"])
def host(request: pytest.FixtureRequest, tmp_path: Path, server: PlacementServer) -> Host:
    """A generated fleet: NUMA, devices, instances in all states, moves, orphans, misplaced guests."""
    settings: dict[str, object] = {"host": "alpha", "compute_driver": "fake", "fake.nodes": NODES, "fake.seed": SEED}
    settings |= {"pci.device_spec": DEVICE_SPEC, "fake.guests": True}
    settings |= {f"placement.{key}": value for key, value in remote(server).items()}
    if request.param == "postgresql":
        settings["database.connection"] = request.getfixturevalue("postgres_url")
    made = Host(tmp_path / "state", settings)
    work = generate_work(SEED, NODES, host="alpha", now=datetime.now(UTC))
    with made.ledger() as ledger:
        ledger.put_instances(work.instances)
        ledger.put_migrations(work.migrations)
    return made


@pytest.fixture
def written(host: Host) -> Iterator[Writes]:
    """Something that differs as soon as anybody has written to the ledger, whatever it was."""
    if host.ledger_url.startswith("sqlite"):
        watcher = sqlite3.connect(host.ledger_url.removeprefix("sqlite:///"))
        yield lambda: watcher.execute("PRAGMA data_version").fetchone()
        watcher.close()
        return
    with psycopg.connect(host.ledger_url, autocommit=True) as connection:
        yield lambda: row_versions(connection)


def row_versions(connection: psycopg.Connection) -> list[Any]:
    """Give the transaction that wrote each row, and the row's place."""
    names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1").fetchall()
    return [
        connection.execute(f"SELECT xmin::text, ctid::text FROM {name} ORDER BY ctid".encode()).fetchall()
        for (name,) in names
    ]


def test_given_a_fleet_where_nothing_changes_when_refreshed_again_then_nothing_is_written_anywhere(
    host: Host, server: PlacementServer, there: Readback, written: Writes
) -> None:
    first = host.run("refresh", "--json")
    assert first.code in (0, 1), first
    assert len(first.data["nodes"]) == NODES
    # Stale migrations are settled by the first pass.
    host.run("refresh")
    lines, rows, before = host.dump(), written(), there.everything()
    told = writes(server)
    for words in (("refresh",), ("refresh", "--full"), ("refresh", "--node", "node-00003")):
        result = host.run(*words, "--json")
        assert result.data["placement_writes"] == 0
        assert [node["changed"] for node in result.data["nodes"]] == [False] * len(result.data["nodes"])
        assert writes(server) == told, words
        assert written() == rows, words
    assert host.dump() == lines
    assert there.everything() == before
    host.ask("services", "disable", "alpha", "--reason", "to see that the watcher sees")
    assert written() != rows


def test_given_a_first_pass_when_the_second_runs_then_that_writes_nothing_already(
    host: Host, server: PlacementServer
) -> None:
    host.run("refresh")
    lines, told = host.dump(), writes(server)
    host.run("refresh")
    assert (host.dump(), writes(server)) == (lines, told)
