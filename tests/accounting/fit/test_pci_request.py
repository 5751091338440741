"""What a flavor asks of the PCI devices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.fit.pci_request import ALIAS, pci_requests
from stocktake.errors import InvalidData
from stocktake.model.pci import PciAlias, PciRequest
from stocktake.model.value import replace
from stocktake.model.workload import Flavor
from tests.accounting.making import SMALL

GPU = PciAlias(name="gpu", vendor_id="10de", product_id="20b5", numa_policy="required")
GPU_TOO = replace(GPU, product_id="1db6")
NIC = PciAlias(name="nic", vendor_id="8086", product_id="1515", device_type="type-VF")
ODD = (PciAlias(name="odd", numa_policy="required"), PciAlias(name="odd", numa_policy="socket"))
ALIASES = (GPU, NIC, GPU_TOO, replace(NIC, name=" wide nic "), *ODD)


def a_flavor(said: str | None = None, **specs: str) -> Flavor:
    named = {} if said is None else {ALIAS: said}
    return replace(SMALL, extra_specs={**named, **{f"hw:{key}": value for key, value in specs.items()}})


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (None, {}),
        ("gpu:1", {"gpu": 1}),
        ("gpu:1,nic:2", {"gpu": 1, "nic": 2}),
        ("nic:2,gpu:1", {"nic": 2, "gpu": 1}),
        (" nic : 2 ,\tgpu:01", {"nic": 2, "gpu": 1}),
        # Blanks around a name are nobody's.
        ("wide nic:1", {"wide nic": 1}),
        # Named twice it adds up.
        ("gpu:1,nic:1,gpu:2", {"gpu": 3, "nic": 1}),
        ("gpu:0", {}),
        ("gpu:0,gpu:1", {"gpu": 1}),
    ],
)
def test_given_a_flavor_when_read_then_each_alias_is_asked_for_once(said: str | None, expected: dict[str, int]) -> None:
    requests = pci_requests(a_flavor(said), ALIASES)
    assert [(request.alias, request.count) for request in requests] == list(expected.items())


def test_given_several_entries_of_a_name_when_asked_for_then_they_are_alternatives() -> None:
    expected = PciRequest(alias="gpu", count=2, specs=(GPU, GPU_TOO), numa_policy="required")
    assert pci_requests(a_flavor("gpu:2"), ALIASES) == (expected,)


@pytest.mark.parametrize(
    ("said", "affinity", "expected"),
    [
        ("gpu:1", None, "required"),
        ("nic:1", None, "legacy"),
        ("gpu:1", "preferred", "preferred"),
        ("nic:1", "socket", "socket"),
        ("odd:1", "legacy", "legacy"),
    ],
)
def test_given_a_policy_of_the_flavor_when_read_then_it_stands_above_the_alias(
    said: str, affinity: str | None, expected: str
) -> None:
    specs = {} if affinity is None else {"pci_numa_affinity_policy": affinity}
    (request,) = pci_requests(a_flavor(said, **specs), ALIASES)
    assert request.numa_policy == expected


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("", "'' is not an alias and a count, such as gpu:1"),
        ("gpu", "'gpu' is not an alias and a count"),
        ("gpu:", "'gpu:' is not"),
        (":1", "':1' is not"),
        (" :1", "' :1' is not"),
        ("gpu:x", "'gpu:x' is not"),
        ("gpu:-1", "'gpu:-1' is not"),
        ("gpu:1.5", "'gpu:1.5' is not"),
        ("gpu:1:2", "'gpu:1:2' is not"),
        ("gpu:1,", "'' is not"),
        ("gpu:1;nic:1", "'gpu:1;nic:1' is not"),
        ("gpu:" + "9" * 10, "is not"),
        ("gpu:\u0661", "is not"),
        ("x" * 1000, f"'{'x' * 40}' is not"),
        ("gup:1", "this host has no alias 'gup' (did you mean gpu?)"),
        ("GPU:1", "this host has no alias 'GPU'"),
        ("wholly-other:0", "this host has no alias 'wholly-other'"),
        ("odd:1", "entries of the alias 'odd' disagree about numa_policy: required, socket"),
    ],
)
def test_given_a_mistake_when_read_then_the_spec_is_named(said: str, what: str) -> None:
    with pytest.raises(InvalidData) as refused:
        pci_requests(a_flavor(said), ALIASES)
    assert what in refused.value.what
    assert refused.value.where == ALIAS


def test_given_a_policy_that_there_is_not_when_read_then_that_spec_is_named() -> None:
    with pytest.raises(InvalidData) as refused:
        pci_requests(a_flavor("gpu:1", pci_numa_affinity_policy="near"), ALIASES)
    assert refused.value.where == "hw:pci_numa_affinity_policy"


def test_given_no_alias_at_all_when_asked_for_one_then_none_is_near() -> None:
    with pytest.raises(InvalidData) as refused:
        pci_requests(a_flavor("gpu:1"), ())
    assert refused.value.what == "this host has no alias 'gpu'"
    assert refused.value.remedy


@given(st.text(max_size=40))
def test_given_any_text_when_read_then_it_is_understood_or_refused(said: str) -> None:
    try:
        requests = pci_requests(a_flavor(said), ALIASES)
    except InvalidData:
        return
    assert all(request.count > 0 and request.alias in said for request in requests)


@given(st.dictionaries(st.sampled_from(("gpu", "nic", "wide nic")), st.integers(0, 99), max_size=3))
def test_given_counts_when_written_and_read_then_they_are_the_same(counts: dict[str, int]) -> None:
    said = ",".join(f"{alias}:{count}" for alias, count in counts.items()) or None
    requests = pci_requests(a_flavor(said), ALIASES)
    assert {request.alias: request.count for request in requests} == {a: c for a, c in counts.items() if c}
