"""
Processes that claim at once, with an agent that refreshes every second, and with some that are killed: no limit is
exceeded at any moment, nothing is lost or kept for ever. `make soak` does the same for a minute each.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

from stocktake.errors import LedgerUnreachable
from stocktake.ledger import DatabaseLedger
from stocktake.model.value import plain
from tests.claims.desk import DEVICE_SPEC, devices, two_cells
from tests.claims.race import NODE_LIMITS, RACERS, Racers
from tests.context import Fleet
from tests.system.readback import read_back
from tests.system.running import Agent, Host

NODE = "node-alpha"
SECONDS = float(os.environ.get("STOCKTAKE_TEST_RACE_S", "4"))
EXPIRY_S = 2


@contextmanager
def raced(tmp_path: Path, url: str, **settings: object) -> Iterator[tuple[Host, Agent]]:
    """A host with its agent, which refreshes every second."""
    special = {"vcpus": 16, "pcpus": 8, "numa_topology": plain(two_cells()), "pci_passthrough_devices": devices()}
    fleet = Fleet(tmp_path / "fleet.json").has(NODE, report=special)
    given = {
        "host": "alpha",
        "compute_driver": "fake",
        "fake.fleet": fleet.path,
        "database.connection": url,
        "placement.mode": "none",
        "pci.device_spec": list(DEVICE_SPEC),
        "update_resources_interval": 1,
        **settings,
    }
    host = Host(tmp_path / "state", given)
    assert host.run("refresh").code == 0
    with host.agent() as agent:
        yield host, agent


class Onlooker:
    """A connection of its own that looks at the node again and again, at one moment each time."""

    def __init__(self, ledger: DatabaseLedger) -> None:
        self._ledger = ledger
        self._over = threading.Event()
        self.looks = 0
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.005):
            try:
                with self._ledger._database.reading() as connection:
                    tx = self._ledger._transaction(connection)
                    (work,) = tx.work("alpha", [NODE], {}).values()
                    node = work.record
                    assert node is not None
                    entries = tx.entries(node.uuid)
            except LedgerUnreachable:
                continue
            self.looks += 1
            promised = 512 + sum(one.flavor.memory_mb for one in work.instances)
            held = [address for entry in entries for address in entry.pci]
            pins = [cpu for entry in entries for take in entry.cells for cpu in take.pinned_cpus]
            for what, holds in {
                f"memory {node.memory_mb_used}": node.memory_mb_used <= (NODE_LIMITS.memory_mb or 0),
                f"disk {node.local_gb_used}": node.local_gb_used <= (NODE_LIMITS.disk_gb or 0),
                f"promised {promised} of {node.memory_mb_used}": promised <= node.memory_mb_used,
                f"entries of {node.memory_mb_used}": sum(one.memory_mb for one in entries) == node.memory_mb_used,
                f"devices {held}": len(held) == len(set(held)),
                f"pins {pins}": len(pins) == len(set(pins)),
            }.items():
                if not holds:
                    self.wrong.append(what)


def test_given_processes_that_claim_and_release_at_random_then_no_limit_is_exceeded_at_any_moment(
    tmp_path: Path, url: str
) -> None:
    with raced(tmp_path, url) as (host, agent), host.ledger() as ledger, Onlooker(ledger) as onlooker:
        racers = Racers(SECONDS, NODE, host.file)
        racers.start()
        said = racers.wait()
    assert [one for one in said if one.startswith("exit")] == []
    assert len(said) == RACERS
    assert onlooker.wrong == []
    assert onlooker.looks > SECONDS
    assert "ERROR" not in agent.text.upper()
    with host.ledger() as ledger:
        before = ledger.node(NODE)
        assert ledger.instances() == ()
        assert host.run("refresh").code == 0
        after = ledger.node(NODE)
    assert (after.generation, after.memory_mb_used) == (before.generation, 512)


def test_given_processes_that_are_killed_when_their_claims_expire_then_nothing_is_lost_or_kept(
    tmp_path: Path, url: str
) -> None:
    own = {"placement.mode": "embedded", "allocations": "own", "claim_expiry_s": EXPIRY_S}
    with ExitStack() as stack:
        host, agent = stack.enter_context(raced(tmp_path, url, **own))
        ledger = stack.enter_context(host.ledger())
        onlooker = stack.enter_context(Onlooker(ledger))
        racers = Racers(SECONDS, NODE, host.file)
        racers.start(4)
        ticks = threading.Event()
        for _ in range(int(SECONDS)):
            ticks.wait(1)
            racers.kill_one()
        said = racers.wait()
        # What the killed ones had pending is given back; what they had kept is kept.
        agent.until(lambda: all(one.claim_expires_at is None for one in ledger.instances()))
        agent.until(lambda: not ledger.migrations() or all(one.status == "finished" for one in ledger.migrations()))
        # The agent is killed next: what was given back has to be out of Placement, and noted, before.
        agent.until(lambda: not ledger.work("alpha", [NODE], {})[NODE].deleted_uuids)
        kept = {one.uuid for one in ledger.instances()}
        moving = {str(one.uuid) for one in ledger.migrations()}
    assert [one for one in said if one.startswith("exit")] == []
    assert onlooker.wrong == []
    with host.ledger() as books:
        before = books.node(NODE)
        assert host.run("refresh").code == 0
        after = books.node(NODE)
        assert (after.generation, after.memory_mb_used) == (before.generation, before.memory_mb_used)
    with read_back(host.state) as there:
        holding = there.consumers(NODE)
    assert kept <= holding <= kept | moving
