"""Nova's forms of PCI devices, aliases and huge pages."""

from typing import Any

import pytest

from stocktake.accounting.pci import matching
from stocktake.errors import InvalidData
from stocktake.model.pci import DeviceSpec, PciAlias, PciDevice
from stocktake.settings import ReservedPages, read_device_spec
from stocktake.settings.checks import read_pages
from stocktake.settings.pci import read_alias

SPECS: list[tuple[dict[str, Any], DeviceSpec]] = [
    ({}, DeviceSpec()),
    ({"vendor_id": "10DE"}, DeviceSpec(vendor_id="10de")),
    ({"vendor_id": " 0x8086 ", "product_id": "*"}, DeviceSpec(vendor_id="8086")),
    ({"vendor_id": "1"}, DeviceSpec(vendor_id="0001")),
    ({"address": "*:0a:00.*"}, DeviceSpec(address="*:0a:00.*")),
    ({"address": "0000:0A:00.1"}, DeviceSpec(address="0000:0a:00.1")),
    ({"address": "0a:00.1"}, DeviceSpec(address="*:0a:00.1")),
    ({"address": ":00."}, DeviceSpec(address="*:*:00.*")),
    ({"address": "0:a:0.1"}, DeviceSpec(address="0000:0a:00.1")),
    ({"address": "0000:0a:00"}, DeviceSpec(address="0000:0a:00.*")),
    ({"address": "*:*:*.*"}, DeviceSpec()),
    ({"address": ""}, DeviceSpec()),
    (
        {"address": {"bus": "0[ab]", "function": "[0-3]"}},
        DeviceSpec(address_parts={"bus": frozenset({"0a", "0b"}), "function": frozenset("0123")}),
    ),
    # From its beginning on, as in Nova; what may be anything is not listed.
    (
        {"address": {"bus": "f", "slot": ".*"}},
        DeviceSpec(address_parts={"bus": frozenset(f"f{n:x}" for n in range(16))}),
    ),
    ({"address": {"domain": "1000[01]$"}}, DeviceSpec(address_parts={"domain": frozenset({"10000", "10001"})})),
    ({"address": {"function": "9"}}, DeviceSpec(address_parts={"function": frozenset()})),
    ({"address": {"domain": "", "bus": "(0|1|[2-9a-f])"}}, DeviceSpec()),
    ({"address": {}}, DeviceSpec()),
    ({"physical_network": "net1"}, DeviceSpec(tags={"physical_network": "net1"})),
    (
        {"physical_network": "net1", "remote_managed": True, "trusted": "true"},
        DeviceSpec(tags={"physical_network": "net1", "remote_managed": "true", "trusted": "true"}),
    ),
    ({"physical_network": None, "rack": 7}, DeviceSpec(tags={"rack": "7"})),
    ({"resource_class": "pgpu"}, DeviceSpec(resource_class="PGPU")),
    ({"resource_class": "my gpu-2"}, DeviceSpec(resource_class="CUSTOM_MY_GPU_2")),
    ({"resource_class": "CUSTOM_X"}, DeviceSpec(resource_class="CUSTOM_X")),
    (
        {"traits": "hw_gpu_api_vulkan, fast,,"},
        DeviceSpec(traits=frozenset({"HW_GPU_API_VULKAN", "CUSTOM_FAST"})),
    ),
    ({"traits": ["CUSTOM_A", "b"]}, DeviceSpec(traits=frozenset({"CUSTOM_A", "CUSTOM_B"}))),
    ({"traits": ""}, DeviceSpec()),
]


@pytest.mark.parametrize(("entry", "spec"), SPECS)
def test_given_an_entry_of_novas_form_then_it_is_read_into_ours(entry: dict[str, Any], spec: DeviceSpec) -> None:
    assert read_device_spec(entry) == spec


WRONG_SPECS: list[tuple[Any, str]] = [
    ("8086", "must be a table"),
    ({1: 2}, "must be a table"),
    ({"vendor_id": 8086}, "vendor_id must be text in quotes"),
    ({"vendor_id": "12345"}, "vendor_id '12345' is above ffff"),
    ({"product_id": "-1"}, "product_id must be a hexadecimal number or *, not '-1'"),
    ({"address": "1:2:3:4.5"}, "too many parts"),
    ({"address": "0000:00:20.0"}, "slot '20' is above 1f"),
    ({"address": "0000:00:00.8"}, "function '8' is above 7"),
    ({"address": "00:g0.1"}, "must be a hexadecimal number"),
    ({"address": 5}, "address must be text"),
    ({"address": {"bus": "("}}, "is not a regular expression"),
    ({"address": {"bus": 3}}, "must be a pattern"),
    ({"address": {"bus": "x" * 500}}, "at most 200 characters"),
    ({"address": {"buss": "00"}}, "unknown part 'buss'"),
    ({"devname": "eth0"}, "devname is not supported"),
    ({"vendorid": "8086"}, "did you mean vendor_id?"),
    ({"rack": [1]}, "rack must be text"),
    ({"traits": 5}, "traits must be a list"),
    ({"traits": ["!!"]}, "can't be made into the name of a trait"),
    ({"resource_class": 5}, "resource_class must be a name"),
    ({"resource_class": "x" * 300}, "can't be made into the name of a resource class"),
]


@pytest.mark.parametrize(("entry", "told"), WRONG_SPECS)
def test_given_a_wrong_entry_then_the_error_says_what(entry: Any, told: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read_device_spec(entry)
    assert told in caught.value.what


@pytest.mark.parametrize(
    ("entry", "address", "matches"),
    [
        ({"address": "0a:00.*"}, "0000:0a:00.3", True),
        ({"address": "0a:00.*"}, "0000:0b:00.3", False),
        ({"address": "0000:0A:00.3"}, "0000:0a:00.3", True),
        ({"address": {"bus": "0[ab]"}}, "0000:0b:1f.3", True),
        ({"address": {"bus": "0[ab]"}}, "0000:0c:1f.3", False),
        ({"vendor_id": "8086"}, "0000:0c:1f.3", True),
        ({"vendor_id": "10de"}, "0000:0c:1f.3", False),
    ],
)
def test_given_what_settings_read_then_the_accounts_match_it(
    entry: dict[str, Any], address: str, *, matches: bool
) -> None:
    device = PciDevice(address=address, vendor_id="8086", product_id="1515")
    assert (matching(device, [read_device_spec(entry)]) is not None) is matches


@pytest.mark.parametrize(
    ("entry", "alias"),
    [
        (
            {"name": "gpu", "vendor_id": "10DE", "product_id": "20b5"},
            PciAlias(name="gpu", vendor_id="10de", product_id="20b5"),
        ),
        (
            {"name": "vf", "vendor_id": "8086", "product_id": "*", "device_type": "type-VF", "numa_policy": "required"},
            PciAlias(name="vf", vendor_id="8086", device_type="type-VF", numa_policy="required"),
        ),
        (
            {"name": "rc", "resource_class": "gpu", "traits": ["fast"]},
            PciAlias(name="rc", resource_class="CUSTOM_GPU", traits=frozenset({"CUSTOM_FAST"})),
        ),
    ],
)
def test_given_an_alias_of_novas_form_then_it_is_read(entry: dict[str, Any], alias: PciAlias) -> None:
    assert read_alias(entry) == alias


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("gpu", "must be a table"),
        ({"vendor_id": "1", "product_id": "2"}, "needs a name"),
        ({"name": 5, "vendor_id": "1", "product_id": "2"}, "needs a name"),
        ({"name": "x", "vendor_id": "1"}, "needs vendor_id and product_id"),
        ({"name": "x", "vendor": "1"}, "unknown key 'vendor' (did you mean vendor_id?)"),
        ({"name": "x", "resource_class": "y", "numa_policy": "maybe"}, "Invalid enum value 'maybe'"),
        ({"name": "x", "resource_class": "y", "device_type": "PF"}, "Invalid enum value 'PF'"),
    ],
)
def test_given_a_wrong_alias_then_the_error_says_what(entry: Any, told: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read_alias(entry)
    assert told in caught.value.what


@pytest.mark.parametrize(
    ("entry", "size_kb"),
    [
        ({"node": 0, "size": 2048, "count": 64}, 2048),
        ("node:0,size:2048,count:64", 2048),
        ("node:0, size:2MB, count:64", 2048),
        ("node:0,size:1GB,count:64", 1048576),
        ({"node": "0", "size": "16KiB", "count": "64"}, 16),
    ],
)
def test_given_reserved_pages_then_sizes_are_in_kib(entry: object, size_kb: int) -> None:
    assert read_pages(entry) == ReservedPages(node=0, size_kb=size_kb, count=64)
