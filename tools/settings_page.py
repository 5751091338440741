"""
The page docs/reference/settings.md. Invariant: it is read off the sections, never written.
"""

import json
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import msgspec

from stocktake.settings.sections import Settings
from stocktake.settings.table import PATH_VARIABLE, PREFIX, SYSTEM_PATH, Row, rows, sections, variable

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


def settings_page() -> str:
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
