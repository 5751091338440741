"""
The settings as a flat table, for `config show` and for their reference.

Invariant: it is read off the sections, never written, and what is secret leaves here hidden.
"""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stocktake.model.value import Value
from stocktake.settings.secrets import hidden
from stocktake.settings.sections import Section, Settings

PREFIX = "STOCKTAKE_"
PATH_VARIABLE = "STOCKTAKE_CONFIG"
SYSTEM_PATH = Path("/etc/stocktake/stocktake.toml")

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


def variable(name: str) -> str:
    """Give the environment variable of a setting by its dotted name."""
    return PREFIX + name.upper().replace(".", "__")


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


DEFAULT = "default"


class Shown(Value, frozen=True, kw_only=True):
    """
    One setting as `config show` has it.

    Attributes:
        name: dotted.
        value: plain data, secrets hidden.
        origin: `default`, the file and line, `environment NAME` or `flag`.
    """

    name: str
    value: Any
    origin: str
    unit: str = ""


def redacted(settings: Settings) -> tuple[Shown, ...]:
    """List every setting with where its value came from; passwords hidden."""
    tables = {name: getattr(settings, name) for name in sections()}
    return tuple(
        Shown(
            name=name,
            value=_plain(
                hidden(row.section, row.field, getattr(tables.get(name.partition(".")[0], settings), row.field))
            ),
            origin=settings.origins.get(name, DEFAULT),
            unit=row.unit,
        )
        for name, row in rows().items()
    )


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=str, order="sorted")
