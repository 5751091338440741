"""What libvirt tells and what is kept because of it, on its test driver, which all connections of a process share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import libvirt
import pytest

from stocktake.drivers.base import Watching
from stocktake.drivers.libvirt import events
from stocktake.drivers.libvirt.driver import LibvirtDriver
from stocktake.drivers.libvirt.events import DEVICE_KINDS, GUEST_KINDS
from stocktake.drivers.libvirt.facts import _page_counts
from tests.drivers.libvirt.hearing import Asked
from tests.drivers.libvirt.test_driver import by_name, driver_for, survey_of, verified
from tests.wakes import Wakes

FULL_EVERY = 4


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


@pytest.fixture
def wakes(monkeypatch: pytest.MonkeyPatch) -> Wakes:
    """Count what is told; what the driver does by the clock would come among it."""
    monkeypatch.setattr(events, "LOOKS_AGAIN_MS", (3_600_000,))
    return Wakes()


@pytest.fixture
def sample() -> Iterator[Any]:
    """The guest of libvirt's test driver, which all connections of a process share; it is left as it was."""
    connection = libvirt.open("test:///default")
    domain = connection.lookupByName("test")
    yield domain
    domain.setVcpus(2)
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None, None, None)
    connection.close()


@pytest.fixture
def sample_host(tmp_path: Path) -> Iterator[LibvirtDriver]:
    driver = driver_for("test:///default", tmp_path, **{"libvirt.full_read_every": FULL_EVERY})
    yield driver
    driver.close()


def entitle(domain: Any, title: str) -> None:
    domain.setMetadata(libvirt.VIR_DOMAIN_METADATA_TITLE, title, None, None)


def title_of(driver: LibvirtDriver) -> str | None:
    return by_name(survey_of(driver))["test"].metadata.get("title")


def vcpus_of(driver: LibvirtDriver) -> int:
    return by_name(survey_of(driver))["test"].vcpus


def stale(driver: LibvirtDriver) -> list[tuple[str, str]]:
    """Survey, and give what its host's problems say of stale definitions, as the record will have them."""
    found = survey_of(driver).problems
    return [(problem.about, problem.text) for problem in found if problem.code == "stale-definition"]


def test_given_a_driver_that_is_watched_when_a_guest_changes_then_it_wakes_and_the_next_survey_has_it(
    sample_host: LibvirtDriver, wakes: Wakes, sample: Any, asked: Asked
) -> None:
    assert isinstance(sample_host, Watching)
    sample_host.watch(wakes.wake)
    assert title_of(sample_host) is None
    entitle(sample, "first")
    wakes.until(1)
    asked.taken()
    assert title_of(sample_host) == "first"
    assert asked.taken() == {"virDomain.XMLDesc": 1}
    assert title_of(sample_host) == "first"
    assert asked.taken() == {}


def test_given_a_driver_that_was_asked_before_when_it_is_watched_then_it_tells_from_the_next_survey_on(
    sample_host: LibvirtDriver, wakes: Wakes, sample: Any
) -> None:
    survey_of(sample_host)
    sample_host.watch(wakes.wake)
    survey_of(sample_host)
    entitle(sample, "late")
    wakes.until(1)
    assert title_of(sample_host) == "late"


def test_given_a_new_connection_then_it_is_looked_at_again_a_few_times_without_an_event(
    sample_host: LibvirtDriver, wakes: Wakes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "LOOKS_AGAIN_MS", (1, 2, 3))
    sample_host.watch(wakes.wake)
    survey_of(sample_host)
    wakes.until(3)


def test_given_ten_thousand_events_then_each_wakes_and_the_last_is_what_is_read(
    sample_host: LibvirtDriver, wakes: Wakes, sample: Any, asked: Asked
) -> None:
    sample_host.watch(wakes.wake)
    survey_of(sample_host)
    asked.taken()
    for number in range(10_000):
        entitle(sample, str(number))
    wakes.until(10_000)
    assert title_of(sample_host) == "9999"
    assert asked.taken() == {"virDomain.XMLDesc": 1}


def test_given_nobody_who_watches_then_nothing_is_kept(sample_host: LibvirtDriver, sample: Any) -> None:
    assert vcpus_of(sample_host) == 2
    sample.setVcpus(1)
    assert vcpus_of(sample_host) == 1
    assert sample_host.cache_lies == 0


def test_given_a_change_that_libvirt_does_not_tell_when_everything_is_read_again_then_it_is_found_and_told(
    sample_host: LibvirtDriver, wakes: Wakes, sample: Any
) -> None:
    sample_host.watch(wakes.wake)
    seen = [vcpus_of(sample_host)]
    sample.setVcpus(1)
    seen += [vcpus_of(sample_host) for _ in range(FULL_EVERY)]
    # The last of these read everything; whether an event comes late after all is seen by the next.
    assert seen == [2] * FULL_EVERY + [1]
    assert sample_host.cache_lies == 0
    for _ in range(FULL_EVERY):
        ((about, text),) = stale(sample_host)
        assert about == sample.UUIDString()
        assert text.startswith("guest test ")
    assert sample_host.cache_lies == 1
    assert stale(sample_host) == []
    assert wakes.count == 0


def test_given_a_change_that_is_told_when_everything_is_read_again_then_nothing_is_stale(
    sample_host: LibvirtDriver, wakes: Wakes, sample: Any
) -> None:
    sample_host.watch(wakes.wake)
    survey_of(sample_host)
    for number in range(2 * FULL_EVERY + 2):
        entitle(sample, str(number))
        # Whether the event comes before the survey or after it is left to chance; it comes before the next one.
        assert stale(sample_host) == []
        wakes.until(number + 1)
    assert sample_host.cache_lies == 0


@pytest.mark.parametrize("kind", GUEST_KINDS)
def test_given_a_kind_of_guests_events_that_is_not_known_then_no_definition_is_trusted(
    sample_host: LibvirtDriver, wakes: Wakes, sample: Any, monkeypatch: pytest.MonkeyPatch, kind: int
) -> None:
    register = libvirt.virConnect.domainEventRegisterAny

    def refuse(connection: Any, domain: Any, asked_for: int, callback: Any, opaque: Any) -> Any:
        # A kind that there is not is what libvirt itself refuses.
        return register(connection, domain, 9999 if asked_for == kind else asked_for, callback, opaque)

    monkeypatch.setattr(libvirt.virConnect, "domainEventRegisterAny", refuse)
    sample_host.watch(wakes.wake)
    assert vcpus_of(sample_host) == 2
    sample.setVcpus(1)
    assert vcpus_of(sample_host) == 1
    assert sample_host.cache_lies == 0
    # What it does tell wakes all the same.
    entitle(sample, "told")
    if kind != libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE:
        wakes.until(1)


@pytest.mark.parametrize("kind", DEVICE_KINDS)
def test_given_a_libvirtd_without_events_of_devices_then_devices_are_read_anew_and_guests_are_not(
    sample_host: LibvirtDriver, wakes: Wakes, monkeypatch: pytest.MonkeyPatch, asked: Asked, kind: int
) -> None:
    register = libvirt.virConnect.nodeDeviceEventRegisterAny

    def refuse(connection: Any, device: Any, asked_for: int, callback: Any, opaque: Any) -> Any:
        return register(connection, device, 9999 if asked_for == kind else asked_for, callback, opaque)

    monkeypatch.setattr(libvirt.virConnect, "nodeDeviceEventRegisterAny", refuse)
    sample_host.watch(wakes.wake)
    survey_of(sample_host)
    asked.taken()
    survey_of(sample_host)
    assert asked.taken() == {"virConnect.listAllDevices": 1}


def test_given_a_device_that_comes_then_it_wakes_and_devices_are_read_again(
    tmp_path: Path, wakes: Wakes, monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    document = tmp_path / "node.xml"
    # The test driver makes a device like its scsi_host11.
    document.write_text(f"<node>{adapter('scsi_host1', 1)}{adapter('scsi_host11', 2)}</node>")
    # Nobody else sees what is made of a file, so that the driver's own connection has to change it.
    monkeypatch.setattr(libvirt, "openReadOnly", libvirt.open)
    driver = driver_for(f"test://{document}", tmp_path)
    driver.watch(wakes.wake)
    survey_of(driver)
    assert asked.taken()["virConnect.listAllDevices"] == 1
    driver._connection.call(lambda host: cast(Any, host).nodeDeviceCreateXML(adapter("", 3)))
    wakes.until(1)
    survey_of(driver)
    assert asked.taken().keys() == {"virConnect.listAllDevices"}
    survey_of(driver)
    assert asked.taken() == {}
    driver.close()


def adapter(name: str, number: int) -> str:
    """Describe a Fibre Channel adapter, the one kind of device that the test driver makes."""
    parent, called = ("computer", f"<name>{name}</name>") if name else ("scsi_host1", "")
    return f"""<device>{called}<parent>{parent}</parent><capability type='scsi_host'><host>{number}</host>
        <capability type='fc_host'><wwnn>200000001234123{number}</wwnn><wwpn>100000001234123{number}</wwpn></capability>
        <capability type='vport_ops'><max_vports>127</max_vports><vports>1</vports></capability>
        </capability></device>"""


def test_given_huge_pages_or_cpus_that_change_then_the_host_is_read_again(
    sample_host: LibvirtDriver, wakes: Wakes, monkeypatch: pytest.MonkeyPatch, asked: Asked
) -> None:
    assert all("nr_hugepages" in count for count in _page_counts())
    sample_host.watch(wakes.wake)
    survey_of(sample_host)
    asked.taken()
    monkeypatch.setattr("stocktake.drivers.libvirt.facts._page_counts", lambda: ("one more",))
    survey_of(sample_host)
    assert asked.taken() == {"virConnect.getCapabilities": 1}
    monkeypatch.setattr(libvirt.virConnect, "getCPUMap", lambda _connection: (2, [True, False], 1))
    assert verified(survey_of(sample_host)).vcpus == 1
    assert asked.taken() == {"virConnect.getCapabilities": 1}


def test_given_a_driver_that_is_closed_then_nothing_keeps_its_connection_open(
    tmp_path: Path, wakes: Wakes, monkeypatch: pytest.MonkeyPatch, sample: Any
) -> None:
    left: list[int] = []
    close = libvirt.virConnect.close

    def noted(connection: Any) -> int:
        left.append(close(connection))
        return left[-1]

    monkeypatch.setattr(libvirt.virConnect, "close", noted)
    driver = driver_for("test:///default", tmp_path)
    driver.watch(wakes.wake)
    survey_of(driver)
    driver.close()
    assert left == [0], "libvirt counts who still uses a connection"
    entitle(sample, "unheard")
    other = driver_for("test:///default", tmp_path)
    other.watch(wakes.wake)
    survey_of(other)
    entitle(sample, "heard")
    wakes.until(1)
    other.close()
    assert wakes.count == 1
