"""The driver `host`, on machines that were recorded and on this one."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import os_traits
import psutil
import pytest

from stocktake.drivers.host import HostDriver
from stocktake.drivers.host.cpu import _TRAITS, host_traits
from stocktake.drivers.machine import HYPERTHREADING, split_cpus
from stocktake.errors import DriverError, SettingsError
from stocktake.model.hypervisor import Survey
from stocktake.settings import Settings, read_settings
from tests.drivers.machines import BOOTED_S, arm_board, two_cells, write

GIB = 1024**3


def settings_of(tmp_path: Path, **flags: object) -> Settings:
    base = {"state_path": str(tmp_path / "state"), "host": "m", "libvirt.instances_path": str(tmp_path / "images")}
    return read_settings(Path("/dev/null"), {}, {**base, **flags})


def report_of(tmp_path: Path, root: Path, *, arch: str = "x86_64", **flags: Any) -> Mapping[str, Any]:
    answer = HostDriver(settings_of(tmp_path, **flags), root=root, arch=arch).survey(["m"])["m"]
    assert isinstance(answer, Survey), answer
    assert answer.guests is None
    return answer.report


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return two_cells(tmp_path / "root")


def test_given_a_machine_then_its_totals_are_read(tmp_path: Path, root: Path) -> None:
    report = report_of(tmp_path, root)
    disk = os.statvfs(tmp_path)
    assert (report["vcpus"], report["memory_mb"]) == (7, 32 * 1024)
    # 20 GiB free, 1 in buffers, 3 cached.
    assert report["memory_mb_used"] == 8 * 1024
    assert report["local_gb"] == disk.f_blocks * disk.f_frsize // GIB
    assert 0 <= report["local_gb_used"] <= report["local_gb"]
    assert report["hypervisor_type"] == "host"
    assert report["hypervisor_version"] == 6_001_090
    assert report["booted_at"] == datetime.fromtimestamp(BOOTED_S, UTC).isoformat()
    assert report["supported_instances"] == []


def test_given_a_machine_then_its_uptime_is_read(tmp_path: Path, root: Path) -> None:
    assert HostDriver(settings_of(tmp_path), root=root, arch="x86_64").uptime_s() == 1234.56
    write(root, {"proc/uptime": "soon\n"})
    assert HostDriver(settings_of(tmp_path), root=root, arch="x86_64").uptime_s() is None


def test_given_two_cells_then_each_has_its_online_cpus_pages_and_siblings(tmp_path: Path, root: Path) -> None:
    reserved = [{"node": 1, "size": "2MB", "count": 12}, {"node": 0, "size": 4, "count": 5}]
    flags: dict[str, Any] = {"cpu_dedicated_set": "4-6", "cpu_shared_set": "0-3", "reserved_huge_pages": reserved}
    topology = report_of(tmp_path, root, **flags)["numa_topology"]
    small = (16 * 1024**2 - 512 * 2048 - 2 * 1024**2) // 4
    first, second = topology["cells"]
    assert first == {
        "id": 0,
        "cpuset": [0, 2],
        "pcpuset": [4, 6],
        "memory": 16 * 1024,
        "siblings": ([0, 4], [2, 6]),
        "mempages": (
            {"size_kb": 4, "total": small, "reserved": 5},
            {"size_kb": 2048, "total": 512, "reserved": 0},
            {"size_kb": 1024**2, "total": 2, "reserved": 0},
        ),
        "socket": 0,
    }
    assert (second["cpuset"], second["pcpuset"], second["siblings"]) == ([1, 3], [5], ([1, 5], [3]))
    assert (second["socket"], second["mempages"][1]["reserved"]) == (1, 12)


def test_given_a_cell_whose_memory_is_odd_then_it_is_passed_on_as_it_is(tmp_path: Path, root: Path) -> None:
    write(root, {"sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 1048576 kB\n"})
    cell = report_of(tmp_path, root)["numa_topology"]["cells"][0]
    # Its huge pages alone are larger: the kernel's own pages can't be fewer than none.
    assert (cell["memory"], cell["mempages"][0]["total"]) == (1024, 0)


def test_given_a_kernel_without_huge_pages_and_topology_then_cells_have_its_own_pages(tmp_path: Path) -> None:
    root = arm_board(tmp_path / "arm")
    write(root, {"sys/devices/system/cpu/online": "0-1\n", "sys/devices/system/node/node0/cpulist": "0-1\n"})
    write(root, {"sys/devices/system/cpu/cpu5/online": "0\n"})
    write(root, {"sys/devices/system/node/node0/meminfo": "Node 0 MemTotal: 1048576 kB\n"})
    (cell,) = report_of(tmp_path, root, arch="aarch64")["numa_topology"]["cells"]
    assert cell["mempages"] == ({"size_kb": os.sysconf("SC_PAGE_SIZE") // 1024, "total": 262144, "reserved": 0},)
    assert cell["siblings"] == ([0], [1])


def test_given_pci_devices_then_bridges_are_left_out_and_functions_know_their_parents(
    tmp_path: Path, root: Path
) -> None:
    devices = {device["address"]: device for device in report_of(tmp_path, root)["pci_passthrough_devices"]}
    assert list(devices) == ["0000:3b:00.0", "0000:81:00.0", "0000:81:00.1", "0000:81:10.0", "0000:ff:00.0"]
    assert devices["0000:3b:00.0"] == {
        "address": "0000:3b:00.0",
        "vendor_id": "10de",
        "product_id": "20b5",
        "dev_type": "type-PCI",
        "parent_addr": None,
        "numa_node": 0,
        "dev_id": "pci_0000_3b_00_0",
        "label": "label_10de_20b5",
        "pci_class": "0x030200",
    }
    assert devices["0000:81:00.0"]["dev_type"] == "type-PF"
    assert devices["0000:81:00.1"]["dev_type"] == "type-PCI"
    assert (devices["0000:81:10.0"]["dev_type"], devices["0000:81:10.0"]["parent_addr"]) == ("type-VF", "0000:81:00.0")
    assert devices["0000:ff:00.0"]["numa_node"] is None


def test_given_a_device_that_goes_while_it_is_read_then_it_is_gone(tmp_path: Path, root: Path) -> None:
    (root / "sys/bus/pci/devices/0000:3b:00.0/device").unlink()
    addresses = [device["address"] for device in report_of(tmp_path, root)["pci_passthrough_devices"]]
    assert "0000:3b:00.0" not in addresses


def test_given_a_cpu_then_its_info_is_novas_form(tmp_path: Path, root: Path) -> None:
    info = msgspec.json.decode(report_of(tmp_path, root)["cpu_info"])
    assert (info["arch"], info["vendor"], info["model"]) == ("x86_64", "Intel", "Xeon of the records")
    assert info["topology"] == {"cells": 2, "sockets": 1, "cores": 2, "threads": 2}
    assert "avx512_vbmi2" in info["features"]


def test_given_flags_then_they_become_standard_traits(tmp_path: Path, root: Path) -> None:
    traits = set(report_of(tmp_path, root)["traits"])
    assert traits == {
        HYPERTHREADING,
        *(f"HW_CPU_X86_{name}" for name in ("SSE", "SSE2", "SSE3", "SSSE3", "SSE41", "SSE42", "AVX", "AVX2", "AESNI")),
        *(f"HW_CPU_X86_{name}" for name in ("VMX", "INTEL_VMX", "AVX512F", "AVX512VBMI2", "SHA")),
    }


def test_given_the_table_of_traits_then_all_are_standard_ones() -> None:
    standard = set(os_traits.get_traits())
    assert {trait for traits in _TRAITS.values() for trait in traits} | {HYPERTHREADING} <= standard


def test_given_an_unknown_architecture_then_it_has_no_traits() -> None:
    assert host_traits("s390x", ["sse"], {}) == frozenset()


def test_given_a_board_without_numa_and_pci_then_the_rest_is_told(tmp_path: Path) -> None:
    report = report_of(tmp_path, arm_board(tmp_path / "arm"), arch="aarch64")
    assert (report["vcpus"], report["memory_mb"], report["memory_mb_used"]) == (2, 1024, 512)
    assert report["numa_topology"] is None
    assert report["pci_passthrough_devices"] == ()
    assert report["booted_at"] is None
    assert report["hypervisor_version"] is None
    assert report["traits"] == [f"HW_CPU_AARCH64_{name}" for name in ("AES", "ASIMD", "CRC32", "FP")]
    assert msgspec.json.decode(report["cpu_info"])["vendor"] == "0x41"


@pytest.mark.parametrize(
    ("shared", "dedicated", "expected"),
    [
        (None, None, ({0, 1, 2, 3}, set())),
        ("0-1", None, ({0, 1}, set())),
        (None, "2-3", (set(), {2, 3})),
        ("0", "2-3", ({0}, {2, 3})),
    ],
)
def test_given_cpu_sets_then_cpus_are_sold_as_nova_does(
    shared: str | None, dedicated: str | None, expected: tuple[set[int], set[int]]
) -> None:
    cpus = split_cpus(frozenset(range(4)), shared_spec=shared, dedicated_spec=dedicated)
    assert (set(cpus.shared), set(cpus.dedicated)) == expected


def test_given_a_set_with_an_absent_cpu_then_the_node_has_the_error(tmp_path: Path, root: Path) -> None:
    settings = settings_of(tmp_path, cpu_dedicated_set="5-9")
    answer = HostDriver(settings, root=root, arch="x86_64").survey(["m"])["m"]
    assert isinstance(answer, SettingsError)
    assert "CPU 7-9 is not on this host or offline (online: 0-6)" in str(answer)


@pytest.mark.parametrize(
    "files",
    [
        {"proc/meminfo": "nothing\n"},
        {"sys/devices/system/cpu/online": "all\n"},
        {"sys/devices/system/cpu/cpu0/topology/core_id": "first\n"},
        {"sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages": "many\n"},
        {"sys/bus/pci/devices/0000:3b:00.0/vendor": "nvidia\n"},
        {"proc/stat": "btime never\n"},
    ],
)
def test_given_what_can_not_be_read_then_the_node_has_a_driver_error(
    tmp_path: Path, root: Path, files: dict[str, str]
) -> None:
    write(root, files)
    answer = HostDriver(settings_of(tmp_path), root=root, arch="x86_64").survey(["m"])["m"]
    assert isinstance(answer, DriverError)
    assert answer.where == "m"


def test_given_an_images_folder_then_its_file_system_is_the_disk(tmp_path: Path, root: Path) -> None:
    disk = os.statvfs("/dev/shm")
    images: dict[str, Any] = {"libvirt.instances_path": "/dev/shm"}
    report = report_of(tmp_path, root, **images)
    assert report["local_gb"] == disk.f_blocks * disk.f_frsize // GIB


def test_given_this_machine_then_it_agrees_with_psutil(tmp_path: Path) -> None:
    report = report_of(tmp_path, Path("/"), arch=os.uname().machine)
    assert report["memory_mb"] == psutil.virtual_memory().total // 1024**2
    assert report["vcpus"] == psutil.cpu_count()
    assert report["booted_at"] == datetime.fromtimestamp(int(psutil.boot_time()), UTC).isoformat()
