"""CPU flags to traits."""

import os_traits
import pytest

from stocktake.drivers.libvirt.traits import _X86_TRAITS, cpu_traits, host_traits
from stocktake.drivers.libvirt.xml import read_xml
from tests.drivers.libvirt.documents import AARCH64, INTEL


def test_every_trait_of_the_table_is_a_standard_one() -> None:
    named = {trait for traits in _X86_TRAITS.values() for trait in traits}
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
    assert cpu_traits(arch, features) == traits


def test_a_host_names_its_architecture_those_it_runs_and_its_threads() -> None:
    assert host_traits(read_xml(INTEL, where=""), ["vmx"]) == {
        "HW_ARCH_X86_64",
        "COMPUTE_ARCH_X86_64",
        "HW_CPU_HYPERTHREADING",
        "HW_CPU_X86_VMX",
        "HW_CPU_X86_INTEL_VMX",
    }
    assert "HW_CPU_AARCH64_FP" in host_traits(read_xml(AARCH64, where=""), ["fp"])
