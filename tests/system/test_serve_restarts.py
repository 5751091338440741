"""Two servers on one PostgreSQL, killed and started in turn under load: nothing is lost, and nothing is doubled."""

import contextlib
import itertools
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from bench.serve import agents, guests_of, make_instances

from stocktake.claims import Claimed, Request
from stocktake.client import Fleet, connected
from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import AlreadyThere, LedgerUnreachable
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.model.workload import Flavor
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.servers.postgres import postgres, postgres_url
from tests.servers.serve import Served, secret_of, served

__all__ = ["postgres", "postgres_url"]

HOSTS = 12
KILLS = 4
SMALL = Flavor(vcpus=1, memory_mb=16)

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]


class Load:
    """Agents that report, and people who claim, until told to end; keeps what they were told."""

    def __init__(self, fleets: Sequence[Fleet], opened: Sequence[Context]) -> None:
        self.over = threading.Event()
        self.fleets = fleets
        self.passes = Counter[str]()
        self.claimed: list[str] = []
        self.wrong: list[BaseException] = []
        self.threads = [threading.Thread(target=self._guarded, args=(self._report, [context])) for context in opened]
        self.threads.append(threading.Thread(target=self._guarded, args=(self._claim, [])))

    def _guarded(self, work: "object", arguments: list[Context]) -> None:
        try:
            work(*arguments)  # type: ignore[operator]
        except BaseException as error:  # noqa: BLE001  # whatever it is, the test is to know
            self.wrong.append(error)

    def _report(self, context: Context) -> None:
        while not self.over.is_set():
            # As an agent: a pass that could not be done is done again.
            try:
                result = refresh(context)
            except LedgerUnreachable:
                self.passes["missed"] += 1
                continue
            assert result.fine, result.failed
            self.passes[context.rules.host] += 1

    def _claim(self) -> None:
        """Claim, and ask again under the same uuid where no answer came, of the other server."""
        ids = RandomIds()
        for fleet in itertools.cycle(self.fleets):
            if self.over.is_set():
                return
            uuid = ids.uuid()
            if self._built(uuid, fleet):
                self.claimed.append(uuid)

    def _built(self, uuid: str, first: Fleet) -> bool:
        for fleet in itertools.islice(itertools.cycle([first, *self.fleets]), 50):
            try:
                return isinstance(fleet.claims.build("auto", Request(uuid=uuid, flavor=SMALL)), Claimed)
            except AlreadyThere:
                return True
            except LedgerUnreachable:
                continue
        raise AssertionError("no server came back")


@contextlib.contextmanager
def two_servers(directory: Path, url: str) -> Iterator[list[Served]]:
    with contextlib.ExitStack() as opened:
        servers = []
        for name in ("one", "two"):
            (directory / name).mkdir()
            servers.append(opened.enter_context(served(directory / name, url)))
        yield servers


def test_given_two_servers_when_they_are_killed_in_turn_under_load_then_nothing_is_lost_or_doubled(
    tmp_path: Path, postgres_url: str
) -> None:
    with contextlib.closing(open_ledger(postgres_url, clock=SystemClock(), ids=RandomIds())) as ledger:
        tokens = make_instances(ledger, HOSTS)
        with two_servers(tmp_path, postgres_url) as servers, contextlib.ExitStack() as opened:
            (tmp_path / "hosts").mkdir()
            context = [
                *opened.enter_context(agents(tmp_path / "hosts", servers[0].url, tokens[: HOSTS // 2])),
                *opened.enter_context(agents(tmp_path / "hosts", servers[1].url, tokens[HOSTS // 2 :], HOSTS // 2)),
            ]
            for one in context:
                assert refresh(one).fine
            fleets = [opened.enter_context(connected(one.url, token=secret_of("operator"))) for one in servers]
            load = Load(fleets, context)
            for thread in load.threads:
                thread.start()
            for server in itertools.islice(itertools.cycle(servers), KILLS):
                _wait_for_more(load)
                server.stop(signal.SIGKILL)
                server.start()
            _wait_for_more(load)
            load.over.set()
            for thread in load.threads:
                thread.join(timeout=60)
            assert not load.wrong, load.wrong
            assert len(load.claimed) > KILLS
            for one in context:
                assert refresh(one).fine
            check(ledger, load)


def _wait_for_more(load: Load) -> None:
    """Wait until every agent has reported again and somebody has claimed."""
    before, claimed = Counter(load.passes), len(load.claimed)
    hosts = [f"host-{number}" for number in range(HOSTS)]
    until_s = time.monotonic() + 60
    while not (all(load.passes[host] > before[host] for host in hosts) and len(load.claimed) > claimed):
        assert time.monotonic() < until_s, (load.passes, load.wrong)
        load.over.wait(0.05)


def check(ledger: DatabaseLedger, load: Load) -> None:
    """Every promise that was told is there once, is counted once, and every node is there once."""
    found = Counter(one.uuid for one in ledger.instances())
    theirs = {uuid for number in range(HOSTS) for uuid in guests_of(number)}
    assert set(found) == theirs | set(load.claimed)
    assert set(found.values()) == {1}
    nodes = ledger.nodes()
    assert Counter(node.hypervisor_hostname for node in nodes) == Counter(
        f"host-{number}.example" for number in range(HOSTS)
    )
    held = Counter(
        entry.id
        for entries in ledger.all_entries([node.uuid for node in nodes]).values()
        for entry in entries
        if entry.kind == "instance"
    )
    assert held == found
    assert sum(node.vcpus_used for node in nodes) == len(found)
