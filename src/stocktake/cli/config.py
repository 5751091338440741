"""
`config`: the settings in force, and whether they can be used. Invariant: no secret is shown.
"""

import click

from stocktake.cli.commands import Commands
from stocktake.cli.screen import Cell, Column, Row, screen_of, write, write_json, write_table
from stocktake.cli.session import Session
from stocktake.drivers.base import driver_names
from stocktake.drivers.monitors import load_monitors
from stocktake.errors import SettingsError
from stocktake.model.value import encode
from stocktake.placement.overrides import read_overrides
from stocktake.settings import redacted


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
@click.option("--changed", is_flag=True, help="Only those that are not the default.")
@click.pass_obj
def show_command(session: Session, *, changed: bool) -> int:
    """Show every setting, its value and where that came from; passwords are hidden."""
    shown = [one for one in redacted(session.settings) if not changed or one.origin != "default"]
    if session.json:
        write_json(session, shown)
        return 0
    screen = screen_of(session)
    if not shown:
        write(screen, "Every setting is its default.")
        return 0
    columns = (Column("SETTING"), Column("FROM", shrinks=True), Column("VALUE", wraps=True))
    rows: list[Row] = [
        (one.name, Cell(one.origin, "dim" if one.origin == "default" else "cyan"), _value(one.value, one.unit))
        for one in shown
    ]
    write_table(screen, columns, rows)
    return 0


def _value(value: object, unit: str) -> str:
    if value is None:
        return "unset"
    text = value if isinstance(value, str) else encode(value)
    return f"{text} {unit}" if unit and not isinstance(value, str) else text


@config_command.command("check", example="$ stocktake --config /etc/stocktake/new.toml config check")
@click.pass_obj
def check_command(session: Session) -> int:
    """Check the settings, the provider.yaml files and that the driver is there; change nothing.

    Everything that is wrong is said at once, with its file and line: exit code 2.
    """
    settings = session.settings
    overrides = read_overrides(settings.provider_config_location)
    if settings.compute_driver not in ("auto", *driver_names()):
        remedy = f"There are: auto, {', '.join(driver_names())}."
        raise SettingsError(f"compute_driver: there is no driver {settings.compute_driver!r}", remedy=remedy)
    load_monitors(settings, session.clock)
    files = sorted({origin.partition(" line ")[0] for origin in settings.origins.values() if " line " in origin})
    entries = len(overrides.by_id) + (overrides.every_node is not None)
    if session.json:
        write_json(session, {"files": files, "set": len(settings.origins), "provider_entries": entries})
    else:
        source = f"from {', '.join(files)}" if files else "no file, defaults"
        text = f"The settings are fine: {source}, {len(settings.origins)} set, {entries} provider.yaml entries."
        write(screen_of(session), text)
    return 0
