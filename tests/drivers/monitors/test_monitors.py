"""How monitors are found, under our names and Nova's."""

import importlib
import sys
from pathlib import Path

import pytest

from stocktake.clock import SystemClock
from stocktake.drivers.monitors import Monitor, load_monitors
from stocktake.drivers.monitors.cpu import CpuMonitor
from stocktake.errors import DriverError, SettingsError
from stocktake.settings import Settings, read_settings

THIRD_PARTY = """
from stocktake.errors import DriverUnreachable


class Power:
    def read(self, node): return ()


def power(settings, clock): return Power()
def nothing(settings, clock): return 5
def raises(settings, clock): raise RuntimeError("no sensor")
def away(settings, clock): raise DriverUnreachable("no BMC")
"""
ENTRY_POINTS = """[stocktake.monitors]
power = third_party_monitor:power
nothing = third_party_monitor:nothing
raises = third_party_monitor:raises
away = third_party_monitor:away
"""


@pytest.fixture(autouse=True)
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with monitors, good ones and bad ones."""
    folder = tmp_path / "third_party-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "third_party_monitor.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "third_party_monitor", raising=False)
    importlib.invalidate_caches()


def settings_of(*monitors: str) -> Settings:
    return read_settings(Path("/dev/null"), {}, {"state_path": "/nowhere", "compute_monitors": list(monitors)})


@pytest.mark.parametrize(
    ("names", "count"),
    [((), 0), (("cpu",), 1), (("cpu.virt_driver",), 1), (("cpu", "cpu.virt_driver"), 1), (("power", "cpu"), 2)],
)
def test_given_names_then_each_monitor_is_opened_once(names: tuple[str, ...], count: int) -> None:
    monitors = load_monitors(settings_of(*names), SystemClock())
    assert len(monitors) == count
    assert all(isinstance(monitor, Monitor) for monitor in monitors)


def test_given_an_order_then_it_is_kept() -> None:
    first, second = load_monitors(settings_of("power", "cpu"), SystemClock())
    assert isinstance(second, CpuMonitor)
    assert not isinstance(first, CpuMonitor)


def test_given_an_unknown_name_then_the_error_lists_those_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        load_monitors(settings_of("gpu"), SystemClock())
    assert "there is no monitor 'gpu'" in str(caught.value)
    assert all(name in caught.value.remedy for name in ("cpu", "power", "away"))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nothing", "gave a int, which lacks a part of a monitor"),
        ("raises", "can't be loaded: RuntimeError: no sensor"),
    ],
)
def test_given_a_wrong_plug_in_then_a_driver_error_says_whose_it_is(name: str, told: str) -> None:
    with pytest.raises(DriverError) as caught:
        load_monitors(settings_of(name), SystemClock())
    assert told in str(caught.value)
    assert caught.value.where == f"monitor {name} (third_party_monitor:{name})"


def test_given_a_plug_in_that_is_away_then_its_own_error_comes_through() -> None:
    with pytest.raises(Exception, match="no BMC"):
        load_monitors(settings_of("away"), SystemClock())
