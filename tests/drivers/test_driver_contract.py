"""The drivers `fake` and `host` keep the contract of a driver."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.clock import SystemClock
from stocktake.drivers.base import Driver, load_driver
from stocktake.drivers.fake import FakeDriver
from stocktake.drivers.fake.fleet import FakeFleet, generate_fleet
from stocktake.drivers.host import HostDriver
from stocktake.model.value import encode
from stocktake.settings import Settings, read_settings
from tests.drivers.driver_contract import DriverContract
from tests.drivers.machines import two_cells


def settings_of(tmp_path: Path, **flags: object) -> Settings:
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return read_settings(Path("/dev/null"), {}, {"state_path": str(tmp_path), "host": "contract", **dotted})


class TestGeneratedFleet(DriverContract):
    """A fleet of a seed."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Iterator[Driver]:
        driver = load_driver(settings_of(tmp_path, compute_driver="fake", fake__nodes=20), SystemClock())
        yield driver
        driver.close()


class TestDescribedFleet(DriverContract):
    """A fleet of a file."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        path = tmp_path / "fleet.json"
        path.write_text(encode(FakeFleet(nodes=generate_fleet(6, 3), uptime_s=12.0)))
        return FakeDriver(settings_of(tmp_path, fake__fleet=str(path)), SystemClock())


class TestRecordedMachine(DriverContract):
    """A machine that was recorded."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        return HostDriver(settings_of(tmp_path), root=two_cells(tmp_path / "root"), arch="x86_64")


class TestThisMachine(DriverContract):
    """The machine that the tests run on."""

    @pytest.fixture
    def driver(self, tmp_path: Path) -> Driver:
        return load_driver(settings_of(tmp_path, compute_driver="host"), SystemClock())
