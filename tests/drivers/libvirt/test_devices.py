"""Node devices to PCI devices: types, addresses, and what is left out."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.drivers.libvirt.devices import pci_device, pci_devices
from stocktake.errors import InvalidData
from stocktake.model.pci import PciDevice
from tests.drivers.libvirt.documents import PHYSICAL_FUNCTION, VIRTUAL_FUNCTIONS, pci_document


def test_a_plain_device_has_nova_s_names() -> None:
    text = pci_document(address="000a:1f:03.7", pci_class="0x030200", vendor="0x10de", product="0x20b0")
    assert pci_device(text) == PciDevice(
        address="000a:1f:03.7",
        vendor_id="10de",
        product_id="20b0",
        dev_type="type-PCI",
        dev_id="pci_000a_1f_03_7",
        label="label_10de_20b0",
        pci_class="0x030200",
    )


def test_a_physical_function_and_its_virtual_one_know_each_other_and_their_cell() -> None:
    virtual = pci_document(address="0000:01:02.0", inner=PHYSICAL_FUNCTION)
    physical = pci_document(address="0000:01:00.0", inner=VIRTUAL_FUNCTIONS)
    devices = pci_devices([virtual, physical])
    assert [(device.address, device.dev_type, device.parent_addr, device.numa_node) for device in devices] == [
        ("0000:01:00.0", "type-PF", None, 1),
        ("0000:01:02.0", "type-VF", "0000:01:00.0", 1),
    ]


def test_a_card_that_could_have_virtual_functions_is_a_physical_one() -> None:
    device = pci_device(pci_document(inner="<capability type='virt_functions' maxCount='7'/>"))
    assert device is not None
    assert device.dev_type == "type-PF"


@pytest.mark.parametrize(
    ("pci_class", "inner"),
    [("0x060000", ""), ("0x060100", ""), ("0x060400", ""), ("0x060700", ""), (None, "<capability type='pci-bridge'/>")],
)
def test_bridges_are_left_out(pci_class: str | None, inner: str) -> None:
    assert pci_device(pci_document(pci_class=pci_class, inner=inner)) is None


def test_a_libvirt_that_does_not_tell_the_class_reports_the_device() -> None:
    device = pci_device(pci_document(pci_class=None))
    assert device is not None
    assert device.pci_class is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("<device><name>net_eth0</name><capability type='net'/></device>", "not a PCI device"),
        (pci_document(vendor="x"), "vendor is 'x'"),
        (pci_document().replace("<bus>1</bus>", ""), "bus is ''"),
        (pci_document(inner="<numa node='-1'/>"), "numa node is '-1'"),
        (pci_document().replace("<product", "<produce").replace("</product", "</produce"), "product is missing"),
        ("<device", "not XML"),
    ],
)
def test_a_document_that_cannot_be_read_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidData, match=says):
        pci_device(text)


@given(st.text(max_size=8), st.text(max_size=8))
def test_any_ids_are_read_or_refused(vendor: str, product: str) -> None:
    clean = str.maketrans("", "", "<>&'\0")
    with suppress(InvalidData):
        device = pci_device(pci_document(vendor=vendor.translate(clean), product=product.translate(clean)))
        assert device is not None
