"""Hardened parsing: what is refused, and what numbers and units mean."""

from contextlib import suppress
from string import printable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.drivers.libvirt.xml import SIZE_MAX, number, read_xml, scaled_bytes, size_bytes, text_of
from stocktake.errors import InvalidData

BILLION_LAUGHS = """<!DOCTYPE a [<!ENTITY x "ha"><!ENTITY y "&x;&x;&x;&x;">]><domain><name>&y;</name></domain>"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not XML"),
        ("<domain>", "not XML"),
        ("<a/><b/>", "not XML"),
        ("<a>\0</a>", "not XML"),
        ("<a>\ud800</a>", "not XML"),
        ("<a>&undefined;</a>", "not XML"),
        (BILLION_LAUGHS, "DTDs and entities"),
        ("<!DOCTYPE a SYSTEM 'file:///etc/passwd'><a/>", "DTDs and entities"),
        ("<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>", "DTDs and entities"),
        pytest.param("<a>" + " " * SIZE_MAX + "</a>", "more than", id="huge"),
    ],
)
def test_a_hostile_or_broken_document_is_refused_with_its_place(text: str, says: str) -> None:
    with pytest.raises(InvalidData, match=says) as refusal:
        read_xml(text, where="guest a")
    assert refusal.value.where == "guest a"


@given(st.text(alphabet=printable + "<>&'\"!?/\0é\ud800", max_size=200))
def test_any_text_is_read_or_refused_and_nothing_else_happens(text: str) -> None:
    with suppress(InvalidData):
        read_xml(text, where="x")


def test_text_of_gives_stripped_text_or_nothing() -> None:
    root = read_xml("<a><b> x </b><c/></a>", where="x")
    assert [text_of(root, path) for path in ("b", "c", "d")] == ["x", "", ""]


@pytest.mark.parametrize("text", [None, "", "-1", "1_0", "1.5", "1e3", "x", "9" * 19, "9" * 99, "\u0664", " "])
def test_what_is_no_whole_number_is_refused(text: str | None) -> None:
    with pytest.raises(InvalidData, match="vcpu is"):
        number(text, what="vcpu")


@pytest.mark.parametrize(("text", "base", "value"), [("12", 10, 12), (" 7 ", 10, 7), ("0x1f", 0, 31), ("0", 0, 0)])
def test_whole_numbers(text: str, base: int, value: int) -> None:
    assert number(text, what="n", base=base) == value


@pytest.mark.parametrize(
    ("unit", "value"),
    [
        (None, 2048),
        ("b", 2),
        ("bytes", 2),
        ("KB", 2000),
        ("k", 2048),
        ("KiB", 2048),
        ("M", 2 * 1024**2),
        ("MB", 2 * 1000**2),
        ("GiB", 2 * 1024**3),
        ("T", 2 * 1024**4),
    ],
)
def test_units_mean_what_libvirt_documents(unit: str | None, value: int) -> None:
    assert scaled_bytes("2", unit, what="memory") == value


@pytest.mark.parametrize(("text", "unit"), [("1", "furlong"), (str(2**60), "GiB"), ("x", "KiB")])
def test_a_size_that_cannot_be_is_refused(text: str, unit: str) -> None:
    with pytest.raises(InvalidData, match="memory"):
        scaled_bytes(text, unit, what="memory")


def test_a_missing_size_is_refused() -> None:
    with pytest.raises(InvalidData, match="memory is missing"):
        size_bytes(None, what="memory")
