"""
The settings as a flat table, for `config show` and for docs/reference/settings.md.

Invariant: it is read off the sections, never written, and what is secret leaves here hidden.
"""

import json
import types
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

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


_HEAD = f"""\
# Settings

<!-- Made from the code by `make docs`. Change src/stocktake/settings/sections.py. -->

Settings are read from one TOML file, then from the environment, then from the program's flags; the later wins.

- **The file** is what `--config` names, else `${PATH_VARIABLE}`, else `{SYSTEM_PATH}`, else
  `$XDG_CONFIG_HOME/stocktake/stocktake.toml`. Without one, everything has its default.
- **A variable** is called `{PREFIX}` and the setting's name in capitals; two underscores part a section from its
  setting: `{PREFIX}DATABASE__CONNECTION`. It is read as a TOML value if it is one, else as text; an empty one is not
  given. Options in `placement.auth` may be given one by one: `{PREFIX}PLACEMENT__AUTH__PASSWORD`.
- An unknown setting, in the file or in the environment, is an error that names the nearest one.
- `stocktake config show` prints every value and where it came from, with passwords hidden; `stocktake config check`
  says everything that is wrong at once.

Names are Nova's where Nova has the setting.
"""
EXAMPLE = """\
compute_driver = "libvirt"
reserved_host_memory_mb = 2048
cpu_shared_set = "0-3"
cpu_dedicated_set = "4-15,^8"
reserved_huge_pages = [{ node = 0, size = "1GB", count = 2 }]
compute_monitors = ["cpu"]

[database]
connection = "postgresql://stocktake:password@db.example.org/stocktake"

[placement]
mode = "remote"
auth_type = "password"

[placement.auth]
auth_url = "https://keystone.example.org/v3"
username = "stocktake"
password = "password"
project_name = "service"
user_domain_name = "Default"
project_domain_name = "Default"

[[pci.device_spec]]
vendor_id = "10de"
product_id = "20b5"
resource_class = "PGPU"

[[pci.device_spec]]
address = "*:81:10.*"
physical_network = "physnet1"
traits = ["CUSTOM_FAST_NETWORK"]
"""
_WORDS: Mapping[Any, str] = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path"}
_LIMITS = (("ge", "at least {}"), ("gt", "above {}"), ("le", "at most {}"))
# Beyond these a limit only keeps out what no machine has.
_TOLD_MAX = 1_000_000


def settings_reference() -> str:
    """Write the page, in Markdown."""
    example = f"An example:\n\n```toml\n{EXAMPLE}```\n"
    parts = [
        _HEAD,
        example,
        "## Top of the file\n",
        *(_entry(row) for row in rows().values() if row.section is Settings),
    ]
    for name, section in sections().items():
        meaning = (section.__doc__ or "").strip()
        parts += [f"## [{name}]\n", f"{meaning}\n"]
        parts += [_entry(row) for row in rows().values() if row.section is section]
    return "\n".join(parts)


def _entry(row: Row) -> str:
    kind, limits = _kind(row.kind)
    facts = [kind + (f", {row.unit}" if row.unit else ""), *limits, f"default {_default(row)}"]
    return f"### `{row.name}`\n\n{row.text}\n\n{'; '.join(facts)}. Variable: `{variable(row.name)}`.\n"


def _kind(kind: Any) -> tuple[str, list[str]]:
    """Say a type in words, and its limits."""
    limits: list[str] = []
    if hasattr(kind, "__metadata__"):
        for meta in kind.__metadata__:
            limits += _limits(meta)
        kind = kind.__origin__
    if get_origin(kind) in {types.UnionType, Union}:
        kind = next(one for one in get_args(kind) if one is not type(None))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f"`{choice}`" for choice in get_args(kind)), limits
    if get_origin(kind) is tuple:
        return "list", limits
    return _WORDS.get(kind, "table"), limits


def _limits(meta: msgspec.Meta) -> list[str]:
    told = ((text, getattr(meta, name)) for name, text in _LIMITS)
    return [text.format(limit) for text, limit in told if limit is not None and abs(limit) <= _TOLD_MAX]


def _default(row: Row) -> str:
    if row.default_text:
        return row.default_text
    if row.default is None:
        return "unset"
    if isinstance(row.default, (tuple, Mapping)) and not row.default:
        return "empty"
    if isinstance(row.default, tuple):
        return f"`{json.dumps(row.default)}`"
    if isinstance(row.default, bool):
        return f"`{str(row.default).lower()}`"
    return f"`{row.default}`"
