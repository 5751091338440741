"""
One `serve` on PostgreSQL: agents that report through it, and the fleet listed.

1,000 hosts of one node with 20 guests each, every one with a token and a connection of its own, run real passes
(`stocktake.refresh.run`, the driver `fake`) from one other process, this one. What the load costs by itself is told
beside: on two cores server, database and load share what there is.
"""

import contextlib
import json
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from tests.context import REPORT, a_guest
from tests.servers.postgres import PrivatePostgres, private_postgres
from tests.servers.serve import Served, served

from stocktake.cli.session import open_context
from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import DatabaseLedger, NodeSave, open_ledger
from stocktake.model.access import digest_of
from stocktake.model.books import Tally
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.settings import read_settings

HOSTS = 1000
GUESTS = 20
NODES = 5000
THREADS = 6
STEADY_S = 20.0
LISTINGS = 7
_FLAVOR = Flavor(vcpus=1, memory_mb=512, root_gb=1)


@dataclass(frozen=True, slots=True)
class Used:
    """Seconds of CPU so far, by who used them."""

    server_s: float
    database_s: float
    load_s: float


def measured(directory: Path) -> list[dict[str, str | float]]:
    """Let all agents report for a while, then list the fleet."""
    with private_postgres() as database:
        url = database.create_database()
        with contextlib.closing(open_ledger(url, clock=SystemClock(), ids=RandomIds())) as ledger:
            tokens = make_instances(ledger, HOSTS)
            with served(directory, url, server__rate_per_s=0) as server:
                rows = [*_reported(directory, server, database, tokens)]
                grown(ledger, NODES)
                rows.append(_listed(server, ledger))
    return rows


def make_instances(ledger: DatabaseLedger, hosts: int) -> list[str]:
    """Put the instances of all hosts into the ledger, and give a token for each host."""
    secrets = []
    for number in range(hosts):
        host = f"host-{number}"
        ledger.put_instances(
            [
                Instance(uuid=uuid, host=host, node=f"{host}.example", vm_state="active", flavor=_FLAVOR)
                for uuid in guests_of(number)
            ]
        )
        secrets.append(f"stk_{number:064d}")
        ledger.tokens.add(digest_of(secrets[-1]), role="agent", host=host)
    return secrets


def guests_of(number: int) -> list[str]:
    """Name a host's guests."""
    return [f"{number:08x}-0000-4000-8000-{guest:012x}" for guest in range(GUESTS)]


@contextmanager
def agents(directory: Path, url: str, tokens: Sequence[str], first: int = 0) -> Iterator[list[Context]]:
    """Open the context of every host from the first on, its books behind the server."""
    opened = []
    for number, token in enumerate(tokens, first):
        host = f"host-{number}"
        folder = directory / host
        folder.mkdir(exist_ok=True)
        node = {"name": f"{host}.example", "resources": REPORT, "guests": [a_guest(uuid) for uuid in guests_of(number)]}
        (folder / "fleet.json").write_text(json.dumps({"nodes": [node]}))
        flags = {
            "host": host,
            "state_path": folder,
            "compute_driver": "fake",
            "fake": {"fleet": folder / "fleet.json"},
            "placement": {"mode": "none"},
            "ledger": url,
            "server": {"token": token},
        }
        opened.append(open_context(read_settings(None, {}, flags), SystemClock(), RandomIds()))
    try:
        yield opened
    finally:
        for context in opened:
            context.close()


def _reported(
    directory: Path, server: Served, database: PrivatePostgres, tokens: Sequence[str]
) -> Iterator[dict[str, str | float]]:
    with agents(directory, server.url, tokens) as opened:
        began_s, before = time.perf_counter(), used(server, database)
        with ThreadPoolExecutor(THREADS) as pool:
            passes = list(pool.map(refresh, opened))
        assert all(one.fine for one in passes)
        yield _row(f"{HOSTS:,} agents x {GUESTS} guests, first", HOSTS, began_s, before, used(server, database))
        began_s, before = time.perf_counter(), used(server, database)
        number = reported_for(opened, STEADY_S)
        yield _row(f"{HOSTS:,} agents x {GUESTS} guests, steady", number, began_s, before, used(server, database))
        for name, every in (("one in ten changed", 10), ("all changed", 1)):
            began_s, before = time.perf_counter(), used(server, database)
            number = reported_for(opened, STEADY_S, changed_every=every)
            yield _row(f"{HOSTS:,} agents x {GUESTS} guests, {name}", number, began_s, before, used(server, database))


def reported_for(opened: Sequence[Context], seconds: float, changed_every: int = 0) -> int:
    """
    Let agents report, each as soon as its turn comes again; give how many passes that were.

    Args:
        changed_every: before one pass in so many a guest starts or ends; 0 lets nothing happen.
    """
    until_s = time.perf_counter() + seconds
    done = [0] * THREADS

    def report(thread: int) -> None:
        mine = opened[thread::THREADS]
        while time.perf_counter() < until_s:
            for context in mine:
                happens = changed_every > 0 and done[thread] % changed_every == 0
                if happens:
                    change(context)
                result = refresh(context)
                assert result.fine, result.failed
                assert bool(result.changed) == happens
                done[thread] += 1
                if time.perf_counter() >= until_s:
                    return

    threads = [threading.Thread(target=report, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done)


def change(context: Context) -> None:
    """Let a guest of a host start or end."""
    file = context.settings.fake.fleet
    assert file is not None
    fleet = json.loads(file.read_text())
    guest = fleet["nodes"][0]["guests"][-1]
    guest["active"] = not guest["active"]
    guest["state"] = "running" if guest["active"] else "shutdown"
    file.write_text(json.dumps(fleet))


def used(server: Served, database: PrivatePostgres) -> Used:
    """Add up the CPU time of the server, the database and this process."""
    assert server.process is not None
    assert database.process is not None
    return Used(
        server_s=_cpu_s(psutil.Process(server.process.pid)),
        database_s=_cpu_s(psutil.Process(database.process.pid)),
        load_s=time.process_time(),
    )


def _cpu_s(process: psutil.Process) -> float:
    own = process.cpu_times()
    total = own.user + own.system + own.children_user + own.children_system
    for child in process.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            total += times.user + times.system
    return float(total)


def _row(case: str, number: int, began_s: float, before: Used, after: Used) -> dict[str, str | float]:
    seconds = time.perf_counter() - began_s
    each = 1000 / number
    return {
        "case": case,
        "per_second": round(number / seconds, 1),
        "server_ms": round((after.server_s - before.server_s) * each, 2),
        "database_ms": round((after.database_s - before.database_s) * each, 2),
        "load_ms": round((after.load_s - before.load_s) * each, 2),
    }


def grown(ledger: DatabaseLedger, nodes: int) -> None:
    """Add nodes that look like one that is there."""
    there = ledger.nodes()
    like = there[0]
    new = [
        replace(like, uuid=f"ffffffff-0000-4000-8000-{number:012x}", hypervisor_hostname=f"more-{number}", generation=0)
        for number in range(nodes - len(there))
    ]
    ledger.save([NodeSave(tally=Tally(node=node, entries=()), expected_generation=None) for node in new])


def _listed(server: Served, ledger: DatabaseLedger) -> dict[str, str | float]:
    taken = []
    with server.client("viewer") as client:
        for _ in range(LISTINGS):
            began_s = time.perf_counter()
            answer = client.get("/v1/nodes", params={"limit": NODES})
            taken.append((time.perf_counter() - began_s) * 1000)
            assert len(answer.json()["items"]) == NODES
    floor = []
    for _ in range(LISTINGS):
        began_s = time.perf_counter()
        ledger.nodes()
        floor.append((time.perf_counter() - began_s) * 1000)
    return {
        "case": f"{NODES:,} nodes listed",
        "median_ms": round(statistics.median(taken), 1),
        "worst_ms": round(max(taken), 1),
        "read_ms": round(statistics.median(floor), 1),
    }
