"""What a flavor asks of the cells: every extra spec, right and wrong."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.accounting.fit.request import (
    ALIAS,
    UNITS,
    CellRequest,
    NumaRequest,
    numa_request,
    pci_affinity,
    pci_requests,
    wanted,
)
from stocktake.errors import InvalidData
from stocktake.model.pci import PciAlias, PciRequest
from stocktake.model.topology import CPU_MAX, parse_cpu_set
from stocktake.model.value import replace
from stocktake.model.workload import Flavor
from tests.accounting.making import SMALL

NODES, POLICY, THREADS, PAGES = "hw:numa_nodes", "hw:cpu_policy", "hw:cpu_thread_policy", "hw:mem_page_size"
MASK, EMULATOR, EMULATOR_TOO = "hw:cpu_dedicated_mask", "hw:emulator_threads_policy", "hw:cpu_emulator_threads"
HT = "trait:HW_CPU_HYPERTHREADING"
AFFINITY = "hw:pci_numa_affinity_policy"
DEDICATED, MIXED = {POLICY: "dedicated"}, {POLICY: "mixed"}
TWO = {NODES: "2"}
LAID_OUT = {
    NODES: "2",
    "hw:numa_cpus.0": "0,2-3",
    "hw:numa_cpus.1": "1",
    "hw:numa_mem.0": "3072",
    "hw:numa_mem.1": "1024",
}


def flavor(specs: Mapping[str, str], *, vcpus: int = 4, memory_mb: int = 4096) -> Flavor:
    return Flavor(vcpus=vcpus, memory_mb=memory_mb, extra_specs=specs)


def asked(specs: Mapping[str, str]) -> NumaRequest:
    request = numa_request(flavor(specs))
    assert request is not None
    return request


def cell(shared: str, dedicated: str, memory_mb: int) -> CellRequest:
    return CellRequest(cpuset=parse_cpu_set(shared), pcpuset=parse_cpu_set(dedicated), memory_mb=memory_mb)


@pytest.mark.parametrize(
    "specs",
    [
        {},
        {"trait:HW_CPU_X86_VMX": "required"},
        {POLICY: "shared"},
        {EMULATOR: "share"},
        {AFFINITY: "required"},
        {"hw:cpu_realtime": "no"},
    ],
)
def test_given_nothing_that_needs_cells_when_read_then_the_guest_floats(specs: dict[str, str]) -> None:
    assert numa_request(flavor(specs)) is None


@pytest.mark.parametrize(
    ("specs", "cells"),
    [
        ({NODES: "1"}, (cell("0-3", "", 4096),)),
        (TWO, (cell("0-1", "", 2048), cell("2-3", "", 2048))),
        ({NODES: "4", **DEDICATED}, tuple(cell("", str(cpu), 1024) for cpu in range(4))),
        (DEDICATED, (cell("", "0-3", 4096),)),
        ({**MIXED, MASK: "0-1"}, (cell("2-3", "0-1", 4096),)),
        ({**MIXED, MASK: "0-3,^2"}, (cell("2", "0-1,3", 4096),)),
        ({**MIXED, MASK: "^0"}, (cell("0", "1-3", 4096),)),
        ({**MIXED, MASK: " ^0-1"}, (cell("0-1", "2-3", 4096),)),
        ({**MIXED, MASK: "0-1", **TWO}, (cell("", "0-1", 2048), cell("2-3", "", 2048))),
        ({PAGES: "large"}, (cell("0-3", "", 4096),)),
        (LAID_OUT, (cell("0,2-3", "", 3072), cell("1", "", 1024))),
        ({**LAID_OUT, **MIXED, MASK: "1-2"}, (cell("0,3", "2", 3072), cell("", "1", 1024))),
        ({"hw:numa_cpus.0": "0-3", "hw:numa_mem.0": "4096"}, (cell("0-3", "", 4096),)),
    ],
)
def test_given_a_flavor_with_cells_when_read_then_vcpus_and_memory_are_dealt_out(
    specs: dict[str, str], cells: tuple[CellRequest, ...]
) -> None:
    assert asked(specs).cells == cells


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ("small", "small"),
        ("large", "large"),
        ("any", "any"),
        ("4", 4),
        ("2048", 2048),
        ("2MB", 2048),
        ("2M", 2048),
        ("2MiB", 2048),
        ("1GB", 1048576),
        ("64kB", 64),
        ("64KB", 64),
        ("1TB", 1024**3),
    ],
)
def test_given_a_page_size_when_read_then_it_is_a_kind_or_kib(said: str, size: int | str) -> None:
    assert asked({PAGES: said}).page_size == size


def test_given_every_policy_when_read_then_all_are_in_the_request() -> None:
    request = asked({**DEDICATED, THREADS: "isolate", EMULATOR: "isolate", AFFINITY: "socket", PAGES: "1GB"})
    assert (request.cpu_policy, request.cpu_thread_policy, request.emulator_threads, request.pci_affinity) == (
        "dedicated",
        "isolate",
        "isolate",
        "socket",
    )


@pytest.mark.parametrize(
    ("specs", "policy", "threads"),
    [
        ({"resources:PCPU": "4"}, "dedicated", None),
        ({"resources1:PCPU": "3", "resources2:PCPU": "1"}, "dedicated", None),
        ({"resources:PCPU": "5", EMULATOR: "isolate"}, "dedicated", None),
        ({"resources:VCPU": "4", NODES: "1"}, "shared", None),
        ({"resources:PCPU": "0", NODES: "1"}, None, None),
        ({"resources:PCPU": "4", HT: "required"}, "dedicated", "require"),
        ({**DEDICATED, "trait2:HW_CPU_HYPERTHREADING": "forbidden"}, "dedicated", "isolate"),
        ({**DEDICATED, HT: "preferred"}, "dedicated", None),
    ],
)
def test_given_what_is_wanted_of_placement_when_read_then_it_means_a_policy(
    specs: dict[str, str], policy: str | None, threads: str | None
) -> None:
    request = asked(specs)
    assert (request.cpu_policy, request.cpu_thread_policy) == (policy, threads)


@pytest.mark.parametrize("word", ["prefer", "isolate", "require"])
def test_given_a_thread_policy_when_read_then_it_is_kept(word: str) -> None:
    assert asked({**DEDICATED, THREADS: word}).cpu_thread_policy == word


@pytest.mark.parametrize(
    "specs", [{EMULATOR: "isolate"}, {EMULATOR_TOO: "isolate"}, {EMULATOR: "isolate", EMULATOR_TOO: "isolate"}]
)
def test_given_either_name_of_the_emulator_policy_when_read_then_it_counts(specs: dict[str, str]) -> None:
    assert asked({**DEDICATED, **specs}).emulator_threads == "isolate"


@pytest.mark.parametrize("word", ["required", "preferred", "legacy", "socket"])
def test_given_an_affinity_when_read_then_it_is_known_without_cells_too(word: str) -> None:
    assert pci_affinity(flavor({AFFINITY: word})) == word


@pytest.mark.parametrize(
    ("specs", "where", "what"),
    [
        ({NODES: "0"}, NODES, "at least one cell"),
        ({NODES: "-1"}, NODES, "'-1' is not a number of cells"),
        ({NODES: "two"}, NODES, "'two' is not a number of cells"),
        ({NODES: ""}, NODES, "'' is not"),
        ({NODES: "3"}, NODES, "4 vCPUs don't divide by 3 cells"),
        ({NODES: "999999999"}, NODES, "4 vCPUs don't divide"),
        ({POLICY: "own"}, POLICY, "'own' is not one of shared, dedicated, mixed"),
        ({POLICY: ""}, POLICY, "'' is not one of"),
        ({**DEDICATED, THREADS: "some"}, THREADS, "not one of prefer, isolate, require"),
        ({THREADS: "prefer"}, THREADS, "needs CPUs of the guest's own"),
        ({POLICY: "shared", THREADS: "require"}, THREADS, "needs CPUs of the guest's own"),
        ({**DEDICATED, EMULATOR: "x"}, EMULATOR, "not one of share, isolate"),
        ({EMULATOR: "isolate"}, EMULATOR, "needs CPUs of the guest's own"),
        ({EMULATOR_TOO: "isolate"}, EMULATOR_TOO, "needs CPUs of the guest's own"),
        ({**DEDICATED, EMULATOR: "isolate", EMULATOR_TOO: "share"}, EMULATOR_TOO, "contradicts"),
        ({AFFINITY: "near"}, AFFINITY, "not one of required, preferred, legacy, socket"),
        ({**DEDICATED, "resources:PCPU": "4"}, "resources:PCPU", "it repeats"),
        ({"resources:PCPU": "4", "resources1:VCPU": "4"}, "resources:PCPU", "shared or dedicated"),
        ({"resources:PCPU": "3"}, "resources:PCPU", "takes 4 dedicated CPUs, not 3"),
        ({"resources2:PCPU": "4", EMULATOR: "isolate"}, "resources2:PCPU", "takes 5 dedicated CPUs, not 4"),
        ({"resources:VCPU": "x"}, "resources:VCPU", "'x' is not a number of CPUs"),
        ({"resources:PCPU": "x"}, "resources:PCPU", "'x' is not a number of CPUs"),
        ({**DEDICATED, THREADS: "prefer", HT: "forbidden"}, HT, "it repeats"),
        ({HT: "required"}, HT, "needs CPUs of the guest's own"),
        ({**DEDICATED, MASK: "0"}, MASK, "needs the mixed policy"),
        ({MASK: "0"}, MASK, "needs the mixed policy"),
        (MIXED, MASK, "does not say"),
        ({**MIXED, MASK: ""}, MASK, "none of the vCPUs"),
        ({**MIXED, MASK: "0-3"}, MASK, "all of the vCPUs"),
        ({**MIXED, MASK: "^0-3"}, MASK, "none of the vCPUs"),
        ({**MIXED, MASK: "3-5"}, MASK, "vCPU 4-5 is not among the flavor's 4"),
        ({**MIXED, MASK: "a"}, MASK, "'a' is not a CPU"),
        ({PAGES: "huge"}, PAGES, "is not small, large, any"),
        ({PAGES: "2Mb"}, PAGES, "is not small, large, any"),
        ({PAGES: "0"}, PAGES, "must be over 0"),
        ({PAGES: "0GB"}, PAGES, "must be over 0"),
        ({PAGES: "-4"}, PAGES, "is not small"),
        ({**DEDICATED, "hw:cpu_realtime": "yes"}, "hw:cpu_realtime", "not supported"),
        ({**TWO, "hw:numa_cpus.0": "0-1", "hw:numa_cpus.1": "2-3"}, "hw:numa_mem.0", "missing"),
        ({**TWO, "hw:numa_mem.0": "1", "hw:numa_mem.1": "1"}, "hw:numa_cpus.0", "missing"),
        ({**LAID_OUT, NODES: "3"}, "hw:numa_cpus.2", "missing"),
        ({**LAID_OUT, NODES: "999999999"}, "hw:numa_cpus.2", "missing"),
        ({**LAID_OUT, NODES: "1"}, "hw:numa_cpus.1", "cells 0 to 0 only"),
        ({**LAID_OUT, "hw:numa_mem.x": "1"}, "hw:numa_mem.x", "cells 0 to 1 only"),
        ({**LAID_OUT, "hw:numa_cpus.0": ""}, "hw:numa_cpus.0", "names no vCPU"),
        ({**LAID_OUT, "hw:numa_cpus.0": "0-"}, "hw:numa_cpus.0", "not a CPU or a range"),
        ({**LAID_OUT, "hw:numa_cpus.0": "0,2-4"}, "hw:numa_cpus.0", "vCPU 4 is not among the flavor's 4"),
        ({**LAID_OUT, "hw:numa_cpus.1": "1-2"}, "hw:numa_cpus.1", "vCPU 2 is in another cell"),
        ({**LAID_OUT, "hw:numa_cpus.0": "0,2"}, "hw:numa_cpus", "vCPU 3 is in no cell"),
        ({**LAID_OUT, "hw:numa_mem.0": "1GB"}, "hw:numa_mem.0", "is not a number of MiB"),
        ({**LAID_OUT, "hw:numa_mem.0": "0"}, "hw:numa_mem.0", "some memory"),
        ({**LAID_OUT, "hw:numa_mem.0": "1024"}, "hw:numa_mem", "2048 MiB together, the flavor 4096"),
    ],
)
def test_given_a_mistake_when_read_then_it_names_the_extra_spec(specs: dict[str, str], where: str, what: str) -> None:
    with pytest.raises(InvalidData) as caught:
        numa_request(flavor(specs))
    assert caught.value.where == where
    assert what in caught.value.what


def test_given_memory_that_does_not_divide_when_read_then_it_is_told() -> None:
    with pytest.raises(InvalidData, match="4097 MiB don't divide by 2 cells"):
        numa_request(flavor(TWO, memory_mb=4097))


@pytest.mark.parametrize("vcpus", [0, 65536, 2**53])
def test_given_vcpus_that_no_guest_has_when_read_then_it_is_told(vcpus: int) -> None:
    with pytest.raises(InvalidData, match="1 to 65535 vCPUs"):
        numa_request(flavor(DEDICATED, vcpus=vcpus))


WORDS = (
    *("", "0", "1", "2", "3", "4", "5", "2048", "0-1", "2-3", "0-3", "^0", "^1-2", "-1", "1e3", "\u0662", "9" * 40),
    *("shared", "dedicated", "mixed", "prefer", "isolate", "require", "share", "required", "forbidden", "legacy"),
    *("small", "large", "any", "2MB", "1G", "4096", "yes"),
)
SPECS = (
    *(NODES, POLICY, THREADS, PAGES, MASK, EMULATOR, EMULATOR_TOO, AFFINITY, HT, "hw:cpu_realtime"),
    *("hw:numa_cpus.0", "hw:numa_cpus.1", "hw:numa_mem.0", "hw:numa_mem.1", "hw:numa_mem.", "hw:numa_cpus.01"),
    *("resources:PCPU", "resources1:VCPU", "resources:VCPUS"),
)


@given(
    specs=st.dictionaries(st.sampled_from(SPECS), st.sampled_from(WORDS) | st.text(max_size=5), max_size=6),
    vcpus=st.integers(0, 6),
    memory_mb=st.sampled_from((0, 4, 4096, 4097)),
)
def test_given_any_extra_specs_then_every_vcpu_and_mib_is_dealt_out_or_the_mistake_is_told(
    specs: dict[str, str], vcpus: int, memory_mb: int
) -> None:
    request = read_or_where(flavor(specs, vcpus=vcpus, memory_mb=memory_mb))
    if isinstance(request, str):
        assert request in {*specs, "vcpus", MASK} or request.startswith("hw:numa_")
        return
    if request is None:
        assert not {NODES, PAGES} & specs.keys()
        assert specs.get(POLICY, "shared") == "shared"
        return
    every = [cpu for cell in request.cells for cpu in (*cell.cpuset, *cell.pcpuset)]
    assert sorted(every) == list(range(vcpus))
    assert sum(cell.memory_mb for cell in request.cells) == memory_mb
    dedicated = sum(len(cell.pcpuset) for cell in request.cells)
    assert {None: dedicated == 0, "shared": dedicated == 0, "dedicated": dedicated == vcpus}.get(
        request.cpu_policy, 0 < dedicated < vcpus
    )


def read_or_where(asking: Flavor) -> NumaRequest | str | None:
    """Read a flavor; give the place of a mistake."""
    try:
        return numa_request(asking)
    except InvalidData as error:
        return error.where


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


def test_given_a_flavor_when_read_then_its_figures_cells_devices_and_traits_are_wanted() -> None:
    specs = {
        "hw:numa_nodes": "1",
        ALIAS: "gpu:1",
        "trait:HW_CPU_X86_VMX": "required",
        "trait2:CUSTOM_SLOW": "forbidden",
        "resources:VCPU": "2",
        "resources1:DISK_GB": "20",
    }
    flavor = Flavor(vcpus=2, memory_mb=2048, root_gb=20, extra_specs=specs)
    want = wanted(flavor, [PciAlias(name="gpu", vendor_id="10de")], volume_backed=True)
    assert (want.flavor, want.volume_backed) == (flavor, True)
    assert want.numa is not None
    assert [len(cell.cpuset) for cell in want.numa.cells] == [2]
    assert [(one.alias, one.count) for one in want.pci] == [("gpu", 1)]
    assert (want.required, want.forbidden) == (frozenset({"HW_CPU_X86_VMX"}), frozenset({"CUSTOM_SLOW"}))


@pytest.mark.parametrize(
    ("specs", "where", "what"),
    [
        ({"resources:CUSTOM_FPGA": "1"}, "resources:CUSTOM_FPGA", "does not account for CUSTOM_FPGA"),
        ({"trait:X": "maybe"}, "trait:X", "'maybe' is neither required nor forbidden"),
        ({"trait:X": "required", "trait1:X": "forbidden"}, "trait:X", "X is both required and forbidden"),
    ],
)
def test_given_classes_and_traits_that_make_no_sense_when_read_then_the_spec_is_named(
    specs: dict[str, str], where: str, what: str
) -> None:
    with pytest.raises(InvalidData, match=what) as raised:
        wanted(Flavor(vcpus=1, memory_mb=1, extra_specs=specs), ())
    assert raised.value.where == where


def test_given_no_traits_when_read_then_none_is_required_or_forbidden() -> None:
    want = wanted(Flavor(vcpus=1, memory_mb=1, extra_specs={"trait:A": "required", "quota:cpu": "x"}), ())
    assert (want.required, want.forbidden, want.numa, want.pci) == (frozenset({"A"}), frozenset(), None, ())


def test_given_the_resource_classes_then_each_has_its_unit() -> None:
    assert UNITS == {
        "VCPU": "vCPUs",
        "PCPU": "dedicated CPUs",
        "MEMORY_MB": "MiB of memory",
        "DISK_GB": "GiB of disk",
    }


def test_given_the_spec_of_pci_devices_then_its_name_is_novas() -> None:
    assert ALIAS == "pci_passthrough:alias"


@pytest.mark.parametrize("yes", ["1", "t", "true", "True", "on", "y", "yes", " yes "])
def test_given_any_way_of_saying_yes_when_realtime_is_asked_for_then_it_is_refused(yes: str) -> None:
    with pytest.raises(InvalidData, match="realtime guests are not supported"):
        numa_request(flavor({POLICY: "dedicated", "hw:cpu_realtime": yes}))


@pytest.mark.parametrize("vcpus", [1, CPU_MAX])
def test_given_the_fewest_and_the_most_vcpus_when_read_then_all_are_in_the_cell(vcpus: int) -> None:
    request = numa_request(flavor({NODES: "1"}, vcpus=vcpus))
    assert request is not None
    assert [len(cell.cpuset) for cell in request.cells] == [vcpus]


@pytest.mark.parametrize(("mask", "which"), [("0-3", "all"), ("^0-3", "none")])
def test_given_a_mask_of_all_or_none_when_read_then_the_text_says_which(mask: str, which: str) -> None:
    said = f"^{MASK}: {which} of the vCPUs would be dedicated, and a mixed guest has both"
    with pytest.raises(InvalidData, match=said):
        numa_request(flavor({POLICY: "mixed", MASK: mask}, vcpus=4))


def test_given_a_mixed_guest_when_it_has_a_thread_policy_then_that_is_no_contradiction() -> None:
    request = numa_request(flavor({POLICY: "mixed", MASK: "0", THREADS: "prefer"}, vcpus=4))
    assert request is not None
    assert (request.cpu_policy, request.cpu_thread_policy) == ("mixed", "prefer")
