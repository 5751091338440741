"""What libvirt tells and what is kept because of it, with real guests on a private libvirtd."""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.drivers.libvirt import events
from stocktake.drivers.libvirt.driver import LibvirtDriver
from tests.drivers.libvirt.hearing import Asked
from tests.drivers.libvirt.test_driver import by_name, driver_for, survey_of
from tests.servers.libvirtd import GuestSpec, PrivateLibvirtd, private_libvirtd
from tests.wakes import Wakes

pytestmark = pytest.mark.system


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> Wakes:
    """Count what is told; what the driver does by the clock would come among it."""
    monkeypatch.setattr(events, "LOOKS_AGAIN_MS", (3_600_000,))
    return Wakes()


@pytest.fixture
def own() -> Iterator[PrivateLibvirtd]:
    """A libvirtd that a test may kill and start."""
    with private_libvirtd() as server:
        yield server


def names_of(driver: LibvirtDriver) -> dict[str, str]:
    return {guest.name: guest.state for guest in by_name(survey_of(driver)).values()}


def test_given_real_guests_when_nothing_happens_then_a_survey_asks_nothing_of_any(
    libvirtd: PrivateLibvirtd, wakes: Wakes, asked: Asked
) -> None:
    for name in ("a", "b"):
        libvirtd.start(GuestSpec(name=name, vcpus=2, disks_gib=(1, 2)))
    libvirtd.define(GuestSpec(name="off", disks_gib=(1,)))
    driver = driver_for(libvirtd.uri, libvirtd.images)
    driver.watch(wakes.wake)
    first = survey_of(driver)
    assert asked.taken()["virDomain.XMLDesc"] == 3
    for _ in range(8):
        assert survey_of(driver).guests == first.guests
    assert asked.taken() == {}

    libvirtd.destroy("a")
    libvirtd.boot("off")
    wakes.until(2)
    assert names_of(driver) == {"a": "shutoff", "b": "paused", "off": "paused"}
    # Two were read again; this was the tenth survey, so that everything is read by the next.
    assert asked.taken() == {"virDomain.XMLDesc": 2}
    survey_of(driver)
    assert asked.taken()["virDomain.XMLDesc"] == 3
    assert driver.cache_lies == 0
    driver.close()


def test_given_a_guest_that_is_starting_then_it_is_counted_and_more_is_to_come_until_it_has(
    libvirtd: PrivateLibvirtd, wakes: Wakes
) -> None:
    libvirtd.define(GuestSpec(name="a", vcpus=2))
    driver = driver_for(libvirtd.uri, libvirtd.images)
    driver.watch(wakes.wake)
    survey_of(driver)
    assert not driver.settling()
    start = threading.Thread(target=libvirtd.boot, args=("a",))
    start.start()
    # It takes some tenths of a second, a survey some thousandths.
    while not driver.settling():
        assert start.is_alive(), "it was never seen starting"
        guest = by_name(survey_of(driver))["a"]
    assert (guest.active, guest.vcpus) == (True, 2)
    start.join()
    survey_of(driver)
    assert not driver.settling()
    driver.close()


def test_given_a_libvirtd_that_is_killed_then_that_wakes_and_when_it_is_back_all_is_read_and_told_again(
    own: PrivateLibvirtd, wakes: Wakes, asked: Asked
) -> None:
    own.start(GuestSpec(name="stays", vcpus=2))
    own.define(GuestSpec(name="edited"))
    driver = driver_for(own.uri, own.images)
    driver.watch(wakes.wake)
    survey_of(driver)
    told = wakes.count
    own.kill()
    wakes.until(told + 1)
    own.start_daemon()
    # Nobody was told of this.
    own.boot("edited")
    own.connection.lookupByName("edited").destroy()
    asked.taken()
    assert names_of(driver) == {"edited": "shutoff", "stays": "paused"}
    assert asked.taken()["virDomain.XMLDesc"] == 2
    told = wakes.count
    own.boot("edited")
    wakes.until(told + 1)
    assert names_of(driver) == {"edited": "paused", "stays": "paused"}
    driver.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read the image")
def test_given_images_that_only_libvirtd_may_read_then_it_is_asked_once_for_each(
    libvirtd: PrivateLibvirtd, wakes: Wakes, asked: Asked
) -> None:
    libvirtd.define(GuestSpec(name="a", disks_gib=(2,)))
    image = libvirtd.images / "a-0.qcow2"
    image.chmod(0o600)
    driver = driver_for(libvirtd.uri, libvirtd.images)
    driver.watch(wakes.wake)
    survey_of(driver)
    os.seteuid(65533)
    try:
        # It is kept as of its first reading, unless its file changes: that it may not be opened any more is no change.
        assert by_name(survey_of(driver))["a"].disk_mb == 2048
        image_was_touched(image)
        sizes = [by_name(survey_of(driver))["a"].disk_mb for _ in range(5)]
    finally:
        os.seteuid(0)
    assert sizes == [2048] * 5
    assert asked.taken()["virDomain.blockInfo"] == 1
    driver.close()


def image_was_touched(image: Path) -> None:
    """Have a file's status change, as its guest's writing does."""
    me = os.geteuid()
    os.seteuid(0)
    os.utime(image)
    os.seteuid(me)
