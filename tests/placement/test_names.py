"""Names that the scheduler accepts: the same rules as os_traits and os_resource_classes."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.placement.names import class_name, is_custom, is_standard_class, is_trait, trait_names


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("CUSTOM_A", True),
        ("CUSTOM_A_1", True),
        ("CUSTOM_", False),
        ("CUSTOM_a", False),
        ("custom_A", False),
        ("CUSTOM_A\n", False),
        ("CUSTOM_" + "A" * 248, True),
        ("CUSTOM_" + "A" * 249, False),
    ],
)
def test_given_a_name_when_asked_then_only_a_well_formed_one_is_custom(*, name: str, wanted: bool) -> None:
    assert is_custom(name) is wanted
    assert is_trait(name) is wanted


def test_given_standard_names_when_asked_then_they_are_known() -> None:
    assert is_trait("HW_CPU_X86_AVX2")
    assert is_standard_class("PCPU")
    assert not is_trait("PCPU")
    assert not is_standard_class("HW_CPU_X86_AVX2")


@given(st.text(max_size=300))
def test_given_any_text_when_normalised_then_it_is_a_valid_name_and_stays_so(text: str) -> None:
    name = class_name(text)
    assert is_standard_class(name) or is_custom(name)
    assert class_name(name) == name
    traits = trait_names([text])
    assert all(is_trait(trait) for trait in traits)
    assert trait_names(traits) == traits
    assert all(re.fullmatch("[A-Z0-9_]{1,255}", trait) for trait in traits)
