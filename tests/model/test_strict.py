"""What would be passed over in a document is refused, with its path."""

from collections.abc import Mapping
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.errors import InvalidData
from stocktake.model.strict import decode_strictly
from stocktake.model.value import Value, encode


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
