"""
`config`: the settings in force, and whether they are valid. Invariant: no secret is shown.
"""

import click

from stocktake.cli.commands import Commands
from stocktake.cli.screen import Column, Row, TableCell, answer, answer_list
from stocktake.cli.session import Session
from stocktake.drivers.base import driver_names
from stocktake.drivers.monitors import load_monitors
from stocktake.errors import SettingsError
from stocktake.model.value import encode
from stocktake.placement.overrides import read_overrides
from stocktake.settings import Settings, Shown, redacted
from stocktake.views.quantities import count


@click.group(
    "config",
    cls=Commands,
    example="""
    $ stocktake config show
    $ stocktake --config new.toml config check
    """,
)
def config_command() -> None:
    """Show and check the settings."""


@config_command.command(
    "show",
    example="$ stocktake config show\n$ stocktake config show --json | jq '.data[] | select(.origin != \"default\")'",
)
@click.option("--changed", is_flag=True, help="Only settings that differ from the default.")
@click.pass_obj
def show_command(session: Session, *, changed: bool) -> int:
    """Show every setting, its value and where it was set; passwords are hidden."""
    shown = [one for one in redacted(session.settings) if not changed or one.origin != "default"]
    columns = (Column("SETTING"), Column("FROM", shrinks=True), Column("VALUE", wraps=True))
    return answer_list(session, shown, columns, _row, empty="All settings have their default.")


def _row(one: Shown) -> Row:
    return one.name, TableCell(one.origin, "dim" if one.origin == "default" else "cyan"), _value(one.value, one.unit)


def files_of(settings: Settings) -> list[str]:
    """Name the files that settings came from."""
    return sorted({origin.partition(" line ")[0] for origin in settings.origins.values() if " line " in origin})


def provider_entries(settings: Settings) -> int:
    """
    Count the entries of the provider.yaml files.

    Raises:
        SettingsError: a file that is not valid.
    """
    overrides = read_overrides(settings.provider_config_location)
    return len(overrides.by_id) + (overrides.every_node is not None)


def _value(value: object, unit: str) -> str:
    if value is None:
        return "unset"
    text = value if isinstance(value, str) else encode(value)
    return f"{text} {unit}" if unit and not isinstance(value, str) else text


@config_command.command("check", example="$ stocktake --config /etc/stocktake/new.toml config check")
@click.pass_obj
def check_command(session: Session) -> int:
    """Check the settings, the provider.yaml files and the driver's name; change nothing.

    All errors are listed at once, with file and line: exit code 2.
    """
    settings = session.settings
    entries = provider_entries(settings)
    if settings.compute_driver not in ("auto", *driver_names()):
        remedy = f"Known drivers: auto, {', '.join(driver_names())}."
        raise SettingsError(f"compute_driver: unknown driver {settings.compute_driver!r}", remedy=remedy)
    load_monitors(settings, session.clock)
    files = files_of(settings)
    source = f"from {', '.join(files)}" if files else "no file, defaults"
    entries_found = count(entries, "provider.yaml entry", "provider.yaml entries")
    data = {"files": files, "set": len(settings.origins), "provider_entries": entries}
    return answer(session, data, f"The settings are valid: {source}, {len(settings.origins)} set, {entries_found}.")
