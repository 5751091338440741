"""Three agents on one Ironic and one ledger divide its nodes, and each node has one owner whoever comes and goes."""

import contextlib
import json
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import open_ledger
from stocktake.model.workload import Flavor, Instance
from tests.servers.ironic import HOME, IronicServer, private_ironic
from tests.servers.placement import PlacementServer
from tests.servers.postgres import PrivatePostgres, postgres
from tests.system.readback import Readback, remote
from tests.system.running import Agent, Host

__all__ = ["postgres"]

NODES = 36
INTERVAL_S = 2
DOWN_S = 3
LOOK_S = 0.2
# A pass takes a while on a machine that does much else.
SLACK_S = 15.0
_TOOZ = """
import json, sys
from tooz.hashring import HashRing
members, keys = json.load(sys.stdin)
ring = HashRing(members)
print(json.dumps({key: next(iter(ring.get_nodes(key.encode()))) for key in keys}))
"""


class Row(NamedTuple):
    """Whose a node is, and by whose address it was reported last."""

    host: str
    host_ip: str


class Watcher:
    """Looks at the ledger from outside, five times a second, and remembers all that it sees."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._over = threading.Event()
        self.seen: list[tuple[float, dict[str, list[Row]]]] = []
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stop looking."""
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            while not self._over.wait(LOOK_S):
                rows: dict[str, list[Row]] = {}
                query = "SELECT uuid, host, host_ip FROM compute_nodes WHERE deleted = 0"
                for uuid, *row in connection.execute(query):
                    rows.setdefault(uuid, []).append(Row(*row))
                self.seen.append((time.monotonic(), rows))


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IronicServer]:
    """A server whose nodes are in two shards."""
    with private_ironic(tmp_path_factory.mktemp("ironic"), nodes=NODES, shards=2) as server:
        yield server


class Fleet:
    """Some hosts on one ledger, one Placement and one Ironic."""

    def __init__(self, directory: Path, ledger: str, ironic: IronicServer, placement: PlacementServer) -> None:
        self.ledger = ledger
        self._directory = directory
        self._ironic = ironic
        self._placement = placement
        self._running = contextlib.ExitStack()
        self.agents: dict[str, Agent] = {}

    def host(self, name: str, **ironic: object) -> Host:
        """Make a host; its address tells who reported a node."""
        host = Host(self._directory / name)
        host.set(
            host=name,
            my_ip=address(name),
            compute_driver="ironic",
            update_resources_interval=INTERVAL_S,
            report_interval=1,
            service_down_time=DOWN_S,
            database__connection=self.ledger,
            ironic={"endpoint_override": self._ironic.url, **ironic},
            placement=remote(self._placement),
        )
        return host

    def start(self, name: str, **ironic: object) -> Agent:
        """Start its agent."""
        agent = self._running.enter_context(self.host(name, **ironic).agent())
        self.agents[name] = agent
        return agent

    def kill(self, name: str) -> None:
        """Kill it, as a power cut does."""
        self.agents.pop(name).kill()

    def owners(self) -> dict[str, str]:
        """Whose the nodes are."""
        with psycopg.connect(self.ledger) as connection:
            rows = connection.execute("SELECT uuid, host FROM compute_nodes WHERE deleted = 0").fetchall()
        return dict(rows)

    def close(self) -> None:
        """Kill all."""
        self._running.close()


def address(name: str) -> str:
    """A host's address."""
    return f"192.0.2.{name[-1]}"


@pytest.fixture
def fleet(tmp_path: Path, postgres: PrivatePostgres, ironic: IronicServer, server: PlacementServer) -> Iterator[Fleet]:
    """Hosts on an empty ledger in PostgreSQL."""
    url = postgres.create_database()
    open_ledger(url, clock=SystemClock(), ids=RandomIds()).close()
    fleet = Fleet(tmp_path, url, ironic, server)
    yield fleet
    fleet.close()
    postgres.drop_database(url)


def as_tooz_says(members: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """Divide by the library that Nova and Ironic divide by, which Ironic's own Python has."""
    asked = json.dumps([members, keys])
    command = [str(HOME / "bin" / "python"), "-W", "ignore", "-c", _TOOZ]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=True)
    owners: dict[str, str] = json.loads(done.stdout)
    return owners


def judge(seen: Sequence[tuple[float, Mapping[str, Sequence[Row]]]]) -> None:
    """Every node has one owner whenever somebody looks, is reported by no other, and by him within an interval."""
    uuids = set(seen[0][1])
    given_s: dict[str, float] = {}
    before: dict[str, Row] = {}
    for at_s, rows in seen:
        assert set(rows) == uuids
        assert all(len(found) == 1 for found in rows.values())
        for uuid, (row,) in rows.items():
            last = before.get(uuid, row)
            if row.host != last.host:
                given_s[uuid] = at_s
            if row.host_ip != last.host_ip:
                assert row.host_ip == address(row.host), f"{uuid} is {row.host}'s and {row.host_ip} reported it"
            if row.host_ip == address(row.host):
                given_s.pop(uuid, None)
            assert at_s - given_s.get(uuid, at_s) < INTERVAL_S + SLACK_S, f"{row.host} does not report {uuid}"
            before[uuid] = row


def test_given_three_agents_when_one_is_killed_and_one_added_then_every_node_has_one_owner_all_the_time(
    fleet: Fleet, ironic: IronicServer, there: Readback
) -> None:
    for name in ("metal-1", "metal-2", "metal-3"):
        fleet.start(name)
    some = fleet.agents["metal-1"]
    some.until(lambda: len(fleet.owners()) == NODES)
    uuids = sorted(fleet.owners())
    some.until(lambda: fleet.owners() == as_tooz_says(sorted(fleet.agents), uuids))
    watcher = Watcher(fleet.ledger)
    killed_s = time.monotonic()
    fleet.kill("metal-2")
    some.until(lambda: "metal-2" not in fleet.owners().values())
    assert time.monotonic() - killed_s < DOWN_S + INTERVAL_S + SLACK_S
    some.until(lambda: fleet.owners() == as_tooz_says(sorted(fleet.agents), uuids))
    fleet.start("metal-4")
    added_s = time.monotonic()
    some.until(lambda: fleet.owners() == as_tooz_says(sorted(fleet.agents), uuids))
    assert time.monotonic() - added_s < 2 * (INTERVAL_S + SLACK_S)
    # A node that changed hands is seen to by its new owner.
    moved = next(uuid for uuid, host in fleet.owners().items() if host == "metal-4")
    ironic.maintain(moved, "disk")
    some.until(lambda: there.inventories(moved) and reserved(there, moved) == 1)
    watcher.end()
    judge(watcher.seen)
    assert {name: one["uuid"] for name, one in there.providers().items()} == {uuid: uuid for uuid in uuids}
    ironic.maintain(moved, None)


def reserved(there: Readback, uuid: str) -> int:
    """How much of a machine is kept back."""
    (held,) = there.inventories(uuid).values()
    kept: int = held["reserved"]
    return kept


def test_given_agents_of_two_shards_when_a_node_moves_between_them_then_it_keeps_provider_and_allocations(
    fleet: Fleet, ironic: IronicServer, there: Readback
) -> None:
    one = fleet.start("metal-1", shard="s0")
    fleet.start("metal-2", shard="s1")
    one.until(lambda: sorted(fleet.owners().values()) == ["metal-1"] * (NODES // 2) + ["metal-2"] * (NODES // 2))
    uuid = next(uuid for uuid, host in fleet.owners().items() if host == "metal-1")
    one.until(lambda: uuid in there.providers() and there.inventories(uuid))
    consumer = "11111111-1111-4111-8111-111111111111"
    (name,) = there.inventories(uuid)
    there.allocate(consumer, {uuid: {name: 1}})
    flavor = Flavor(vcpus=1, memory_mb=1)
    with fleet.host("metal-1", shard="s0").ledger() as ledger:
        ledger.put_instances([Instance(uuid=consumer, host="metal-1", node=uuid, vm_state="active", flavor=flavor)])
    watcher = Watcher(fleet.ledger)
    ironic.set(uuid, shard="s1")
    one.until(lambda: fleet.owners()[uuid] == "metal-2")
    with fleet.host("metal-2").ledger() as ledger:
        one.until(lambda: ledger.node(uuid).running_vms == 1 and ledger.node(uuid).failure is None)
        (instance,) = ledger.instances()
    watcher.end()
    judge(watcher.seen)
    assert instance.host == "metal-2"
    assert there.providers()[uuid]["uuid"] == uuid
    assert there.consumers(uuid) == {consumer}
    ironic.set(uuid, shard="s0")
    one.until(lambda: fleet.owners()[uuid] == "metal-1")
    assert there.consumers(uuid) == {consumer}
