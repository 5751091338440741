"""Memory, disk, CPU and what a host can run; on libvirt's test driver where an API is asked."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import libvirt
import pytest

from stocktake.drivers.libvirt.capacity import (
    Disk,
    cpu_info,
    disk_report,
    expand_features,
    read_local_disk,
    read_memory,
    read_online_cpus,
    read_pool_disk,
    supported_instances,
)
from stocktake.drivers.libvirt.connection import Hypervisor, silence_libvirt
from stocktake.drivers.libvirt.xml import read_xml
from tests.drivers.libvirt.documents import AARCH64, AMD, INTEL

GIB = 1024**3

# The host of libvirt's test driver, with two storage pools of ours.
NODE = """
<node>
  <pool type='dir'><name>default</name><target><path>/default</path></target></pool>
  <pool type='dir'><name>fast</name><target><path>/fast/images/</path></target></pool>
</node>"""


@pytest.fixture
def sample_host() -> Iterator[Hypervisor]:
    silence_libvirt()
    connection = libvirt.open("test:///default")
    yield cast(Hypervisor, connection)
    connection.close()


def test_without_memory_stats_the_total_and_the_free_memory_are_taken(sample_host: Hypervisor) -> None:
    memory = read_memory(sample_host)
    assert memory == (3072, 3072 - sample_host.getFreeMemory() // 1024**2)


def test_the_online_cpus_are_those_of_the_map(sample_host: Hypervisor) -> None:
    assert read_online_cpus(sample_host) == {0, 2, 4}


def test_a_path_that_is_not_there_yet_is_its_nearest_parent_s_disk(tmp_path: Path) -> None:
    there = read_local_disk(str(tmp_path))
    assert there.total > 0
    assert read_local_disk(str(tmp_path / "not" / "yet")).total == there.total


@pytest.mark.parametrize(("path", "pool"), [("/fast/images", "fast"), ("/default", "default"), ("/other", "default")])
def test_a_remote_disk_is_the_pool_of_that_path_or_the_default_one(tmp_path: Path, path: str, pool: str) -> None:
    document = tmp_path / "node.xml"
    document.write_text(NODE)
    connection = libvirt.open(f"test://{document}")
    _state, total, used, free = connection.storagePoolLookupByName(pool).info()
    assert read_pool_disk(cast(Hypervisor, connection), path) == Disk(total=total, used=used, free=free)
    connection.close()


def test_a_remote_host_without_pools_has_no_disk(tmp_path: Path) -> None:
    document = tmp_path / "node.xml"
    document.write_text("<node/>")
    connection = libvirt.open(f"test://{document}")
    assert read_pool_disk(cast(Hypervisor, connection), "/a") is None
    connection.close()


@pytest.mark.parametrize(
    ("disk", "growth", "figures"),
    [
        (Disk(100 * GIB, 40 * GIB, 60 * GIB), 0, (100, 40, 60)),
        # Free is never overstated: totals are rounded down, used is rounded up.
        (Disk(100 * GIB + 1, 40 * GIB + 1, 60 * GIB - 1), 0, (100, 41, 59)),
        (Disk(100 * GIB, 40 * GIB, 60 * GIB), 1, (100, 40, 59)),
        (Disk(100 * GIB, 40 * GIB, 60 * GIB), 100 * GIB + 1, (100, 40, -41)),
        (Disk(GIB // 2, GIB // 2, 0), 0, (0, 0, 0)),
        (None, 5, (0, 0, None)),
    ],
)
def test_disk_figures_are_whole_gib(disk: Disk | None, growth: int, figures: tuple[int, int, int | None]) -> None:
    assert tuple(disk_report(disk, growth).values()) == figures


def test_cpu_info_is_nova_s_json_in_a_stable_order() -> None:
    text = cpu_info(read_xml(INTEL, where=""), ["vmx", "aes"])
    assert json.loads(text) == {
        "arch": "x86_64",
        "model": "Cascadelake-Server",
        "vendor": "Intel",
        "topology": {"cells": 2, "sockets": 1, "cores": 2, "threads": 2},
        "features": ["aes", "vmx"],
    }
    assert text == cpu_info(read_xml(INTEL, where=""), ["aes", "vmx"])


def test_a_cpu_without_a_model_says_so() -> None:
    info = json.loads(cpu_info(read_xml(AARCH64, where=""), []))
    assert (info["arch"], info["model"], info["vendor"], info["topology"]["cells"]) == ("aarch64", None, None, 1)
    assert json.loads(cpu_info(read_xml("<capabilities/>", where=""), []))["arch"] is None


@pytest.mark.parametrize(
    ("text", "instances"),
    [
        (INTEL, [("i686", "qemu"), ("i686", "kvm"), ("x86_64", "qemu"), ("x86_64", "kvm")]),
        (AMD, []),
        (AARCH64, [("aarch64", "kvm"), ("x86_64", "xen")]),
    ],
)
def test_instances_are_in_nova_s_words_and_libvirt_s_order(text: str, instances: list[tuple[str, str]]) -> None:
    assert supported_instances(read_xml(text, where="")) == tuple((*instance, "hvm") for instance in instances)


def test_where_a_model_cannot_be_expanded_its_listed_features_are_all(sample_host: Hypervisor) -> None:
    cpu = read_xml(AARCH64, where="").find("./host/cpu")
    assert cpu is not None
    assert expand_features(sample_host, cpu) == ("asimd", "crc32", "fp", "unheard-of")


def test_a_model_s_own_features_are_expanded(sample_host: Hypervisor) -> None:
    cpu = read_xml(INTEL, where="").find("./host/cpu")
    assert cpu is not None
    features = expand_features(sample_host, cpu)
    assert {"vmx", "pdpe1gb"} <= set(features)
    assert list(features) == sorted(features)
