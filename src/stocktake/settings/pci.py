"""
Nova's forms of the PCI settings and of huge pages, read into ours. Invariant: a device is written one way after this.

Source of the forms: Nova's `[pci] device_spec`, `[pci] alias`, `reserved_huge_pages` and `nova/pci/devspec.py`.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from stocktake.errors import InvalidData
from stocktake.model.pci import DeviceSpec, PciAlias
from stocktake.model.value import convert

ANY = "*"
# Parts of an address: name, digits as written, largest value.
_PARTS = (("domain", 4, 0xFFFF), ("bus", 2, 0xFF), ("slot", 2, 0x1F), ("function", 1, 0x7))
_SPEC_KEYS = ("vendor_id", "product_id", "address", "devname", "resource_class", "traits")
_TAG_KEYS = ("physical_network", "remote_managed", "trusted", "live_migratable", "managed", "one_time_use")
_ALIAS_KEYS = ("name", "vendor_id", "product_id", "device_type", "capability_type", "numa_policy", "resource_class")
_ALIAS_MORE = ("traits", "live_migratable")
_PATTERN_MAX = 200
_VMD_MAX = 0x1FFFF


def read_device_spec(entry: object) -> DeviceSpec:
    """
    Read one entry of `device_spec`: ids and addresses come out in lower case and in full, everything else as tags.

    Raises:
        InvalidData: what is wrong with it.
    """
    spec = _table(entry)
    _near_miss(spec, (*_SPEC_KEYS, *_TAG_KEYS))
    if "devname" in spec:
        raise InvalidData("devname is not supported: names of interfaces change; give the device's address")
    address, parts = _address(spec.get("address"))
    tags = {key: _tag(key, value) for key, value in spec.items() if key not in _SPEC_KEYS and value is not None}
    return DeviceSpec(
        vendor_id=_id(spec, "vendor_id") or ANY,
        product_id=_id(spec, "product_id") or ANY,
        address=address,
        address_parts=parts,
        resource_class=_resource_class(spec.get("resource_class")),
        traits=_traits(spec.get("traits")),
        tags=tags,
    )


def read_alias(entry: object) -> PciAlias:
    """
    Read one entry of `alias`.

    Raises:
        InvalidData: what is wrong with it.
    """
    table = _table(entry)
    known = (*_ALIAS_KEYS, *_ALIAS_MORE)
    for key in table:
        if key not in known:
            raise InvalidData(f"unknown key {key!r}{nearest(key, known)}")
    resource_class = _resource_class(table.get("resource_class"))
    vendor_id, product_id = _id(table, "vendor_id"), _id(table, "product_id")
    if not resource_class and not (vendor_id and product_id):
        raise InvalidData("needs vendor_id and product_id, or a resource_class")
    said = {key: table[key] for key in ("name", "device_type", "numa_policy") if table.get(key) is not None}
    if not isinstance(said.get("name"), str) or not said["name"].strip():
        raise InvalidData("needs a name")
    return convert(
        {
            **said,
            "vendor_id": None if vendor_id == ANY else vendor_id,
            "product_id": None if product_id == ANY else product_id,
            "resource_class": resource_class,
            "traits": sorted(_traits(table.get("traits"))),
        },
        PciAlias,
        where="",
    )


def nearest(name: str, known: Iterable[str]) -> str:
    """Name the known name that is nearest, as the end of a sentence; empty if none is near."""
    found = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def _table(entry: object) -> dict[str, Any]:
    if not isinstance(entry, Mapping) or not all(isinstance(key, str) for key in entry):
        raise InvalidData('must be a table such as {vendor_id = "8086", product_id = "1515"}')
    return dict(entry)


def _near_miss(spec: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse a name that is almost one of ours: as a tag it would match every device."""
    for key in spec:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.8)
        if key not in known and near:
            raise InvalidData(f"unknown key {key!r} (did you mean {near[0]}?)")


def _id(spec: Mapping[str, Any], key: str) -> str | None:
    """Read a vendor's or product's id as four digits; None if it is not given."""
    text = spec.get(key)
    if text is None:
        return None
    if not isinstance(text, str):
        raise InvalidData(f'{key} must be text in quotes, such as "8086"')
    return _hex(text.strip(), key, 4, 0xFFFF)


def _hex(text: str, name: str, digits: int, largest: int) -> str:
    if text == ANY:
        return ANY
    if re.fullmatch(r"(0[xX])?[0-9a-fA-F]{1,8}", text) is None:
        raise InvalidData(f"{name} must be a hexadecimal number or *, not {text[:40]!r}")
    number = int(text, 16)
    if number > largest:
        raise InvalidData(f"{name} {text!r} is above {largest:x}")
    return f"{number:0{digits}x}"


def _address(given: Any) -> tuple[str | None, dict[str, frozenset[str]] | None]:
    """Read an address: as a glob of four parts, or as what each part may be; (None, None) is any device."""
    if given is None:
        return None, None
    if isinstance(given, Mapping):
        return None, _matched(given) or None
    if not isinstance(given, str):
        raise InvalidData('address must be text such as "*:0a:00.*" or a table of patterns')
    front, _dot, function = given.strip().partition(".")
    parts = front.split(":") if front else []
    if len(parts) > len(_PARTS) - 1:
        raise InvalidData(f"address {given[:40]!r} has too many parts (domain:bus:slot.function)")
    # What is left off or blank matches anything, as in Nova.
    full = [""] * (len(_PARTS) - 1 - len(parts)) + parts + [function]
    globs = [
        _hex(text.strip() or ANY, f"the address's {name}", digits, largest)
        for text, (name, digits, largest) in zip(full, _PARTS, strict=True)
    ]
    domain, bus, slot, last = globs
    return (None if set(globs) == {ANY} else f"{domain}:{bus}:{slot}.{last}"), None


def _matched(given: Mapping[Any, Any]) -> dict[str, frozenset[str]]:
    """List what each part of an address may be; a part whose pattern matches all is left out, and may be anything."""
    names = [name for name, _digits, _largest in _PARTS]
    matched: dict[str, frozenset[str]] = {}
    for key, pattern in given.items():
        if key not in names:
            raise InvalidData(f"address has the unknown part {key!r} (there are {', '.join(names)})")
        if not isinstance(pattern, str) or len(pattern) > _PATTERN_MAX:
            raise InvalidData(f"the address's {key} must be a pattern of at most {_PATTERN_MAX} characters")
        try:
            compiled = re.compile(pattern)
        except (re.error, OverflowError, RecursionError) as error:
            raise InvalidData(f"the address's {key} {pattern[:40]!r} is not a regular expression: {error}") from error
        values = _values(key)
        # From its beginning on, as in Nova.
        found = frozenset(value for value in values if compiled.match(value))
        if len(found) < len(values):
            matched[key] = found
    return matched


def _values(part: str) -> list[str]:
    """List all that a part of an address can be; domains above ffff are those of Intel's VMD."""
    (digits, largest) = next((digits, largest) for name, digits, largest in _PARTS if name == part)
    return [f"{number:0{digits}x}" for number in range((_VMD_MAX if part == "domain" else largest) + 1)]


def _tag(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise InvalidData(f"{key} must be text, a number or true or false")
    return value


def _traits(given: Any) -> frozenset[str]:
    """Read traits, a list or text with commas; what is not a standard trait becomes CUSTOM_."""
    if given is None:
        return frozenset()
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, (list, tuple, set, frozenset)) or not all(isinstance(name, str) for name in names):
        raise InvalidData("traits must be a list of names, or text with commas")
    bare = frozenset(name.strip() for name in names if name.strip())
    if not bare:
        return frozenset()
    import os_traits

    standard = frozenset(os_traits.get_traits())
    return frozenset(_standard_or_custom(name, standard, "trait") for name in bare)


def _resource_class(given: Any) -> str | None:
    if given is None or given == "":
        return None
    if not isinstance(given, str):
        raise InvalidData("resource_class must be a name")
    import os_resource_classes

    return _standard_or_custom(given.strip(), frozenset(os_resource_classes.STANDARDS), "resource class")


def _standard_or_custom(name: str, standard: frozenset[str], what: str) -> str:
    """Write a name as Placement knows it: as it is if it is a standard one, else in capitals after CUSTOM_."""
    upper = name.upper()
    if upper in standard:
        return upper
    custom = "CUSTOM_" + re.sub(r"[^A-Z0-9]+", "_", upper.removeprefix("CUSTOM_"))
    # Placement refuses longer names.
    if len(custom) > 255 or custom.strip("_") == "CUSTOM":
        raise InvalidData(f"{name[:40]!r} can't be made into the name of a {what}")
    return custom
