"""The driver as the audit sees it: on libvirt's test driver, and on a private libvirtd with real QEMU guests."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import libvirt
import pytest

from stocktake.clock import SystemClock
from stocktake.drivers.base import Driver
from stocktake.drivers.libvirt import open_driver
from stocktake.drivers.libvirt.connection import Hypervisor, silence_libvirt
from stocktake.drivers.libvirt.disks import growth_bytes
from stocktake.drivers.libvirt.driver import LibvirtDriver, _measure_by_libvirt, read_memory
from stocktake.drivers.libvirt.guests import GuestDisk
from stocktake.drivers.machine import read_boot_time
from stocktake.errors import InvalidData, NodeNotFound, SettingsError, StocktakeError
from stocktake.model.hypervisor import Guest, Host, HostView, Survey
from stocktake.model.topology import GuestCell
from stocktake.settings import read_settings
from stocktake.verify import verify
from tests.servers.libvirtd import GuestCellSpec, GuestSpec, PrivateLibvirtd, private_libvirtd

GIB = 1024**3


def driver_for(uri: str, images: Path, **overrides: object) -> LibvirtDriver:
    given = {"libvirt.connection_uri": uri, "libvirt.instances_path": str(images), "driver_timeout_s": 20, **overrides}
    return open_driver(read_settings(None, {}, given), SystemClock())


def survey_of(driver: Driver) -> Survey:
    (node,) = driver.node_names()
    survey = driver.survey([node])[node]
    assert isinstance(survey, Survey), survey
    return survey


def verified(survey: Survey) -> Host:
    view = HostView(node=str(survey.report["hypervisor_hostname"]), report=survey.report, guests=survey.guests)
    host = verify(view)
    assert isinstance(host, Host), host
    return host


def by_name(survey: Survey) -> dict[str, Guest]:
    assert survey.guests is not None
    return {guest.name: guest for guest in survey.guests}


@pytest.fixture
def sample_host(tmp_path: Path) -> Iterator[LibvirtDriver]:
    driver = driver_for("test:///default", tmp_path)
    yield driver
    driver.close()


@pytest.fixture
def driver(libvirtd: PrivateLibvirtd) -> Iterator[LibvirtDriver]:
    driver = driver_for(libvirtd.uri, libvirtd.images)
    yield driver
    driver.close()


def test_the_test_driver_s_host_is_believed_and_its_figures_are_those_of_its_api(sample_host: LibvirtDriver) -> None:
    assert isinstance(sample_host, Driver)
    host = verified(survey_of(sample_host))
    assert (host.hypervisor_type, host.hypervisor_version, host.vcpus, host.memory_mb) == ("TEST", 2, 3, 3072)
    assert host.numa_topology is not None
    assert [sorted(cell.cpuset) for cell in host.numa_topology.cells] == [[0, 2, 4], []]
    assert host.capabilities == {}
    assert host.booted_at == read_boot_time()
    assert host.uuid is None


def test_a_guest_whose_disk_is_not_there_is_counted_and_says_so(sample_host: LibvirtDriver) -> None:
    guest = by_name(survey_of(sample_host))["test"]
    assert (guest.state, guest.active, guest.vcpus, guest.memory_mb, guest.disk_mb) == ("running", True, 2, 8192, 0)
    assert guest.disk_paths == ("/guest/diskimage1",)
    assert guest.trouble == "disk /guest/diskimage1: No such file or directory"


def test_a_node_of_another_name_is_its_own_error_and_no_node_is_no_sweep(sample_host: LibvirtDriver) -> None:
    (name,) = sample_host.node_names()
    answers = sample_host.survey([name, "other"])
    assert isinstance(answers[name], Survey)
    assert isinstance(answers["other"], NodeNotFound)
    assert sample_host.survey([]) == {}
    assert sample_host.node_exists(name)
    assert not sample_host.node_exists("other")


def test_cpu_sets_and_reserved_pages_of_the_settings_reach_the_cells(tmp_path: Path) -> None:
    driver = driver_for(
        "test:///default",
        tmp_path,
        cpu_shared_set="0,2",
        cpu_dedicated_set="4",
        reserved_huge_pages=[{"node": 0, "size": 4, "count": 10}],
    )
    host = verified(survey_of(driver))
    driver.close()
    assert host.vcpus == 2
    assert host.numa_topology is not None
    cell = host.numa_topology.cells[0]
    assert (sorted(cell.cpuset), sorted(cell.pcpuset), cell.pages[0].reserved) == ([0, 2], [4], 10)


def test_a_cpu_set_that_does_not_fit_the_host_is_the_node_s_error(tmp_path: Path) -> None:
    driver = driver_for("test:///default", tmp_path, cpu_dedicated_set="1,4")
    (node,) = driver.node_names()
    error = driver.survey([node])[node]
    driver.close()
    assert isinstance(error, SettingsError)
    assert "cpu_dedicated_set: CPU 1 is not on this host or offline (online: 0,2,4)" in str(error)


def test_devices_of_a_node_file_are_reported_without_its_bridges(tmp_path: Path) -> None:
    document = tmp_path / "node.xml"
    devices = "".join(
        f"""<device><name>{name}</name><parent>computer</parent><capability type='pci'><class>{pci_class}</class>
        <domain>0</domain><bus>1</bus><slot>{slot}</slot><function>0</function>
        <product id='0x1572'>x</product><vendor id='0x8086'>y</vendor><numa node='1'/></capability></device>"""
        for name, slot, pci_class in (("pci_a", 0, "0x020000"), ("pci_b", 1, "0x060400"))
    )
    document.write_text(f"<node>{devices}</node>")
    driver = driver_for(f"test://{document}", tmp_path)
    host = verified(survey_of(driver))
    driver.close()
    assert [(device.address, device.numa_node) for device in host.pci_devices] == [("0000:01:00.0", 1)]


def test_a_remote_uri_has_no_uptime(tmp_path: Path) -> None:
    driver = driver_for("qemu+ssh://nowhere.invalid/system", tmp_path)
    assert driver.uptime_s() is None
    driver.close()


def test_this_machine_s_uptime_grows(sample_host: LibvirtDriver) -> None:
    first, second = sample_host.uptime_s(), sample_host.uptime_s()
    assert first is not None
    assert second is not None
    assert 0 < first <= second


@pytest.mark.system
def test_a_host_without_guests_is_what_its_kernel_says(driver: LibvirtDriver, libvirtd: PrivateLibvirtd) -> None:
    host = verified(survey_of(driver))
    meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
    total = re.search(r"MemTotal: +(\d+) kB", meminfo)
    assert total is not None
    assert host.memory_mb == int(total[1]) // 1024
    assert 0 < host.memory_mb_used < host.memory_mb
    assert host.vcpus == os.cpu_count()
    status = os.statvfs(libvirtd.images)
    assert host.local_gb == status.f_blocks * status.f_frsize // GIB
    assert host.disk_available_least is not None
    assert host.disk_available_least <= host.local_gb
    assert (host.hypervisor_type, host.guests) == ("QEMU", ())
    assert ("x86_64", "qemu", "hvm") in host.supported_instances
    assert {"HW_ARCH_X86_64", "COMPUTE_ARCH_X86_64"} <= host.traits
    assert host.capabilities["supports_image_type_qcow2"]


@pytest.mark.system
def test_twenty_guests_are_what_was_started(driver: LibvirtDriver, libvirtd: PrivateLibvirtd) -> None:
    before = verified(survey_of(driver))
    specs = [
        GuestSpec(
            name=f"guest-{number:02}",
            vcpus=1 + number % 3,
            memory_mib=16 + number % 2,
            disks_gib=(1 + number,) if number % 4 else (),
            raw_disks_mib=(5,) if number % 5 == 0 else (),
        )
        for number in range(20)
    ]
    for spec in specs:
        libvirtd.start(spec)
    survey = survey_of(driver)
    guests = by_name(survey)
    assert sorted(guests) == [spec.name for spec in specs]
    for spec in specs:
        guest = guests[spec.name]
        assert (guest.uuid, guest.state, guest.active, guest.trouble) == (spec.uuid, "paused", True, None)
        assert (guest.vcpus, guest.memory_mb) == (spec.vcpus, spec.memory_mib)
        assert guest.disk_mb == sum(spec.disks_gib) * 1024 + sum(spec.raw_disks_mib)
        assert guest.numa is None
    host = verified(survey)
    assert host.vcpus_used == sum(spec.vcpus for spec in specs)
    promised_gb = sum(sum(spec.disks_gib) for spec in specs)
    assert before.disk_available_least is not None
    assert host.disk_available_least is not None
    # Other tests write to the same file system meanwhile, hence the two GiB.
    assert abs(before.disk_available_least - promised_gb - host.disk_available_least) <= 2
    assert host.disk_available_least < 0 or promised_gb < before.disk_available_least

    libvirtd.destroy("guest-07")
    libvirtd.destroy("guest-08")
    libvirtd.undefine("guest-08")
    guests = by_name(survey_of(driver))
    assert len(guests) == 19
    assert (guests["guest-07"].state, guests["guest-07"].active) == ("shutoff", False)
    assert verified(survey_of(driver)).vcpus_used == host.vcpus_used - specs[7].vcpus - specs[8].vcpus


@pytest.mark.system
def test_hotplugged_vcpus_pins_cells_and_metadata_are_read_from_a_real_guest(
    driver: LibvirtDriver, libvirtd: PrivateLibvirtd
) -> None:
    cells = (
        GuestCellSpec(vcpus="0", memory_mib=16, host_cell=0),
        GuestCellSpec(vcpus="1", memory_mib=20, host_cell=0),
    )
    libvirtd.start(GuestSpec(name="few", vcpus=4, vcpus_current=2))
    libvirtd.define(GuestSpec(name="off", vcpus=4, vcpus_current=2))
    libvirtd.start(GuestSpec(name="pinned", vcpus=2, pins={0: "0", 1: "0"}))
    libvirtd.start(GuestSpec(name="cells", vcpus=2, memory_mib=36, cells=cells))
    libvirtd.define(GuestSpec(name="huge", huge_kib=2048, metadata="<n:a xmlns:n='urn:n'>x</n:a>"))
    guests = by_name(survey_of(driver))
    assert (guests["few"].vcpus, guests["off"].vcpus, guests["off"].active) == (2, 4, False)
    pinned = guests["pinned"].numa
    assert pinned is not None
    assert pinned.cells == (
        GuestCell(id=0, pcpuset=frozenset({0, 1}), memory_mb=16, cpu_pinning={0: 0, 1: 0}, cpu_policy="dedicated"),
    )
    celled = guests["cells"].numa
    assert celled is not None
    assert [(cell.id, sorted(cell.cpuset), cell.memory_mb) for cell in celled.cells] == [(0, [0], 16), (0, [1], 20)]
    huge = guests["huge"].numa
    assert huge is not None
    assert [cell.pagesize_kb for cell in huge.cells] == [2048]
    assert guests["huge"].metadata == {"urn:n": "x"}


@pytest.mark.system
def test_an_image_that_vanished_is_its_guest_s_trouble_and_the_others_count(
    driver: LibvirtDriver, libvirtd: PrivateLibvirtd
) -> None:
    libvirtd.define(GuestSpec(name="whole", disks_gib=(2,)))
    libvirtd.define(GuestSpec(name="torn", disks_gib=(2, 3)))
    (libvirtd.images / "torn-0.qcow2").unlink()
    (libvirtd.images / "torn-1.qcow2").write_bytes(b"no image")
    guests = by_name(survey_of(driver))
    assert (guests["whole"].disk_mb, guests["whole"].trouble) == (2048, None)
    assert guests["torn"].disk_mb == 0
    trouble = guests["torn"].trouble
    assert trouble is not None
    assert "torn-0.qcow2: No such file" in trouble
    assert "torn-1.qcow2: no qcow2 header" in trouble


@pytest.mark.system
def test_two_surveys_of_an_unchanged_host_differ_in_nothing_but_its_usage(
    driver: LibvirtDriver, libvirtd: PrivateLibvirtd
) -> None:
    libvirtd.start(GuestSpec(name="a", disks_gib=(1,)))
    first, second = survey_of(driver), survey_of(driver)
    assert first.guests == second.guests
    usage = {"memory_mb_used", "local_gb_used", "disk_available_least"}
    assert {key for key in first.report if first.report[key] != second.report[key]} <= usage


@pytest.mark.system
def test_a_remote_libvirtd_is_asked_for_the_size_of_a_disk(libvirtd: PrivateLibvirtd) -> None:
    libvirtd.define(GuestSpec(name="a", disks_gib=(2,)))
    path = str(libvirtd.images / "a-0.qcow2")
    domain = cast(Any, libvirtd.connection.lookupByName("a"))
    image = _measure_by_libvirt(domain, GuestDisk(path, "qcow2"))
    assert image.virtual == 2 * GIB
    assert 0 < growth_bytes([image]) <= 2 * GIB
    with pytest.raises(InvalidData, match="/no/such"):
        _measure_by_libvirt(domain, GuestDisk("/no/such", "qcow2"))


@pytest.mark.system
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user who may not read the image")
def test_an_image_that_this_user_may_not_read_is_measured_by_libvirtd(
    driver: LibvirtDriver, libvirtd: PrivateLibvirtd
) -> None:
    libvirtd.define(GuestSpec(name="a", disks_gib=(2,)))
    (libvirtd.images / "a-0.qcow2").chmod(0o600)
    (node,) = driver.node_names()
    # Once as root: Python itself may be where the other user may not read what it has yet to load.
    driver.survey([node])
    os.seteuid(65533)
    try:
        survey = driver.survey([node])[node]
    finally:
        os.seteuid(0)
    assert isinstance(survey, Survey)
    guest = by_name(survey)["a"]
    assert (guest.disk_mb, guest.trouble) == (2048, None)


@pytest.mark.system
def test_given_a_guest_whose_qemu_hangs_then_the_survey_does_not(
    driver: LibvirtDriver, libvirtd: PrivateLibvirtd
) -> None:
    libvirtd.start(GuestSpec(name="hangs", vcpus=2, disks_gib=(1,)))
    qemu = libvirtd.guest_pid("hangs")
    os.kill(qemu, signal.SIGSTOP)
    try:
        guest = by_name(survey_of(driver))["hangs"]
    finally:
        os.kill(qemu, signal.SIGCONT)
    assert (guest.vcpus, guest.disk_mb, guest.trouble) == (2, 1024, None)


def test_a_hypervisor_without_bulk_states_is_asked_guest_by_guest(
    sample_host: LibvirtDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(connection: Any, _stats: int, _flags: int = 0) -> None:
        # What such a hypervisor answers: here another call that the test driver has not.
        connection.getMemoryStats(-1)

    monkeypatch.setattr(libvirt.virConnect, "getAllDomainStats", refuse)
    assert by_name(survey_of(sample_host))["test"].state == "running"


def test_a_guest_whose_definition_libvirt_keeps_to_itself_is_its_own_trouble(
    sample_host: LibvirtDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(domain: Any, _flags: int = 0) -> None:
        domain.connect().getMemoryStats(-1)

    monkeypatch.setattr(libvirt.virDomain, "XMLDesc", refuse)
    guest = by_name(survey_of(sample_host))["test"]
    assert (guest.vcpus, guest.active) == (0, True)
    assert "not supported" in str(guest.trouble)


@pytest.mark.system
def test_given_a_guest_that_goes_away_in_mid_sweep_then_it_is_left_out(
    driver: LibvirtDriver, libvirtd: PrivateLibvirtd, monkeypatch: pytest.MonkeyPatch
) -> None:
    libvirtd.define(GuestSpec(name="stays"))
    libvirtd.define(GuestSpec(name="goes"))
    read = libvirt.virDomain.XMLDesc

    def leave_first(domain: Any, flags: int = 0) -> str:
        if domain.name() == "goes":
            libvirtd.undefine("goes")
        return str(read(domain, flags))

    monkeypatch.setattr(libvirt.virDomain, "XMLDesc", leave_first)
    assert list(by_name(survey_of(driver))) == ["stays"]


@pytest.mark.system
def test_another_machine_s_disk_is_its_pool_and_its_images_are_measured_by_its_libvirtd(tmp_path: Path) -> None:
    with private_libvirtd(tcp=True) as server:
        server.start(GuestSpec(name="a", disks_gib=(2,)))
        driver = driver_for(server.remote_uri, server.images)
        without_pool = verified(survey_of(driver))
        pool = f"<pool type='dir'><name>images</name><target><path>{server.images}</path></target></pool>"
        server.connection.storagePoolCreateXML(pool)
        host = verified(survey_of(driver))
        driver.close()
    assert (without_pool.local_gb, without_pool.disk_available_least) == (0, None)
    status = os.statvfs(tmp_path)
    assert host.local_gb == status.f_blocks * status.f_frsize // GIB
    assert host.disk_available_least is not None
    assert host.guests is not None
    assert [(guest.name, guest.disk_mb, guest.trouble) for guest in host.guests] == [("a", 2048, None)]
    assert host.booted_at is None


def test_an_error_of_the_host_s_own_documents_is_the_node_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_for("test:///default", tmp_path)
    (node,) = driver.node_names()
    monkeypatch.setattr(libvirt.virConnect, "getCapabilities", lambda _connection: "<!DOCTYPE a><a/>")
    error = driver.survey([node])[node]
    driver.close()
    assert isinstance(error, StocktakeError)
    assert "DTDs and entities are not read" in str(error)


def test_without_memory_stats_the_total_and_the_free_memory_are_taken() -> None:
    silence_libvirt()
    connection = cast(Hypervisor, libvirt.openReadOnly("test:///default"))
    memory = read_memory(connection)
    assert memory == (3072, 3072 - connection.getFreeMemory() // 1024**2)
    connection.close()
