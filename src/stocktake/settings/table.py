"""
The settings as a flat table: dotted name to type, default and meaning. Invariant: it is read off the sections, never
written.
"""

from collections.abc import Iterator
from functools import cache
from typing import Any, NamedTuple

import msgspec

from stocktake.settings.section import Section
from stocktake.settings.whole import Settings

# Not a setting: where the others came from.
_ORIGINS = "origins"


class Row(NamedTuple):
    """
    One setting.

    Attributes:
        name: dotted, such as `database.connection`.
        section: the struct that has it, and `field`, its name there.
        kind: its type, with its limits.
        default: its value if nothing is given; `msgspec.NODEFAULT` where the machine decides.
        text, unit, default_text, hide: see `stocktake.settings.sections.about`.
    """

    name: str
    section: type[Section]
    field: str
    kind: Any
    default: Any
    text: str
    unit: str
    default_text: str
    hide: str


@cache
def rows() -> dict[str, Row]:
    """List all settings by their dotted names, in the order of the sections."""
    return {row.name: row for row in _rows(Settings, "")}


@cache
def sections() -> dict[str, type[Section]]:
    """List the sections by name."""
    return {field.name: field.type for field in msgspec.structs.fields(Settings) if _is_section(field.type)}


def _rows(section: type[Section], prefix: str) -> Iterator[Row]:
    for field in msgspec.structs.fields(section):
        if field.name == _ORIGINS:
            continue
        if _is_section(field.type):
            yield from _rows(field.type, f"{field.name}.")
            continue
        meta = field.type.__metadata__[0]
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        yield Row(
            name=prefix + field.name,
            section=section,
            field=field.name,
            kind=field.type,
            default=default,
            text=meta.description,
            unit=meta.extra["unit"],
            default_text=meta.extra["default"],
            hide=meta.extra["hide"],
        )


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)
