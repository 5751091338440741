"""
Sources to settings: a TOML file, the environment, flags, and what this machine gives as defaults.

Invariant: everything that is wrong is said at once, with its file and line, and without its secrets. A later source
wins: file, environment, flags.
"""

import os
import socket
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stocktake.errors import InvalidData, SettingsError, know_secrets
from stocktake.settings.checks import FORMS, check, check_together
from stocktake.settings.pci import nearest
from stocktake.settings.secrets import redact_url, secrets_in
from stocktake.settings.sections import Settings
from stocktake.settings.table import PATH_VARIABLE, PREFIX, SYSTEM_PATH, Row, rows, sections, variable

_LOOPBACK = "127.0.0.1"
# An address for documentation (RFC 5737): the kernel looks up the route, nobody is asked.
_ANYWHERE = ("192.0.2.1", 9)


def address() -> str:
    """Give the address of the default route's interface, or 127.0.0.1 without a route."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            # Connecting a datagram socket sets its own address and sends nothing.
            probe.connect(_ANYWHERE)
            return str(probe.getsockname()[0])
    except OSError:
        return _LOOPBACK


def state_path(environ: Mapping[str, str]) -> Path:
    """Give root's or the user's place for state."""
    if os.geteuid() == 0:
        return Path("/var/lib/stocktake")
    state = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME') or '~'}/.local/state"
    return expanded(state) / "stocktake"


def expanded(path: str | Path) -> Path:
    """Put a user's home for a leading `~`; one that nobody has is kept as it is."""
    # pathlib's own raises where there is no such user.
    return Path(os.path.expanduser(path))  # noqa: PTH111


def sqlite_url(state: Path, name: str) -> str:
    """Give the URL of a SQLite file in the state path."""
    return f"sqlite:///{state / name}"


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


_SHOWN_MAX = 60
# Lists of names, which a variable may give with commas.
_LISTS = frozenset({"compute_monitors", "notifications.topics", "notifications.versioned_notifications_topics"})


class Mistake(NamedTuple):
    """One thing that is wrong with the settings, and where it was written."""

    where: str
    what: str


def read_settings(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
) -> Settings:
    """
    Read the settings: file, environment above it, flags above those.

    Args:
        path: the file; None looks in `$STOCKTAKE_CONFIG`, /etc/stocktake and $XDG_CONFIG_HOME/stocktake, and is
            content without one.
        environ: None takes the process's.
        overrides: dotted names or nested mappings to values; text is read like a variable's.

    Raises:
        SettingsError: everything that is wrong.
    """
    # The one place in the package that looks at the environment.
    variables = os.environ if environ is None else environ  # noqa: TID251
    return settle(gather(path, variables, overrides or {}), variables)


def gather(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> tuple[Given, ...]:
    """
    Collect what each source gives, the strongest last.

    Raises:
        SettingsError: the file can't be read.
    """
    names = frozenset(sections())
    file = find_file(path, environ)
    from_file = read_file(file, names) if file is not None else ()
    return (*from_file, *read_environ(environ), *read_flags(overrides, names))


def settle(given: Iterable[Given], environ: Mapping[str, str]) -> Settings:
    """
    Make settings of what was given.

    Raises:
        SettingsError: everything that is wrong.
    """
    mistakes: list[Mistake] = []
    chosen: dict[str, list[Given]] = {}
    for one in given:
        name = _setting(one, mistakes)
        if name is not None:
            chosen.setdefault(name, []).append(one)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, row in rows().items():
        if name in chosen:
            last = _merged(chosen[name])
            # Before anything is said of it.
            know_secrets(secrets_in(row.hide, last.value if last.text is None else last.text))
            know_secrets(secrets_in(row.hide, last.value))
            origins[name] = last.origin
            values[name] = _value(row, last, mistakes)
        elif row.default is not msgspec.NODEFAULT:
            values[name] = row.default
    if not mistakes:
        _machine_defaults(values, environ)
        mistakes += [Mistake(origins.get(name, "default"), f"{name}: {what}") for name, what in check_together(values)]
    if mistakes:
        raise _error(mistakes)
    return _settings(values, origins)


def _setting(one: Given, mistakes: list[Mistake]) -> str | None:
    """Say which setting a value is for; None, with a mistake, if for none."""
    name = ".".join(one.name)
    if name in rows():
        return name
    if len(one.name) > 2 and _takes_options(one.name):
        return ".".join(one.name[:2])
    if name in sections():
        mistakes.append(Mistake(one.origin, f"{name} is a section: write [{name}] and its settings under it"))
    else:
        mistakes.append(Mistake(one.origin, f"unknown setting {_shown(name, one)}{_near(name, one)}"))
    return None


def _takes_options(name: Name) -> bool:
    row = rows().get(".".join(name[:2]))
    return row is not None and row.hide == "options"


def _shown(name: str, one: Given) -> str:
    from_environment = one.origin.startswith("environment")
    return repr((one.origin.rpartition(" ")[2] if from_environment else name)[:_SHOWN_MAX])


def _near(name: str, one: Given) -> str:
    """Name the nearest setting; one of the same name in another section first."""
    last = one.name[-1]
    same = [known for known in rows() if known.rpartition(".")[2] == last]
    written = {variable(known) if one.origin.startswith("environment") else known: known for known in rows()}
    if same:
        told = variable(same[0]) if one.origin.startswith("environment") else same[0]
        return f" (did you mean {told}?)"
    asked = variable(name) if one.origin.startswith("environment") else name
    return nearest(asked, written)


def _merged(several: Sequence[Given]) -> Given:
    """Take the last; options given one by one are laid over those given together."""
    if not any(len(one.name) > 2 for one in several):
        return several[-1]
    options: dict[str, Any] = {}
    for one in several:
        if len(one.name) > 2:
            # Options of a third party's plugin have names only; text stays text, a password of digits too.
            options["__".join(one.name[2:])] = one.value if one.text is None else one.text
        elif isinstance(one.value, Mapping):
            options = dict(one.value)
        else:
            return one
    return Given(several[-1].name[:2], options, several[-1].origin)


def _value(row: Row, one: Given, mistakes: list[Mistake]) -> Any:
    """Read a value as its setting's type; None, with a mistake, if it can't be."""
    first = ""
    for candidate in _candidates(row, one):
        try:
            read = FORMS[row.name](candidate) if row.name in FORMS else candidate
            value = msgspec.convert(read, row.kind, dec_hook=_path)
        except InvalidData as error:
            problem = error.what
        except (msgspec.ValidationError, RecursionError, OverflowError) as error:
            problem = f"{str(error)[0].lower()}{str(error)[1:]}{_told(row, candidate)}"
        else:
            problem = check(row.name, value)
            if not problem:
                return value
        first = first or problem
    mistakes.append(Mistake(one.origin, f"{row.name}: {first}"))
    return None


def _candidates(row: Row, one: Given) -> list[Any]:
    """List what a value may mean: text of a variable may be a TOML value, the text itself, or a list with commas."""
    if one.text is None:
        return [one.value]
    candidates = [one.value] if isinstance(one.value, str) else [one.value, one.text]
    if row.name in _LISTS and isinstance(one.value, str):
        return [[part.strip() for part in one.value.split(",") if part.strip()]]
    return candidates


def _told(row: Row, value: Any) -> str:
    """Show a wrong value, unless it may be a secret."""
    if row.hide or not isinstance(value, (str, int, float)):
        return ""
    shown = str(value)[:_SHOWN_MAX] if not isinstance(value, str) else repr(redact_url(value)[:_SHOWN_MAX])
    return f": {shown}"


def _path(kind: type, value: Any) -> Path:
    """Read a path, made absolute, `~` expanded."""
    assert kind is Path, "every other type is msgspec's"
    if not isinstance(value, (str, Path)) or not str(value):
        raise TypeError("Expected a path")
    path = expanded(value)
    if str(path).startswith("~"):
        raise ValueError("No such user's home")
    try:
        return path.absolute()
    except OSError as error:
        raise ValueError("A relative path, and the working directory is gone") from error


def _machine_defaults(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Fill in what depends on this machine."""
    if "host" not in values:
        values["host"] = socket.gethostname()
    if "my_ip" not in values:
        values["my_ip"] = address()
    if "state_path" not in values:
        values["state_path"] = state_path(environ)
    values.setdefault("database.connection", sqlite_url(values["state_path"], "ledger.db"))
    values.setdefault("placement.connection", sqlite_url(values["state_path"], "placement.db"))


def _settings(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    made: dict[str, Any] = {
        name: kind(**{row.field: values[row.name] for row in rows().values() if row.section is kind})
        for name, kind in sections().items()
    }
    plain: dict[str, Any] = {row.field: values[row.name] for row in rows().values() if row.section is Settings}
    return Settings(**plain, **made, origins=dict(origins))


def _error(mistakes: Sequence[Mistake]) -> SettingsError:
    if len(mistakes) == 1:
        return SettingsError(mistakes[0].what, where=mistakes[0].where)
    reasons = [f"{mistake.where}: {mistake.what}" for mistake in mistakes]
    return SettingsError(f"{len(mistakes)} settings are wrong: {'; '.join(reasons)}", reasons=reasons)


class Supervisor(NamedTuple):
    """
    What systemd told this process.

    Attributes:
        notify_socket: where it wants to be told how the program does; empty if it does not.
        watchdog_s: within how many seconds it wants a sign of life, again and again; None if it does not.
    """

    notify_socket: str = ""
    watchdog_s: float | None = None


def read_supervisor(environ: Mapping[str, str] | None = None, *, pid: int | None = None) -> Supervisor:
    """
    Read what systemd asks; nothing where it did not start this program.

    Args:
        environ: None takes the process's.
        pid: of the process that is meant; None takes this one.
    """
    variables = os.environ if environ is None else environ  # noqa: TID251
    address = variables.get("NOTIFY_SOCKET", "")
    # Other kinds of addresses are for virtual machines.
    known = address if address.startswith(("/", "@")) else ""
    meant = variables.get("WATCHDOG_PID", "") in {"", str(pid or os.getpid())}
    usec = variables.get("WATCHDOG_USEC", "")
    asked = known and meant and usec.isdecimal() and int(usec) > 0
    return Supervisor(known, int(usec) / 1e6 if asked else None)
