"""How a driver is found: by name, by `auto`, through a third party's entry point; and what is said if it can't be."""

import importlib
import sys
from pathlib import Path

import pytest

from stocktake.clock import SystemClock
from stocktake.drivers.base import driver_names, load_driver
from stocktake.errors import DriverError, DriverUnreachable, SettingsError
from stocktake.settings import Settings, read_settings

THIRD_PARTY = """
from stocktake.errors import DriverUnreachable


class Good:
    name = "good"
    def node_names(self): return ("a",)
    def survey(self, nodes): return {}
    def node_exists(self, node): return True
    def uptime_s(self): return None
    def close(self): pass


def good(settings, clock): return Good()
def not_a_driver(settings, clock): return object()
def wrong_signature(): return Good()
def raises(settings, clock): raise RuntimeError("no licence")
def away(settings, clock): raise DriverUnreachable("switched off")
"""
ENTRY_POINTS = """[stocktake.drivers]
good = third_party_driver:good
not-a-driver = third_party_driver:not_a_driver
wrong-signature = third_party_driver:wrong_signature
raises = third_party_driver:raises
away = third_party_driver:away
no-module = third_party_that_is_not_there:x
no-attribute = third_party_driver:absent
"""


@pytest.fixture(autouse=True)
def third_party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a package with drivers, good ones and bad ones."""
    folder = tmp_path / "third_party-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
    (folder / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "third_party_driver.py").write_text(THIRD_PARTY)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "third_party_driver", raising=False)
    importlib.invalidate_caches()


def settings_of(driver: str, **flags: object) -> Settings:
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return read_settings(Path("/dev/null"), {}, {"state_path": "/nowhere", "compute_driver": driver, **dotted})


@pytest.mark.parametrize("name", ["fake", "host", "good"])
def test_given_a_name_then_that_driver_is_opened(name: str) -> None:
    assert load_driver(settings_of(name), SystemClock()).name == name


def test_given_an_unknown_name_then_the_error_lists_those_there_are() -> None:
    with pytest.raises(SettingsError) as caught:
        load_driver(settings_of("hyperv"), SystemClock())
    assert "there is no driver 'hyperv'" in str(caught.value)
    assert {"fake", "host", "libvirt", "good"} <= set(driver_names())
    assert all(name in caught.value.remedy for name in ("auto", *driver_names()))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("not-a-driver", "gave a object, which lacks a part of a driver"),
        ("wrong-signature", "can't be loaded: TypeError"),
        ("raises", "can't be loaded: RuntimeError: no licence"),
        ("no-module", "can't be loaded: ModuleNotFoundError"),
        ("no-attribute", "can't be loaded: AttributeError"),
    ],
)
def test_given_a_wrong_plug_in_then_a_driver_error_says_whose_it_is(name: str, told: str) -> None:
    with pytest.raises(DriverError) as caught:
        load_driver(settings_of(name), SystemClock())
    assert told in str(caught.value)
    assert caught.value.where.startswith(f"driver {name} (third_party")


def test_given_a_plug_in_that_can_not_reach_its_hypervisor_then_its_own_error_comes_through() -> None:
    with pytest.raises(DriverUnreachable, match="switched off"):
        load_driver(settings_of("away"), SystemClock())


def test_given_auto_and_no_answer_then_the_driver_is_host(tmp_path: Path) -> None:
    nowhere = f"qemu+unix:///system?socket={tmp_path}/no-socket"
    driver = load_driver(settings_of("auto", libvirt__connection_uri=nowhere), SystemClock())
    assert driver.name == "host"


def test_given_auto_and_an_answer_then_the_driver_is_libvirt() -> None:
    pytest.importorskip("libvirt")
    driver = load_driver(settings_of("auto", libvirt__connection_uri="test:///default"), SystemClock())
    try:
        assert driver.name == "libvirt"
    finally:
        driver.close()


def test_given_auto_and_no_library_then_the_driver_is_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert load_driver(settings_of("auto", libvirt__connection_uri="test:///default"), SystemClock()).name == "host"
