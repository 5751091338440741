"""The host's CPUs, features, traits and what it can run; on libvirt's test driver where an API is asked."""

import json
from collections.abc import Iterator
from typing import cast

import libvirt
import os_traits
import pytest

from stocktake.drivers.libvirt.connection import Hypervisor, silence_libvirt
from stocktake.drivers.libvirt.cpu import (
    _TRAITS,
    cpu_info,
    expand_features,
    host_traits,
    read_online_cpus,
    supported_instances,
)
from stocktake.drivers.libvirt.xml import read_xml
from stocktake.drivers.machine import cpu_traits
from tests.drivers.libvirt.documents import AARCH64, AMD, INTEL


@pytest.fixture
def sample_host() -> Iterator[Hypervisor]:
    silence_libvirt()
    connection = libvirt.open("test:///default")
    yield cast(Hypervisor, connection)
    connection.close()


def test_the_online_cpus_are_those_of_the_map(sample_host: Hypervisor) -> None:
    assert read_online_cpus(sample_host) == {0, 2, 4}


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


def test_every_trait_of_the_table_is_a_standard_one() -> None:
    named = {trait for traits in _TRAITS.values() for trait in traits}
    assert named <= set(os_traits.get_traits())


@pytest.mark.parametrize(
    ("arch", "features", "traits"),
    [
        ("x86_64", ["avx2", "aes", "pni"], {"HW_CPU_X86_AVX2", "HW_CPU_X86_AESNI", "HW_CPU_X86_SSE3"}),
        ("x86_64", ["vmx"], {"HW_CPU_X86_VMX", "HW_CPU_X86_INTEL_VMX"}),
        ("x86_64", ["svm"], {"HW_CPU_X86_SVM", "HW_CPU_X86_AMD_SVM"}),
        ("i686", ["avx512-vpopcntdq", "no-such"], {"HW_CPU_X86_AVX512VPOPCNTDQ"}),
        ("aarch64", ["asimd", "aes"], {"HW_CPU_AARCH64_ASIMD", "HW_CPU_AARCH64_AES"}),
        ("s390x", ["aes"], set()),
        ("", [], set()),
    ],
)
def test_features_become_traits_of_their_architecture(arch: str, features: list[str], traits: set[str]) -> None:
    assert cpu_traits(arch, features, _TRAITS) == traits


def test_a_host_names_its_architecture_those_it_runs_and_its_threads() -> None:
    assert host_traits(read_xml(INTEL, where=""), ["vmx"]) == {
        "HW_ARCH_X86_64",
        "COMPUTE_ARCH_X86_64",
        "HW_CPU_HYPERTHREADING",
        "HW_CPU_X86_VMX",
        "HW_CPU_X86_INTEL_VMX",
    }
    assert "HW_CPU_AARCH64_FP" in host_traits(read_xml(AARCH64, where=""), ["fp"])
