"""What every noun is: frozen, and JSON with the path of whatever is wrong."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stocktake.errors import InvalidData
from stocktake.model.hypervisor import Host
from stocktake.model.topology import GuestCell, GuestTopology, HostTopology
from stocktake.model.value import Value, convert, decode, decode_strictly, encode, plain, replace
from stocktake.model.workload import Flavor, Instance, NodeWork
from tests.strategies import GUEST_TOPOLOGIES, Case, cases

FLAVOR = Flavor(vcpus=2, memory_mb=64, swap_mb=512)


def test_given_a_value_when_changed_then_it_refuses_and_a_copy_has_the_change() -> None:
    with pytest.raises(AttributeError):
        FLAVOR.vcpus = 3  # type: ignore[misc]
    assert replace(FLAVOR, vcpus=3) == Flavor(vcpus=3, memory_mb=64, swap_mb=512)
    assert hash(FLAVOR.vcpus) == hash(2)


def test_given_a_flavor_when_written_then_its_names_are_novas() -> None:
    assert plain(FLAVOR) == {
        "id": None,
        "name": None,
        "vcpus": 2,
        "memory_mb": 64,
        "root_gb": 0,
        "ephemeral_gb": 0,
        "swap": 512,
        "extra_specs": {},
    }
    assert decode('{"vcpus": 2, "memory_mb": 64, "swap": 512}', Flavor, where="") == FLAVOR


def test_given_novas_json_of_a_guests_cells_when_read_then_every_part_is_there_and_goes_back() -> None:
    text = (
        '{"cells": [{"id": 1, "cpuset": [0], "pcpuset": [2, 1], "memory": 512, "pagesize": 2048, '
        '"cpu_pinning": {"1": 5, "2": 6}, "cpu_policy": "mixed", "cpu_thread_policy": "isolate", '
        '"cpuset_reserved": [7]}], "emulator_threads_policy": "share"}'
    )
    topology = decode(text, GuestTopology, where="")
    assert topology == GuestTopology(
        cells=(
            GuestCell(
                id=1,
                cpuset=frozenset({0}),
                pcpuset=frozenset({1, 2}),
                memory_mb=512,
                pagesize_kb=2048,
                cpu_pinning={1: 5, 2: 6},
                cpu_policy="mixed",
                cpu_thread_policy="isolate",
                cpuset_reserved=frozenset({7}),
            ),
        ),
        emulator_threads_policy="share",
    )
    assert plain(topology)["cells"][0]["pcpuset"] == [1, 2]
    assert plain(topology)["cells"][0]["cpu_pinning"] == {"1": 5, "2": 6}


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: decode('{"vcpus": 2}', Flavor, where="w"), "w: Object missing required field `memory_mb`"),
        (lambda: decode('{"vcpus": -1, "memory_mb": 1}', Flavor, where="w"), "$.vcpus"),
        (lambda: decode('{"vcpus": 9007199254740993, "memory_mb": 1}', Flavor, where="w"), "$.vcpus"),
        (lambda: decode('{"vcpus": "2", "memory_mb": 1}', Flavor, where="w"), "$.vcpus"),
        (lambda: decode("{", Flavor, where="w"), "w: "),
        (lambda: decode(b"\xff", Flavor, where="w"), "w: "),
        (lambda: decode('{"name": "\ud800"}', Flavor, where="w"), "w: "),
        (lambda: decode("[" * 100_000, HostTopology, where="w"), "w: "),
        (lambda: convert({"cells": [{"id": 0, "cpuset": [0]}]}, HostTopology, where="w"), "$.cells[0]"),
        (lambda: convert(None, Flavor, where="w"), "w: Expected `object`, got `null`"),
        (lambda: convert(object(), Flavor, where="w"), "w: "),
    ],
)
def test_given_what_is_wrong_when_read_then_the_error_names_its_path(read: Callable[[], object], said: str) -> None:
    with pytest.raises(InvalidData) as caught:
        read()
    assert said in str(caught.value)


def test_given_sets_when_encoded_then_equal_values_give_equal_text() -> None:
    forth = GuestCell(id=0, memory_mb=1, cpuset=frozenset([8, 1, 1024]))
    back = GuestCell(id=0, memory_mb=1, cpuset=frozenset([1024, 1, 8]))
    assert encode(forth) == encode(back)
    assert encode({"b": 1, "a": {3, 1, 2}}) == '{"a":[1,2,3],"b":1}'


def test_given_a_time_when_written_then_it_reads_back_in_utc() -> None:
    instance = Instance(uuid="u", flavor=FLAVOR, created_at=datetime(2026, 1, 1, 12, 0, 0, 5, tzinfo=UTC))
    assert plain(instance)["created_at"] == "2026-01-01T12:00:00.000005Z"
    assert decode(encode(instance), Instance, where="") == instance


@given(GUEST_TOPOLOGIES)
def test_given_any_topology_when_written_then_it_reads_back_equal_from_text_and_from_plain_data(
    topology: GuestTopology,
) -> None:
    assert decode(encode(topology), GuestTopology, where="") == topology
    assert convert(plain(topology), GuestTopology, where="") == topology


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cases())
def test_given_any_nouns_when_written_then_they_read_back_equal(case: Case) -> None:
    assert decode(encode(case.host), Host, where="") == convert(plain(case.host), Host, where="") == case.host
    assert decode(encode(case.work), NodeWork, where="") == convert(plain(case.work), NodeWork, where="") == case.work


class Leaf(Value, frozen=True, kw_only=True):
    """What is at the end of a branch."""

    name: str = ""
    when: datetime | None = None


class Tree(Value, frozen=True, kw_only=True):
    """Something with branches."""

    size: int = 0
    weight: float = 0.0
    leaves: tuple[Leaf, ...] = ()
    notes: Mapping[str, str] = {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "body"),
        ("[]", "object"),
        ('{"size": "1"}', "$.size"),
        ('{"size": 1.5}', "$.size"),
        ('{"siz": 1}', "no such field `siz` - at `$`"),
        ('{"leaves": [{}, {"nam": "x"}]}', "no such field `nam` - at `$.leaves[1]`"),
        ('{"leaves": [{"name": "\\u0000"}]}', "NUL character - at `$.leaves[0].name`"),
        ('{"notes": {"\\u0000": "x"}}', "NUL character - at `$.notes`"),
        ('{"size": 9223372036854775808}', "63 bits - at `$.size`"),
        ('{"leaves": [{"when": "2026-01-01T00:00:00"}]}', "without a zone - at `$.leaves[0].when`"),
        ("[" * 5000, "body"),
        ('"\\ud800"', "body"),
    ],
)
def test_given_what_would_be_lost_when_read_then_it_is_refused_with_its_path(text: str, said: str) -> None:
    with pytest.raises(InvalidData) as raised:
        decode_strictly(text, Tree, where="body")
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [("5", 5), ("5.0", 5), ("-0.0", 0), ("1e3", 1000), ("9007199254740992.0", 2**53), ("1e18", 10**18)],
)
def test_given_a_whole_number_in_another_form_when_read_then_it_is_that_number(text: str, size: int) -> None:
    assert decode_strictly(f'{{"size": {text}, "weight": {text}}}', Tree, where="body") == Tree(
        size=size, weight=float(size)
    )


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
TREES = st.builds(
    Tree,
    size=st.integers(-(2**63) + 1, 2**63 - 1),
    weight=st.floats(allow_nan=False, allow_infinity=False),
    leaves=st.lists(st.builds(Leaf, name=TEXT), max_size=3).map(tuple),
    notes=st.dictionaries(TEXT, TEXT, max_size=3),
)


@given(TREES)
def test_given_any_value_when_written_and_read_then_it_is_the_same(tree: Tree) -> None:
    assert decode_strictly(encode(tree), Tree, where="body") == tree
