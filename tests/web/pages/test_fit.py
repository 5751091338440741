"""The form of `fit`, read."""

from typing import Any

import pytest

from stocktake.errors import InvalidInput
from stocktake.model.workload import Flavor
from stocktake.web.pages.fit import FitForm, flavor_of


def asked(**fields: Any) -> FitForm:
    return FitForm(**({"vcpus": "2", "memory": "4G"} | fields))


def test_given_every_field_when_read_then_it_is_the_flavor_of_the_command_line() -> None:
    form = asked(
        disk="40",
        ephemeral="1T",
        swap="512M",
        numa="2",
        spec="hw:cpu_policy=dedicated\r\n\r\n hw:mem_page_size = large \n",
        trait="HW_CPU_X86_AVX2, CUSTOM_A",
        forbid="CUSTOM_B",
        pci="gpu nic:2",
        pack="spread",
    )
    assert flavor_of(form) == Flavor(
        vcpus=2,
        memory_mb=4096,
        root_gb=40,
        ephemeral_gb=1024,
        swap_mb=512,
        extra_specs={
            "hw:cpu_policy": "dedicated",
            "hw:mem_page_size": "large",
            "hw:numa_nodes": "2",
            "trait:HW_CPU_X86_AVX2": "required",
            "trait:CUSTOM_A": "required",
            "trait:CUSTOM_B": "forbidden",
            "pci_passthrough:alias": "gpu:1,nic:2",
        },
    )
    assert [one.packs for one in (form, asked(pack="pack"), asked())] == [False, True, None]


@pytest.mark.parametrize(
    ("fields", "where", "what"),
    [
        ({"vcpus": ""}, "vCPUs", "'' must be a whole number from 1 to 65,535"),
        ({"vcpus": "0"}, "vCPUs", "'0'"),
        ({"vcpus": "٣"}, "vCPUs", "must be a whole number"),
        ({"vcpus": "70000"}, "vCPUs", "'70000'"),
        ({"memory": ""}, "memory", "is no size such as 8G"),
        ({"disk": "1.5"}, "disk", "no whole number of GiB"),
        ({"swap": "much"}, "swap", "'much' is no size"),
        ({"spec": "hw:cpu_policy"}, "extra specs", "is not KEY=VALUE"),
        ({"spec": "hw:numa_nodes=1", "numa": "2"}, "NUMA cells", "hw:numa_nodes=2 contradicts hw:numa_nodes=1"),
        ({"trait": "A", "forbid": "A"}, "traits to avoid", "contradicts"),
    ],
)
def test_given_a_mistake_when_read_then_its_field_is_named(fields: dict[str, str], where: str, what: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        flavor_of(asked(**fields))
    assert caught.value.where == where
    assert what in caught.value.what
