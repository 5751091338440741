"""
What all commands share: options that may stand before or after the command, help with an example, the nearest name.

Invariant: an option means the same wherever it stands.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from stocktake.cli.session import Session
from stocktake.errors import InvalidInput
from stocktake.views.quantities import nearest

_ELSEWHERE = "All commands take --config, --state-path, --set, --verbose, --quiet too: see `stocktake --help`."


def _remember(context: click.Context, option: click.Parameter, value: Any) -> None:
    """Remember in the session what was given, wherever it stood; what was not given changes nothing."""
    if value:
        assert option.name is not None
        setattr(context.ensure_object(Session), option.name, value)


def _remember_settings(context: click.Context, _option: click.Parameter, values: Sequence[str]) -> None:
    """Read `KEY=VALUE` pairs."""
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{value!r} is not KEY=VALUE, such as reserved_host_cpus=2")
        context.ensure_object(Session).flags[key.strip()] = text


class _NoColor(click.Option):
    """A flag that any text in `NO_COLOR` turns on, as no-color.org wants it."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Read any text as yes."""
        return "1" if super().resolve_envvar_value(ctx) else None


def common_options(*, shown: bool) -> list[click.Option]:
    """
    Make the options of every command.

    Args:
        shown: all are in the help; else --json only.
    """

    def option(
        *names: str, text: str, kind: type[click.Option] = click.Option, hidden: bool = not shown, **how: Any
    ) -> click.Option:
        return kind(names, help=text, expose_value=False, hidden=hidden, **{"callback": _remember, **how})

    path = click.Path(path_type=Path)
    settings = "Give a setting, above file and environment: --set pci.report_in_placement=false."
    return [
        option("--config", text="The settings file.", metavar="FILE", type=path),
        option("--state-path", text="Where this host keeps its identity and databases.", metavar="DIR", type=path),
        option("--set", text=settings, metavar="KEY=VALUE", multiple=True, callback=_remember_settings),
        option("--json", text="Print JSON, for programs.", hidden=False, is_flag=True),
        option("-v", "--verbose", text="Log more: -v what happens, -vv everything.", count=True),
        option("-q", "--quiet", text="Log errors only, and print no hints.", is_flag=True),
        option("--log-json", text="Log one JSON object a line.", is_flag=True),
        option("--no-color", text="No colours ($NO_COLOR).", kind=_NoColor, is_flag=True, envvar="NO_COLOR"),
    ]


class Command(click.Command):
    """A command with the common options and an example in its help; returns its exit code."""

    all_options_shown = False

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        self.params.extend(common_options(shown=self.all_options_shown))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Remember the command before anything can be wrong with its options."""
        session = ctx.ensure_object(Session)
        session.command = f"{session.command} {ctx.info_name}".strip() if ctx.parent else ""
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, its lines as they are, and where the other options are."""
        del ctx
        with formatter.section("Example"):
            for line in self.example.strip().splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")
        if not self.all_options_shown:
            formatter.write_paragraph()
            formatter.write_text(_ELSEWHERE)


class Commands(Command, click.Group):
    """A command with commands below it, listed in the order in which they were written."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands."""
        del ctx
        return [*self.commands]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self.list_commands(ctx):
            names = self.list_commands(ctx)
            raise click.UsageError(f"No such command {name!r}.{nearest(name, names)}", ctx)
        return super().resolve_command(ctx, args)


def confirm(question: str) -> None:
    """
    Ask before something is lost.

    Raises:
        InvalidInput: the answer was no, or there was none.
    """
    try:
        sure = click.confirm(question, err=True)
    except click.Abort:
        sure = False
    if not sure:
        raise InvalidInput("nothing was done", remedy="Answer y, or give --yes.")
