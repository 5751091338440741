"""
Sources to settings. Invariant: everything that is wrong is said at once, with its file and line, and without its
secrets.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from stocktake.errors import InvalidData, SettingsError
from stocktake.settings import defaults
from stocktake.settings.checks import CHECKS, FORMS, check_path, check_together
from stocktake.settings.pci import nearest
from stocktake.settings.secrets import redact_url
from stocktake.settings.sources import PREFIX, Given, Name, find_file, read_environ, read_file, read_flags
from stocktake.settings.table import Row, rows, sections
from stocktake.settings.whole import Settings

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
    written = {_variable(known) if one.origin.startswith("environment") else known: known for known in rows()}
    if same:
        told = _variable(same[0]) if one.origin.startswith("environment") else same[0]
        return f" (did you mean {told}?)"
    asked = _variable(name) if one.origin.startswith("environment") else name
    return nearest(asked, written)


def _variable(name: str) -> str:
    return PREFIX + name.upper().replace(".", "__")


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
            read: Callable[[Any], object] = FORMS.get(row.name, _same)
            value = msgspec.convert(read(candidate), row.kind, dec_hook=_path)
        except InvalidData as error:
            problem = error.what
        except (msgspec.ValidationError, RecursionError, OverflowError) as error:
            problem = f"{str(error)[0].lower()}{str(error)[1:]}{_told(row, candidate)}"
        else:
            problem = check_path(value) if isinstance(value, Path) else CHECKS.get(row.name, _nothing)(value)
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


def _same(value: Any) -> Any:
    return value


def _nothing(_value: Any) -> str:
    return ""


def _path(kind: type, value: Any) -> Path:
    """Read a path, made absolute, `~` expanded."""
    assert kind is Path, "every other type is msgspec's"
    if not isinstance(value, (str, Path)) or not str(value):
        raise TypeError("Expected a path")
    path = defaults.expanded(value)
    if str(path).startswith("~"):
        raise ValueError("No such user's home")
    try:
        return path.absolute()
    except OSError as error:
        raise ValueError("A relative path, and the working directory is gone") from error


def _machine_defaults(values: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Fill in what depends on this machine."""
    if "host" not in values:
        values["host"] = defaults.host_name()
    if "my_ip" not in values:
        values["my_ip"] = defaults.address()
    if "state_path" not in values:
        values["state_path"] = defaults.state_path(environ)
    values.setdefault("database.connection", defaults.sqlite_url(values["state_path"], "ledger.db"))
    values.setdefault("placement.connection", defaults.sqlite_url(values["state_path"], "placement.db"))


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
