"""An Ironic node as a report: Nova's tables of states, and what somebody wrote into its properties."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.audit import stamped
from stocktake.drivers.ironic.api import Node
from stocktake.drivers.ironic.report import resource_class, survey_of
from stocktake.model.hypervisor import Host, HostView
from stocktake.verify import verify

UUID = "6f1e2a30-0000-4000-8000-000000000001"
INSTANCE = "11111111-1111-4111-8111-111111111111"
PROPERTIES = {"cpus": 32, "memory_mb": 131072, "local_gb": 894, "cpu_arch": "x86_64", "capabilities": "a:b,c:d"}


def a_node(**fields: Any) -> Node:
    """An available node of class gold, switched off."""
    plain: dict[str, Any] = {
        "uuid": UUID,
        "name": "bm-1",
        "resource_class": "gold",
        "properties": PROPERTIES,
        "provision_state": "available",
        "power_state": "power off",
    }
    return Node(**(plain | fields))


def host_of(node: Node, *, skip: bool = False) -> Host:
    """What a pass makes of it."""
    survey = survey_of(node, skip_reserve_in_use=skip)
    view = HostView(node=node.uuid, report=stamped(survey.report), problems=survey.problems)
    host = verify(view)
    assert isinstance(host, Host), host
    return host


def codes(host: Host) -> list[str]:
    """The codes of its problems."""
    return [problem.code for problem in host.problems]


def test_given_a_node_when_reported_then_it_is_one_machine_of_its_class_and_its_sizes_are_told() -> None:
    host = host_of(a_node(traits=("CUSTOM_GOLD", "HW_CPU_X86_VMX")))
    assert (host.uuid, host.hypervisor_hostname) == (UUID, UUID)
    assert (host.hypervisor_type, host.hypervisor_version) == ("ironic", 1)
    assert (host.vcpus, host.memory_mb, host.local_gb) == (32, 131072, 894)
    assert host.supported_instances == (("x86_64", "baremetal", "hvm"),)
    assert host.traits == {"CUSTOM_GOLD", "HW_CPU_X86_VMX"}
    assert host.inventories is not None
    ((name, held),) = host.inventories.items()
    assert (name, held.total, held.reserved, held.max_unit, held.allocation_ratio) == ("CUSTOM_GOLD", 1, 0, 1, 1.0)
    assert host.stats == {
        "a": "b",
        "c": "d",
        "cpu_arch": "x86_64",
        "name": "bm-1",
        "provision_state": "available",
        "power_state": "power off",
        "resource_class": "gold",
    }
    assert host.problems == ()


# Nova's table: provision state, other fields, reserved, reserved with the workaround.
STATES: list[tuple[str | None, dict[str, Any], int, int]] = [
    ("available", {}, 0, 0),
    ("available", {"power_state": "power on"}, 0, 0),
    (None, {}, 0, 0),
    ("available", {"power_state": None}, 1, 1),
    ("available", {"power_state": "error"}, 1, 1),
    ("available", {"maintenance": True}, 1, 1),
    ("available", {"instance_uuid": INSTANCE}, 1, 0),
    ("deploy failed", {"instance_uuid": INSTANCE}, 1, 1),
    *((state, {"instance_uuid": INSTANCE}, 1, 1) for state in ("deploying", "wait call-back", "active", "deleting")),
    *((state, {"instance_uuid": INSTANCE}, 1, 1) for state in ("rescue", "rescuing", "unrescuing", "servicing")),
    *((state, {}, 1, 1) for state in ("cleaning", "clean wait", "clean failed", "enroll", "manageable", "inspecting")),
    *((state, {}, 1, 1) for state in ("verifying", "adopting", "error", "a state of the future")),
]


@pytest.mark.parametrize(("state", "fields", "reserved", "with_workaround"), STATES)
def test_given_a_state_when_reported_then_it_is_reserved_as_in_nova(
    state: str | None, fields: dict[str, Any], reserved: int, with_workaround: int
) -> None:
    node = a_node(provision_state=state, **fields)
    for skip, wanted in ((False, reserved), (True, with_workaround)):
        (held,) = (host_of(node, skip=skip).inventories or {}).values()
        assert (held.total, held.reserved) == (1, wanted)


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("gold", "CUSTOM_GOLD"),
        ("gold plus/é", "CUSTOM_GOLD_PLUS_"),
        ("Baremetal-Large.2", "CUSTOM_BAREMETAL_LARGE_2"),
        ("CUSTOM_GOLD", "CUSTOM_CUSTOM_GOLD"),
        ("VCPU", "CUSTOM_VCPU"),
        ("x" * 400, "CUSTOM_" + "X" * 248),
    ],
)
def test_given_a_class_when_named_then_it_is_named_as_in_nova(said: str, name: str) -> None:
    assert resource_class(said) == name


@pytest.mark.parametrize("none", [None, ""])
def test_given_no_class_when_reported_then_nothing_is_sold_and_somebody_is_told(none: str | None) -> None:
    host = host_of(a_node(resource_class=none))
    assert host.inventories == {}
    assert codes(host) == ["no-resource-class"]


@pytest.mark.parametrize(
    ("said", "counts", "told"),
    [
        (32, 32, False),
        ("32", 32, False),
        (" 32 ", 32, False),
        (None, 0, False),
        ("abc", 0, True),
        ("", 0, True),
        (-1, 0, True),
        (1.5, 0, True),
        (True, 0, True),
        ([], 0, True),
        (10**30, 0, True),
    ],
)
def test_given_any_size_when_reported_then_it_is_a_number_or_0_and_told(
    *, said: object, counts: int, told: bool
) -> None:
    host = host_of(a_node(properties={**PROPERTIES, "cpus": said}))
    assert (host.vcpus, codes(host)) == (counts, ["property-unreadable"] if told else [])


@pytest.mark.parametrize(
    ("said", "stats", "told"),
    [
        ("boot_mode:uefi, rack : r7 ", {"boot_mode": "uefi", "rack": "r7"}, 0),
        ("", {}, 0),
        (None, {}, 0),
        ("a:b:c,d:e,f", {"d": "e"}, 2),
        ({"a": "b"}, {"a": "b"}, 0),
        ("name:evil", {}, 0),
    ],
)
def test_given_capabilities_when_reported_then_they_are_stats_below_our_own(
    said: object, stats: dict[str, str], told: int
) -> None:
    host = host_of(a_node(properties={"capabilities": said}, name="bm-1"))
    assert host.stats is not None
    ours = {"name": "bm-1", "provision_state": "available", "power_state": "power off", "resource_class": "gold"}
    assert host.stats == {**stats, **ours}
    assert codes(host) == ["capability-unreadable"] * told


@pytest.mark.parametrize(
    ("arch", "name"), [("x86_64", "x86_64"), ("AMD64", "x86_64"), ("i386", "i686"), ("pdp11", None), (None, None)]
)
def test_given_an_architecture_when_reported_then_it_is_novas_name_or_none(arch: str | None, name: str | None) -> None:
    host = host_of(a_node(properties={"cpu_arch": arch}))
    assert host.supported_instances == (((name, "baremetal", "hvm"),) if name else ())


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"provision_state": "clean failed", "last_error": "no\n disk"}, "provision-failed"),
        ({"provision_state": "error"}, "provision-failed"),
        ({"maintenance": True, "fault": "power failure"}, "machine-faulty"),
        ({"power_state": "error"}, "machine-faulty"),
        ({"power_state": None}, "power-unknown"),
    ],
)
def test_given_a_node_in_trouble_when_reported_then_it_carries_it(fields: dict[str, Any], code: str) -> None:
    (problem,) = host_of(a_node(**fields)).problems
    assert problem.code == code
    assert problem.remedy
    assert "\n" not in problem.text


@pytest.mark.parametrize(
    "fields",
    [{"maintenance": True}, {"provision_state": "enroll", "power_state": None}, {"provision_state": "cleaning"}],
)
def test_given_a_node_that_is_only_busy_when_reported_then_it_carries_no_problem(fields: dict[str, Any]) -> None:
    assert host_of(a_node(**fields)).problems == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(properties=st.dictionaries(st.sampled_from([*PROPERTIES, "other"]), JSON), text=st.none() | st.text(max_size=30))
def test_given_anything_in_a_node_when_reported_then_it_is_believed_or_refused(
    properties: dict[str, Any], text: str | None
) -> None:
    node = a_node(properties=properties, resource_class=text, provision_state=text, power_state=text, last_error=text)
    survey = survey_of(node)
    verify(HostView(node=UUID, report=stamped(survey.report), problems=survey.problems))
