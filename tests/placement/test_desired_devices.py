"""Table tests of PCI devices as child providers."""

import uuid

import pytest

from stocktake.model.pci import DeviceStatus, DeviceType, PciRecord
from stocktake.model.provider import Provider
from stocktake.placement.desired import child_uuid, device_providers
from tests.placement.making import ROOT, stock, tree

PF, VF1, VF2 = "0000:03:00.0", "0000:03:00.1", "0000:03:00.2"


def device(
    address: str,
    kind: DeviceType = "type-PCI",
    parent: str | None = None,
    *,
    status: DeviceStatus = "available",
    resource_class: str | None = None,
    traits: tuple[str, ...] = (),
    physical_network: str | None = None,
) -> PciRecord:
    """A tracked device of the one product that the tests have."""
    return PciRecord(
        address=address,
        vendor_id="10de",
        product_id="1db6",
        dev_type=kind,
        parent_addr=parent,
        status=status,
        resource_class=resource_class,
        traits=frozenset(traits),
        physical_network=physical_network,
    )


def vf(address: str, resource_class: str | None = None, traits: tuple[str, ...] = ()) -> PciRecord:
    return device(address, "type-VF", PF, resource_class=resource_class, traits=traits)


def made(*devices: PciRecord) -> tuple[dict[str, Provider], list[str]]:
    """The providers by name, and the problems' codes."""
    root = tree("node-1", root_uuid=ROOT).root
    providers, problems = device_providers(root, devices, frozenset({"CUSTOM_OLD"}), frozenset({"CUSTOM_WAS"}))
    assert all(provider.parent_uuid == ROOT for provider in providers)
    assert [provider.name for provider in providers] == sorted(provider.name for provider in providers)
    return {provider.name: provider for provider in providers}, [problem.code for problem in problems]


def totals(*devices: PciRecord) -> dict[str, dict[str, int]]:
    """The totals by provider and class."""
    return {
        name: {cls: inventory.total for cls, inventory in provider.inventories.items()}
        for name, provider in made(*devices)[0].items()
    }


def test_given_a_device_when_reported_then_it_is_a_provider_of_one() -> None:
    providers, problems = made(device("0000:0a:00.0"))
    (provider,) = providers.values()
    assert provider.name == "node-1_0000:0A:00.0"
    assert provider.uuid == child_uuid(ROOT, provider.name) == str(uuid.uuid5(uuid.UUID(ROOT), provider.name))
    assert provider.inventories == {"CUSTOM_PCI_10DE_1DB6": stock(1, reserved_is_initial=True)}
    assert provider.traits == {"COMPUTE_MANAGED_PCI_DEVICE"}
    assert provider.own_classes == {"CUSTOM_PCI_10DE_1DB6", "CUSTOM_OLD"}
    assert provider.own_traits == {"COMPUTE_MANAGED_PCI_DEVICE", "CUSTOM_WAS"}
    assert problems == []


def test_given_functions_of_one_device_when_reported_then_they_are_counted_under_it() -> None:
    assert totals(vf(VF1), vf(VF2)) == {f"node-1_{PF}": {"CUSTOM_PCI_10DE_1DB6": 2}}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("gold gpu", "CUSTOM_GOLD_GPU"),
        ("CUSTOM_GOLD", "CUSTOM_GOLD"),
        ("custom_gold", "CUSTOM_GOLD"),
        ("custom_gold-2", "CUSTOM_GOLD_2"),
        ("vgpu", "VGPU"),
        ("PGPU", "PGPU"),
        ("é", "CUSTOM__"),
        ("A" * 300, "CUSTOM_" + "A" * 248),
    ],
)
def test_given_a_class_in_device_spec_when_reported_then_it_is_made_one_that_placement_takes(
    given: str, wanted: str
) -> None:
    assert totals(device(PF, resource_class=given)) == {f"node-1_{PF}": {wanted: 1}}


def test_given_traits_in_device_spec_when_reported_then_they_are_made_ones_that_placement_takes() -> None:
    providers, _ = made(device(PF, traits=("HW_GPU_API_VULKAN", "gold", " custom_big ", "", "a.b")))
    assert providers[f"node-1_{PF}"].traits == {
        "COMPUTE_MANAGED_PCI_DEVICE",
        "HW_GPU_API_VULKAN",
        "CUSTOM_GOLD",
        "CUSTOM_BIG",
        "CUSTOM_A_B",
    }


@pytest.mark.parametrize(
    ("status", "reported"),
    [
        ("available", True),
        ("claimed", True),
        ("allocated", True),
        ("unavailable", True),
        ("unclaimable", True),
        ("removed", False),
    ],
)
def test_given_a_status_when_reported_then_only_what_is_gone_is_left_out(
    *, status: DeviceStatus, reported: bool
) -> None:
    assert bool(totals(device(PF, status=status))) is reported


def test_given_a_physical_network_when_reported_then_the_device_is_left_to_the_network_service() -> None:
    assert totals(device(PF, physical_network="physnet1")) == {}


@pytest.mark.parametrize(("status", "wanted"), [("available", 2), ("unavailable", 2), ("claimed", 1), ("allocated", 1)])
def test_given_a_device_and_its_functions_when_reported_then_one_kind_is_chosen_and_the_node_says_so(
    status: DeviceStatus, wanted: int
) -> None:
    given = (device(PF, "type-PF", status=status), vf(VF1), vf(VF2))
    assert totals(*given) == {f"node-1_{PF}": {"CUSTOM_PCI_10DE_1DB6": wanted}}
    assert made(*given)[1] == ["pci-device-and-functions"]


@pytest.mark.parametrize(
    ("one", "two", "classes", "traits"),
    [
        (vf(VF1, "a"), vf(VF2, "b"), {"CUSTOM_A": 1, "CUSTOM_B": 1}, set()),
        (vf(VF1, "a", ("x", "y")), vf(VF2, "a", ("y",)), {"CUSTOM_A": 2}, {"CUSTOM_Y"}),
    ],
)
def test_given_functions_that_differ_when_reported_then_no_more_is_promised_than_all_have(
    one: PciRecord, two: PciRecord, classes: dict[str, int], traits: set[str]
) -> None:
    for given in ((one, two), (two, one)):
        assert totals(*given) == {f"node-1_{PF}": classes}
        providers, problems = made(*given)
        assert providers[f"node-1_{PF}"].traits == traits | {"COMPUTE_MANAGED_PCI_DEVICE"}
        assert problems == ["pci-functions-differ"]


def test_given_a_function_without_a_parent_when_reported_then_it_stands_for_itself_and_the_node_says_so() -> None:
    given = device(VF1, "type-VF")
    assert totals(given) == {f"node-1_{VF1}": {"CUSTOM_PCI_10DE_1DB6": 1}}
    assert made(given)[1] == ["pci-function-without-parent"]


def test_given_one_that_is_gone_before_one_that_is_there_when_reported_then_the_other_is() -> None:
    assert totals(device(PF, status="removed"), device("0000:02:00.0")) == {
        "node-1_0000:02:00.0": {"CUSTOM_PCI_10DE_1DB6": 1}
    }


@pytest.mark.parametrize(
    ("status", "told"), [("available", "the functions"), ("allocated", "the whole device, which is in use")]
)
def test_given_a_device_and_its_functions_when_reported_then_the_text_says_what_the_scheduler_is_told(
    status: DeviceStatus, told: str
) -> None:
    given = (device(PF, "type-PF", status=status), vf(VF1), vf(VF2))
    _, problems = device_providers(tree("node-1", root_uuid=ROOT).root, given, frozenset(), frozenset())
    assert [problem.text for problem in problems] == [
        f"device {PF} and its functions {VF1}, {VF2} are all in device_spec: the scheduler is told of {told} only"
    ]


def test_given_functions_that_differ_when_reported_then_the_text_has_each_with_its_class() -> None:
    given = (vf(VF1, "a"), vf(VF2, "b"))
    _, problems = device_providers(tree("node-1", root_uuid=ROOT).root, given, frozenset(), frozenset())
    each = f"{VF1} CUSTOM_A, {VF2} CUSTOM_B"
    assert [problem.text for problem in problems] == [
        f"the functions of {PF} differ in class or traits ({each}): only traits that all have are reported"
    ]
