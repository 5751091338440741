"""The driver `ironic` between passes: what changes is seen soon and for little. And it keeps a driver's contract."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.drivers.base import Driver, Watching
from stocktake.model.hypervisor import Survey
from tests.drivers.driver_contract import DriverContract
from tests.servers.between import Between, between
from tests.servers.ironic import IronicServer, private_ironic
from tests.system.metal import metal_context

NODES = 30
SOON_S = 150.0
NOWHERE = {"mode": "none"}


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IronicServer]:
    """A server with nodes of which none was ever changed."""
    with private_ironic(tmp_path_factory.mktemp("ironic"), nodes=NODES) as server:
        yield server


class TestIronic(DriverContract):
    """A real Ironic's nodes."""

    @pytest.fixture
    def driver(self, tmp_path: Path, ironic: IronicServer) -> Iterator[Driver]:
        with metal_context(tmp_path, ironic.url, placement=NOWHERE) as parts:
            yield parts.driver


class Watched:
    """A driver that looks for changes ten times a second, through a proxy that notes what it asks."""

    def __init__(self, driver: Driver, proxy: Between) -> None:
        self.driver = driver
        self.proxy = proxy
        self.woken = threading.Event()
        self.names = driver.node_names()
        assert isinstance(driver, Watching)
        driver.watch(self.woken.set)

    def seen(self, uuid: str) -> dict[str, object]:
        """Wait until it wakes somebody, and give a node's stats as the pass that follows has them."""
        assert self.woken.wait(SOON_S)
        self.woken.clear()
        self.proxy.paths.clear()
        self.names = self.driver.node_names()
        survey = self.driver.survey(self.names)[uuid]
        assert isinstance(survey, Survey)
        stats = survey.report["stats"]
        assert isinstance(stats, dict)
        return stats

    @property
    def lists(self) -> int:
        """How many times all nodes were listed since the last wake-up."""
        return sum(path.startswith("/v1/nodes?") for path in self.proxy.paths)


@pytest.fixture
def watched(tmp_path: Path, ironic: IronicServer) -> Iterator[Watched]:
    """A driver that has listed all nodes once."""
    settings = {"changes_interval_s": 0.1}
    with between(ironic.url) as proxy, metal_context(tmp_path, proxy.url, placement=NOWHERE, ironic=settings) as parts:
        yield Watched(parts.driver, proxy)


def test_given_a_node_that_changes_when_watched_then_it_is_seen_without_listing_all(
    ironic: IronicServer, watched: Watched
) -> None:
    uuid = watched.names[NODES // 2]
    ironic.maintain(uuid, "disk")
    assert watched.seen(uuid)["maintenance_reason"] == "disk"
    assert watched.lists == 0
    ironic.maintain(uuid, None)
    assert "maintenance" not in watched.seen(uuid)
    assert watched.lists == 0


def test_given_a_new_node_when_watched_then_it_is_seen_though_it_was_never_changed(
    ironic: IronicServer, watched: Watched
) -> None:
    born = {"driver": "fake-hardware", "name": "bm-new", "resource_class": "gold"}
    uuid = ironic.ask("POST", "/v1/nodes", born)["uuid"]
    assert watched.seen(uuid)["provision_state"] == "enroll"
    assert (watched.lists, uuid in watched.names) == (0, True)
    ironic.delete(uuid)


def test_given_a_pass_that_nobody_woke_when_it_runs_then_all_nodes_are_listed_and_what_is_gone_is_gone(
    ironic: IronicServer, watched: Watched
) -> None:
    uuid = ironic.enrol("bm-gone")
    watched.seen(uuid)
    ironic.delete(uuid)
    assert uuid not in watched.driver.node_names()
    assert watched.lists == 1


def test_given_an_ironic_that_was_away_when_it_is_back_then_a_pass_is_asked_for_that_lists_all(
    ironic: IronicServer, watched: Watched
) -> None:
    uuid = watched.names[0]
    watched.proxy.misbehave("/v1/nodes/detail", answer=503, times=4)
    watched.seen(uuid)
    assert watched.lists == 1
