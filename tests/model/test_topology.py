"""CPU sets, as people write them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stocktake.errors import InvalidData
from stocktake.model.topology import CPU_MAX, format_cpu_set, parse_cpu_set


@pytest.mark.parametrize(
    ("spec", "cpus"),
    [
        ("", set()),
        ("3", {3}),
        ("0-3", {0, 1, 2, 3}),
        ("0-3,^2", {0, 1, 3}),
        ("^2,0-3", {0, 1, 3}),
        ("0-7,^2-4, 9 ,", {0, 1, 5, 6, 7, 9}),
        (" 1 - 2 ", {1, 2}),
        ("^1", set()),
    ],
)
def test_given_a_spec_then_its_cpus_are_read(spec: str, cpus: set[int]) -> None:
    assert parse_cpu_set(spec) == cpus


@pytest.mark.parametrize(
    "spec", ["x", "1-", "-1", "1-2-3", "3-1", "^", "1;2", "65536", "0-99999999", "٣", "1.0", "^^1"]
)
def test_given_what_is_no_spec_then_it_is_refused(spec: str) -> None:
    with pytest.raises(InvalidData):
        parse_cpu_set(spec)


@settings(deadline=None)
@given(st.frozensets(st.integers(0, CPU_MAX)))
def test_given_any_cpus_then_writing_and_reading_gives_them_back(cpus: frozenset[int]) -> None:
    assert parse_cpu_set(format_cpu_set(cpus)) == cpus


@settings(deadline=None)
@given(st.text(st.sampled_from("0123456789-^, x"), max_size=20))
def test_given_any_text_then_cpus_or_a_refusal(text: str) -> None:
    try:
        cpus = parse_cpu_set(text)
    except InvalidData:
        return
    assert all(0 <= cpu <= CPU_MAX for cpu in cpus)
