"""
Where settings come from: a TOML file, the environment, flags. Invariant: every value keeps its origin, line and all.

A later source wins: file, environment, flags.
"""

import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stocktake.errors import SettingsError
from stocktake.settings.defaults import expanded

PREFIX = "STOCKTAKE_"
PATH_VARIABLE = "STOCKTAKE_CONFIG"
SYSTEM_PATH = Path("/etc/stocktake/stocktake.toml")

# A settings file is a page or two; more is a mistake or a mischief.
_FILE_BYTES_MAX = 256 * 1024
_STATEMENT_LINES_MAX = 400

Name = tuple[str, ...]


class Given(NamedTuple):
    """
    One value from one source.

    Attributes:
        name: the parts of the setting's name, such as ("database", "connection").
        text: the value as written, where the source has only text.
    """

    name: Name
    value: Any
    origin: str
    text: str | None = None


def find_file(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """
    Say which file holds the settings: the given one, `$STOCKTAKE_CONFIG`, the system's, the user's; None without any.
    """
    if path is not None:
        return path
    if environ.get(PATH_VARIABLE):
        return expanded(environ[PATH_VARIABLE])
    home = expanded(environ.get("XDG_CONFIG_HOME") or f"{environ.get('HOME') or '~'}/.config")
    return next((place for place in (SYSTEM_PATH, home / "stocktake" / "stocktake.toml") if place.is_file()), None)


def read_file(path: Path, sections: frozenset[str]) -> tuple[Given, ...]:
    """
    Read a TOML file; each value's origin is the file and its line.

    Args:
        sections: names of the tables that hold settings; any other table is a value.

    Raises:
        SettingsError: the file can't be read or is not TOML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        if len(data) > _FILE_BYTES_MAX:
            raise SettingsError(f"is larger than {_FILE_BYTES_MAX // 1024} KiB", where=str(path))
        text = data.decode()
        tables = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(
            f"can't be read: {error.strerror or error}",
            where=str(path),
            remedy=f"Give another file with --config or {PATH_VARIABLE}, or change its permissions.",
        ) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise SettingsError(f"is not TOML: {error}", where=str(path), remedy="See toml.io for the form.") from error
    lines = _lines(text)
    return tuple(Given(name, value, _origin(path, lines, name)) for name, value in _named(tables, sections))


def read_environ(environ: Mapping[str, str]) -> tuple[Given, ...]:
    """Read the variables `STOCKTAKE_*`; two underscores part a section from its setting; empty ones are not given."""
    return tuple(
        Given(tuple(key[len(PREFIX) :].lower().split("__")), _as_toml(text), f"environment {key}", text)
        for key, text in sorted(environ.items())
        if key.startswith(PREFIX) and key != PATH_VARIABLE and text
    )


def read_flags(overrides: Mapping[str, object], sections: frozenset[str]) -> tuple[Given, ...]:
    """Read values given by the program's flags: dotted names or nested mappings; None is not given."""
    return tuple(
        Given((*name[0].split("."), *name[1:]), _as_toml(value), "flag", value)
        if isinstance(value, str)
        else Given((*name[0].split("."), *name[1:]), value, "flag")
        for name, value in _named(overrides, sections)
        if value is not None
    )


def _named(tables: Mapping[str, Any], sections: frozenset[str]) -> Iterator[tuple[Name, Any]]:
    """Flatten sections, one level deep."""
    for key, value in tables.items():
        if key in sections and isinstance(value, Mapping):
            yield from (((key, name), inner) for name, inner in value.items())
        else:
            yield (key,), value


def _as_toml(text: str) -> Any:
    """Read text as a TOML value, else give it as it is."""
    try:
        tables = tomllib.loads(f"value = {text}")
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        return text
    # A line break in the text could make it several statements.
    return tables["value"] if tables.keys() == {"value"} else text


def _origin(path: Path, lines: Mapping[Name, int], name: Name) -> str:
    line = lines.get(name)
    return f"{path} line {line}" if line else str(path)


def _lines(text: str) -> dict[Name, int]:
    """
    Find on which line each key of a valid TOML document is set: 1 is the first.

    A statement ends where what was read of it is TOML by itself, so strings and lists over many lines are no trouble.
    """
    found: dict[Name, int] = {}
    header: Name = ()
    statement: list[str] = []
    for number, line in enumerate(text.split("\n"), start=1):
        statement.append(line)
        if len(statement) > _STATEMENT_LINES_MAX:
            return found
        try:
            tables = tomllib.loads("\n".join(statement))
        except (tomllib.TOMLDecodeError, RecursionError, ValueError):
            continue
        first = number - len(statement) + 1
        is_header = statement[0].lstrip().startswith("[")
        statement.clear()
        if not tables:
            continue
        name = _key(tables)
        if is_header:
            header = name
        full = name if is_header else header + name
        for end in range(1, len(full) + 1):
            found.setdefault(full[:end], first)
    return found


def _key(tables: Any) -> Name:
    """Follow the one key that a statement sets, through tables and arrays of tables."""
    name: list[str] = []
    while isinstance(tables, Mapping) and len(tables) == 1:
        [(key, tables)] = tables.items()
        name.append(key)
        if isinstance(tables, list) and tables == [{}]:
            break
    return tuple(name)
