"""What these tests share: a Placement that they may make misbehave, a fleet in a file, and PostgreSQL."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.context import Fleet, context_of
from tests.servers.placement import PlacementServer, private_placement
from tests.servers.postgres import postgres, postgres_url
from tests.system.readback import Readback, remote

__all__ = ["postgres", "postgres_url"]

NAMES = ("one", "two", "three")


@pytest.fixture(scope="module")
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlacementServer]:
    """A Placement of the module's own: it is stopped and made to misbehave."""
    with private_placement(tmp_path_factory.mktemp("placement")) as server:
        yield server


@pytest.fixture
def server(own_server: PlacementServer) -> Iterator[PlacementServer]:
    """That Placement, empty and well-behaved at the start."""
    Readback(own_server.url).clear()
    yield own_server
    own_server.behave()


@pytest.fixture
def there(server: PlacementServer) -> Readback:
    """What that Placement has."""
    return Readback(server.url)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    """The fleet that the fake driver reports."""
    return Fleet(tmp_path / "fleet.json")


@pytest.fixture
def context(tmp_path: Path, fleet: Fleet, server: PlacementServer, request: pytest.FixtureRequest) -> Iterator[Context]:
    """Three nodes, taken stock of once; a driver gets 0.3 s, a request half a second. A test may say who allocates."""
    for name in NAMES:
        fleet.has(name)
    placement = remote(server, timeout_s=0.5, retries_max=1)
    who = getattr(request, "param", "foreign")
    with context_of(tmp_path, placement=placement, driver_timeout_s=0.3, allocations=who) as opened:
        assert refresh(opened).fine
        yield opened


def used(context: Context) -> dict[str, int]:
    """Give the vCPUs in use by node."""
    return {row.hypervisor_hostname: row.vcpus_used for row in context.ledger.nodes()}
