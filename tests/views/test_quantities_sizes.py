"""Sizes as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.errors import InvalidInput
from stocktake.views.quantities import Unit, read_size


@pytest.mark.parametrize(
    ("text", "unit", "size"),
    [
        ("8192", "MiB", 8192),
        ("8G", "MiB", 8192),
        ("8g", "MiB", 8192),
        ("8GB", "MiB", 8192),
        ("8 GiB", "MiB", 8192),
        ("1.5G", "MiB", 1536),
        ("512M", "MiB", 512),
        ("2048K", "MiB", 2),
        ("1T", "MiB", 1024**2),
        ("0", "MiB", 0),
        ("40", "GiB", 40),
        ("40G", "GiB", 40),
        ("1.5T", "GiB", 1536),
        ("2048M", "GiB", 2),
    ],
)
def test_given_a_size_when_read_then_it_is_whole_in_its_unit(text: str, unit: Unit, size: int) -> None:
    assert read_size(text, unit) == size


@pytest.mark.parametrize(
    ("text", "unit", "told"),
    [
        ("", "MiB", "no size such as 8G"),
        ("8X", "MiB", "'8X' is no size such as 8G, 512M or 40 (MiB)"),
        ("-8G", "MiB", "no size"),
        ("8B", "MiB", "no size"),
        ("G", "MiB", "no size"),
        ("1e9", "MiB", "no size"),
        ("٨G", "MiB", "no size"),
        ("512M", "GiB", "512M is no whole number of GiB"),
        ("0.3M", "MiB", "0.3M is no whole number of MiB"),
        ("9999999999999999T", "MiB", "more than any machine has"),
    ],
)
def test_given_what_is_no_size_when_read_then_it_is_refused_and_never_rounded(text: str, unit: Unit, told: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_size(text, unit)
    assert told in str(caught.value)


@given(number=st.integers(0, 2**30), unit=st.sampled_from(("MiB", "GiB")))
def test_given_any_whole_number_when_written_with_or_without_its_unit_then_it_is_read_back(
    number: int, unit: Unit
) -> None:
    assert read_size(str(number), unit) == read_size(f"{number}{unit}", unit) == number
