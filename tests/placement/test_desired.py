"""Table tests of what the scheduler should hold of a node."""

import pytest

from stocktake.model.provider import Inventory
from stocktake.model.rules import Rules
from stocktake.model.topology import HostCell, HostTopology
from stocktake.placement.desired import TRAIT_OF_CAPABILITY, desired
from stocktake.placement.names import standard_traits
from stocktake.placement.overrides import NodeOverrides, ProviderOverride
from tests.placement.making import ROOT, host, stock, tally
from tests.placement.test_desired_devices import device

RULES = Rules(host="host-1", reserved_host_memory_mb=0)
NONE = NodeOverrides()


def topology(*cells: tuple[set[int], set[int]]) -> HostTopology:
    return HostTopology(
        cells=tuple(
            HostCell(id=number, cpuset=frozenset(shared), pcpuset=frozenset(dedicated), memory_mb=1024)
            for number, (shared, dedicated) in enumerate(cells)
        )
    )


def test_given_a_plain_host_when_desired_then_the_whole_root_is_as_the_rules_say() -> None:
    rules = Rules(host="host-1", reserved_host_memory_mb=512, reserved_host_cpus=1, reserved_host_disk_mb=1025)
    tree, problems = desired(host(), tally(), rules, disabled=False, overrides=NONE)
    assert problems == ()
    (root,) = tree.providers
    assert (root.uuid, root.name, root.parent_uuid) == (ROOT, "node-1", None)
    assert root.inventories == {
        "VCPU": stock(8, reserved=1, allocation_ratio=4.0, ratio_is_initial=True),
        "MEMORY_MB": stock(16384, reserved=512, allocation_ratio=1.5, ratio_is_initial=True),
        "DISK_GB": stock(100, reserved=2, allocation_ratio=1.25, ratio_is_initial=True),
    }
    assert root.traits == {"COMPUTE_NODE"}


@pytest.mark.parametrize(
    ("cells", "vcpus", "pcpus"),
    [
        (None, 8, None),
        (topology(({0, 1}, set()), ({2, 3}, set())), 4, None),
        (topology(({0}, {1}), ({2}, {3})), 2, 2),
        (topology((set(), {0, 1, 2})), None, 3),
        # A driver may sell the same CPUs as both.
        (topology(({0, 1}, {0, 1})), 2, 2),
        (topology(), None, None),
    ],
)
def test_given_cells_when_desired_then_shared_and_dedicated_cpus_are_counted(
    cells: HostTopology | None, vcpus: int | None, pcpus: int | None
) -> None:
    rules = Rules(host="h", reserved_host_cpus=1, cpu_allocation_ratio=16.0)
    tree, problems = desired(host(numa_topology=cells), tally(), rules, disabled=False, overrides=NONE)
    there = tree.root.inventories
    assert there.get("VCPU") == (vcpus and stock(vcpus, reserved=1, allocation_ratio=16.0))
    assert there.get("PCPU") == (pcpus and stock(pcpus))
    # What is reserved of a class that is not there is no problem.
    assert problems == ()


@pytest.mark.parametrize(
    ("rules", "name", "wanted"),
    [
        (Rules(host="h", cpu_allocation_ratio=2.0), "VCPU", stock(8, allocation_ratio=2.0)),
        (Rules(host="h", cpu_allocation_ratio=0.0), "VCPU", stock(8, allocation_ratio=4.0, ratio_is_initial=True)),
        (
            Rules(host="h", ram_allocation_ratio=0.9, reserved_host_memory_mb=0),
            "MEMORY_MB",
            stock(16384, allocation_ratio=0.9),
        ),
        (Rules(host="h", disk_allocation_ratio=3.0), "DISK_GB", stock(100, allocation_ratio=3.0)),
        (
            Rules(host="h", reserved_host_disk_mb=1),
            "DISK_GB",
            stock(100, reserved=1, allocation_ratio=1.25, ratio_is_initial=True),
        ),
        (
            Rules(host="h", reserved_host_disk_mb=1024),
            "DISK_GB",
            stock(100, reserved=1, allocation_ratio=1.25, ratio_is_initial=True),
        ),
    ],
)
def test_given_settings_when_desired_then_ratios_and_reserves_follow(
    rules: Rules, name: str, wanted: Inventory
) -> None:
    tree, _ = desired(host(), tally(), rules, disabled=False, overrides=NONE)
    assert tree.root.inventories[name] == wanted


@pytest.mark.parametrize(
    ("rules", "name", "total"),
    [
        (Rules(host="h", reserved_host_cpus=9), "VCPU", 8),
        (Rules(host="h", reserved_host_memory_mb=16385), "MEMORY_MB", 16384),
        (Rules(host="h", reserved_host_disk_mb=100 * 1024 + 1), "DISK_GB", 100),
    ],
)
def test_given_more_reserved_than_there_is_when_desired_then_all_is_and_the_node_says_so(
    rules: Rules, name: str, total: int
) -> None:
    tree, problems = desired(host(), tally(), rules, disabled=False, overrides=NONE)
    assert tree.root.inventories[name].reserved == total
    assert [(problem.code, problem.about) for problem in problems] == [("reserved-above-total", f"node-1 {name}")]


def test_given_all_of_it_reserved_when_desired_then_that_is_no_problem() -> None:
    tree, problems = desired(host(), tally(), Rules(host="h", reserved_host_cpus=8), disabled=False, overrides=NONE)
    assert (tree.root.inventories["VCPU"].reserved, problems) == (8, ())


def test_given_nothing_to_sell_when_desired_then_no_class_is_there() -> None:
    tree, _ = desired(host(vcpus=0, memory_mb=0, local_gb=0), tally(), RULES, disabled=False, overrides=NONE)
    assert tree.root.inventories == {}


@pytest.mark.parametrize(
    ("traits", "capabilities", "disabled", "wanted"),
    [
        ({"HW_CPU_X86_AVX2"}, {}, False, {"HW_CPU_X86_AVX2"}),
        ({"CUSTOM_GOLD"}, {}, True, {"CUSTOM_GOLD", "COMPUTE_STATUS_DISABLED"}),
        (set(), {"supports_multiattach": True}, False, {"COMPUTE_VOLUME_MULTI_ATTACH"}),
        (set(), {"supports_multiattach": False, "supports_pcpus": True, "has_imagecache": True}, False, set()),
        (set(), dict.fromkeys(TRAIT_OF_CAPABILITY, True), False, set(TRAIT_OF_CAPABILITY.values())),
    ],
)
def test_given_traits_and_capabilities_when_desired_then_they_are_named(
    *, traits: set[str], capabilities: dict[str, bool], disabled: bool, wanted: set[str]
) -> None:
    given = host(traits=frozenset(traits), capabilities=capabilities)
    tree, problems = desired(given, tally(), RULES, disabled=disabled, overrides=NONE)
    assert tree.root.traits == wanted | {"COMPUTE_NODE"}
    assert problems == ()


@pytest.mark.parametrize("name", ["HW_CPU_X86_NOTHING", "CUSTOM_lower", "CUSTOM_", "CUSTOM_" + "A" * 249, ""])
def test_given_a_trait_that_nobody_knows_when_desired_then_it_is_left_out_and_the_node_says_so(name: str) -> None:
    given = host(traits=frozenset({name, "HW_CPU_X86_AVX"}))
    tree, problems = desired(given, tally(), RULES, disabled=False, overrides=NONE)
    assert tree.root.traits == {"COMPUTE_NODE", "HW_CPU_X86_AVX"}
    assert [(problem.code, problem.about) for problem in problems] == [("unknown-trait", name)]


def test_given_what_we_put_there_before_when_desired_then_it_is_ours_to_take_away() -> None:
    given = tally(owned_traits=frozenset({"HW_CPU_X86_AVX"}), owned_classes=frozenset({"CUSTOM_OLD"}))
    tree, _ = desired(host(), given, RULES, disabled=False, overrides=NONE)
    assert {"HW_CPU_X86_AVX", "COMPUTE_STATUS_DISABLED", "COMPUTE_ACCELERATORS"} <= tree.root.own_traits
    assert {"CUSTOM_OLD", "VCPU", "PCPU", "MEMORY_MB", "DISK_GB"} == tree.root.own_classes
    # Somebody else may call the same provider theirs.
    assert "OWNER_NOVA" not in tree.root.own_traits | tree.root.traits


def test_given_every_capability_when_looked_up_then_its_trait_is_a_standard_one() -> None:
    assert set(TRAIT_OF_CAPABILITY.values()) <= standard_traits()


@pytest.mark.parametrize("reported", [True, False])
def test_given_devices_when_desired_then_they_are_children_if_they_are_reported(*, reported: bool) -> None:
    rules = Rules(host="h", reserved_host_memory_mb=0, report_pci=reported)
    tree, _ = desired(host(), tally(device("0000:0a:00.0")), rules, disabled=False, overrides=NONE)
    assert [child.name for child in tree.providers[1:]] == (["node-1_0000:0A:00.0"] if reported else [])


def added(*classes: str, traits: tuple[str, ...] = ()) -> ProviderOverride:
    inventories = {name: stock(5) for name in classes}
    return ProviderOverride(inventories=inventories, traits=frozenset(traits), source="a.yaml")


def test_given_an_entry_of_provider_yaml_when_desired_then_it_is_added() -> None:
    own = NodeOverrides(root=added("CUSTOM_LICENCE", traits=("CUSTOM_GOLD",)))
    tree, problems = desired(host(), tally(), RULES, disabled=False, overrides=own)
    assert tree.root.inventories["CUSTOM_LICENCE"] == stock(5)
    assert tree.root.traits == {"COMPUTE_NODE", "CUSTOM_GOLD"}
    assert problems == ()


def test_given_a_node_sold_as_a_whole_when_desired_then_a_class_that_no_scheduler_knows_is_left_out() -> None:
    whole = {"CUSTOM_GOLD": Inventory(total=1, max_unit=1), "gold": Inventory(total=1, max_unit=1)}
    tree, problems = desired(host(inventories=whole), tally(), RULES, disabled=False, overrides=NONE)
    assert tree.root.inventories == {"CUSTOM_GOLD": whole["CUSTOM_GOLD"]}
    assert tree.root.whole == {"CUSTOM_GOLD"}
    assert desired(host(), tally(), RULES, disabled=False, overrides=NONE)[0].root.whole == frozenset()
    empty, problems_of_none = desired(host(inventories={}), tally(), RULES, disabled=False, overrides=NONE)
    assert (empty.root.inventories, problems_of_none) == ({}, ())
    assert [(problem.code, problem.about) for problem in problems] == [("unknown-class", "gold")]


@pytest.mark.parametrize("by", ["uuid", "name"])
def test_given_an_entry_for_a_device_when_desired_then_a_class_that_it_has_is_not_replaced(by: str) -> None:
    given = tally(device("0000:01:00.0"))
    plain, _ = desired(host(), given, RULES, disabled=False, overrides=NONE)
    ident = getattr(plain.providers[1], by)
    own = NodeOverrides(others={ident: added("CUSTOM_PCI_10DE_1DB6", "CUSTOM_MORE")})
    tree, problems = desired(host(), given, RULES, disabled=False, overrides=own)
    there = tree.providers[1].inventories
    assert there["CUSTOM_PCI_10DE_1DB6"].total == 1
    assert there["CUSTOM_MORE"].total == 5
    assert [(problem.code, problem.about) for problem in problems] == [("override-class-taken", "CUSTOM_PCI_10DE_1DB6")]


def test_given_alike_nodes_when_desired_then_they_share_their_names_in_memory() -> None:
    one, _ = desired(host(), tally(), RULES, disabled=False, overrides=NONE)
    two, _ = desired(host(), tally(), RULES, disabled=False, overrides=NONE)
    assert one.root.traits is two.root.traits
    assert one.root.own_traits is two.root.own_traits
