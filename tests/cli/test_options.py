"""A machine as a person asks for it, read into a flavor by Nova's extra specs."""

from pathlib import Path
from typing import Any

import click
import pytest

from stocktake.cli.options import flavor_of
from stocktake.errors import InvalidInput
from stocktake.model.workload import Flavor
from stocktake.settings import Settings, read_settings
from stocktake.views.fitting import wanted_of

PLAIN: dict[str, Any] = {"vcpus": 2, "memory_mb": 1024}


def settings_with(*aliases: str) -> Settings:
    entries = [{"name": name, "vendor_id": "10de", "product_id": "20b5"} for name in aliases]
    return read_settings(Path("/dev/null"), {}, {"pci.alias": entries})


def test_given_figures_when_read_then_they_are_the_flavors() -> None:
    made = flavor_of(**PLAIN, root_gb=40, ephemeral_gb=10, swap_mb=512)
    assert made == Flavor(vcpus=2, memory_mb=1024, root_gb=40, ephemeral_gb=10, swap_mb=512)


@pytest.mark.parametrize(
    ("options", "extra"),
    [
        ({"numa_nodes": 2}, {"hw:numa_nodes": "2"}),
        ({"specs": ("hw:cpu_policy=dedicated", "x=a=b")}, {"hw:cpu_policy": "dedicated", "x": "a=b"}),
        ({"numa_nodes": 2, "specs": ("hw:numa_nodes=2",)}, {"hw:numa_nodes": "2"}),
        ({"required": ("CUSTOM_A",)}, {"trait:CUSTOM_A": "required"}),
        ({"forbidden": ("CUSTOM_B",)}, {"trait:CUSTOM_B": "forbidden"}),
        ({"devices": ("gpu", "nic:2")}, {"pci_passthrough:alias": "gpu:1,nic:2"}),
    ],
)
def test_given_options_when_read_then_they_are_novas_extra_specs(
    options: dict[str, Any], extra: dict[str, str]
) -> None:
    assert flavor_of(**PLAIN, **options).extra_specs == extra


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"specs": ("hw:cpu_policy",)}, "--spec 'hw:cpu_policy' is not KEY=VALUE"),
        ({"specs": ("=x",)}, "is not KEY=VALUE"),
        ({"specs": ("a=1", "a=2")}, "--spec a=2 contradicts a=1"),
        ({"numa_nodes": 1, "specs": ("hw:numa_nodes=2",)}, "--numa 1 contradicts hw:numa_nodes=2"),
        ({"required": ("T",), "forbidden": ("T",)}, "--forbid T contradicts trait:T=required"),
        ({"devices": ("gpu",), "specs": ("pci_passthrough:alias=nic:1",)}, "--pci contradicts"),
    ],
)
def test_given_options_that_contradict_when_read_then_it_is_said_which(options: dict[str, Any], told: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        flavor_of(**PLAIN, **options)
    assert told in caught.value.message


def test_given_a_flavor_when_read_then_the_settings_aliases_are_known() -> None:
    asked = wanted_of(flavor_of(**PLAIN, devices=("gpu:2",)), settings_with("gpu", "nic"), volume_backed=True)
    assert [(request.alias, request.count) for request in asked.pci] == [("gpu", 2)]
    assert asked.volume_backed


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"required": ("HW_CPU_X86_AXV2",)}, "there is no trait 'HW_CPU_X86_AXV2'. Did you mean HW_CPU_X86_AVX2"),
        ({"forbidden": ("hw_cpu_x86_avx2",)}, "Did you mean HW_CPU_X86_AVX2"),
        ({"specs": ("trait:SSD=required",)}, "there is no trait 'SSD'"),
        ({"required": ("xyzzy",)}, "Traits of your own start with CUSTOM_"),
        ({"devices": ("gpus:1",)}, "'gpus'"),
        ({"specs": ("hw:numa_nodes=3",)}, "hw:numa_nodes"),
    ],
)
def test_given_a_name_that_there_is_not_when_read_then_the_nearest_is_named(options: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        wanted_of(flavor_of(**PLAIN, **options), settings_with("gpu"), volume_backed=False)
    assert told in str(caught.value)
