"""
Step 4, what libvirt writes: XML into elements. Invariant: no DTD, no entity, no document over the limit is ever read.

A guest's definition is partly its owner's text (title, metadata), so it is read as hostile input.
"""

from collections.abc import Mapping
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from stocktake.errors import InvalidData
from stocktake.model.topology import parse_cpu_set

# libvirt's own protocol carries no string of more than 4 MiB.
SIZE_MAX = 4 * 1024 * 1024

# Powers by the suffixes that libvirt documents for its `unit` attributes; `KB` and the like are decimal.
_UNITS: Mapping[str, int] = {"": 1024, "b": 1, "bytes": 1} | {
    suffix: base**power
    for power, letter in enumerate("kmgtpe", start=1)
    for suffix, base in ((letter, 1024), (f"{letter}ib", 1024), (f"{letter}b", 1000))
}

# No figure of a host or guest is larger: what is, is a mistake or an attack.
_NUMBER_MAX = 2**63 - 1


def read_xml(text: str, *, where: str) -> Element:
    """
    Parse one document of libvirt's.

    Raises:
        InvalidData: not XML, larger than `SIZE_MAX` characters, or with a DTD or entities.
    """
    if len(text) > SIZE_MAX:
        raise InvalidData(f"the document has {len(text)} characters, more than {SIZE_MAX}", where=where)
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        raise InvalidData(f"DTDs and entities are not read ({type(error).__name__})", where=where) from error
    except (ParseError, ValueError) as error:
        # ValueError: a NUL or a lone surrogate, or an encoding that expat does not know.
        raise InvalidData(f"not XML: {error}", where=where) from error
    return root


def text_of(root: Element, path: str) -> str:
    """Give the text of the element at `path`, stripped; empty if there is none."""
    return (root.findtext(path) or "").strip()


def number(text: str | None, *, what: str, base: int = 10) -> int:
    """
    Read a whole number that isn't negative; `base` 0 takes `0x` as well.

    Raises:
        InvalidData: anything else.
    """
    # int() takes underscores, signs and other scripts' digits, which libvirt never writes; and long ones are slow.
    digits = (text or "").strip()
    if not (0 < len(digits) <= 20 and digits.isascii() and digits.isalnum()):
        raise InvalidData(f"{what} is {(text or '')[:40]!r}, not a whole number")
    try:
        value = int(digits, base)
    except ValueError as error:
        raise InvalidData(f"{what} is {digits!r}, not a whole number") from error
    if value > _NUMBER_MAX:
        raise InvalidData(f"{what} is {digits}, which no machine has")
    return value


def size_bytes(element: Element | None, *, what: str) -> int:
    """
    Read an element such as `<memory unit='KiB'>16384</memory>` in bytes; no unit means KiB, as in libvirt.

    Raises:
        InvalidData: it isn't there, isn't a number, or has a unit that libvirt doesn't document.
    """
    if element is None:
        raise InvalidData(f"{what} is missing")
    return scaled_bytes(element.text, element.get("unit"), what=what)


def scaled_bytes(text: str | None, unit: str | None, *, what: str) -> int:
    """
    Read a number with libvirt's unit in bytes; no unit means KiB.

    Raises:
        InvalidData: not a number, or an unknown unit.
    """
    scale = _UNITS.get((unit or "").lower())
    if scale is None:
        raise InvalidData(f"{what} has the unknown unit {(unit or '')[:20]!r}")
    value = number(text, what=what) * scale
    if value > _NUMBER_MAX:
        raise InvalidData(f"{what} is {value} bytes, which no machine has")
    return value


def cpu_set(text: str | None, *, what: str) -> frozenset[int]:
    """
    Read a CPU set or node set such as `0-3,^2,8`; empty if there is none.

    Raises:
        InvalidData: not a set; says of what.
    """
    try:
        return parse_cpu_set(text or "")
    except InvalidData as error:
        raise InvalidData(f"{what}: {error.what}") from error
