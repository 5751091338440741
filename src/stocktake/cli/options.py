"""
What all commands share: options that may stand before or after the command, help with an example, the nearest name.

Invariant: nothing heavy is imported before a command runs; a command's module is imported when it is named or listed.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from stocktake.cli.session import Session
from stocktake.errors import InvalidInput
from stocktake.views.quantities import Unit, nearest, read_size

F = TypeVar("F", bound=Callable[..., Any])
_ELSEWHERE = "All commands take --config, --state-path, --set, --verbose, --quiet too: see `stocktake --help`."


def _given(field: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    """Make a callback that remembers an option wherever it stood; one that is not given changes nothing."""

    def remember(context: click.Context, _option: click.Parameter, value: Any) -> None:
        if not value:
            return
        session = context.ensure_object(Session)
        if field == "settings":
            session.flags.update(value)
        elif field == "louder":
            session.louder = value
        else:
            setattr(session, field, value)

    return remember


def _settings(_context: click.Context, _option: click.Parameter, values: Sequence[str]) -> dict[str, str] | None:
    """Read `KEY=VALUE` pairs."""
    pairs: dict[str, str] = {}
    for value in values:
        key, equals, text = value.partition("=")
        if not equals or not key.strip():
            raise click.BadParameter(f"{value!r} is not KEY=VALUE, such as reserved_host_cpus=2")
        pairs[key.strip()] = text
    return pairs or None


def _remember_settings(context: click.Context, option: click.Parameter, values: Sequence[str]) -> None:
    _given("settings")(context, option, _settings(context, option, values))


def common_options(*, shown: bool) -> list[click.Option]:
    """
    Make the options of every command.

    Args:
        shown: all are in the help; else --json only.
    """
    hidden = not shown

    def option(*names: str, field: str, text: str, hide: bool = hidden, **how: Any) -> click.Option:
        callback = _remember_settings if field == "settings" else _given(field)
        return click.Option(names, help=text, callback=callback, expose_value=False, hidden=hide, **how)

    path = click.Path(path_type=Path)
    return [
        option("--config", field="config", text="The settings file.", metavar="FILE", type=path),
        option(
            "--state-path",
            field="state_path",
            text="Where this host keeps its identity and databases.",
            metavar="DIR",
            type=path,
        ),
        option(
            "--set",
            field="settings",
            text="Give a setting, above file and environment: --set pci.report_in_placement=false.",
            metavar="KEY=VALUE",
            multiple=True,
        ),
        option("--json", field="json", text="Print JSON, for programs.", hide=False, is_flag=True),
        option("-v", "--verbose", field="louder", text="Log more: -v what happens, -vv everything.", count=True),
        option("-q", "--quiet", field="quiet", text="Log errors only, and print no hints.", is_flag=True),
        option("--log-json", field="log_json", text="Log one JSON object a line.", is_flag=True),
        _NoColor(
            ["--no-color"],
            help="No colours ($NO_COLOR).",
            callback=_given("no_color"),
            expose_value=False,
            hidden=hidden,
            is_flag=True,
            envvar="NO_COLOR",
        ),
    ]


class _NoColor(click.Option):
    """A flag that any text in `NO_COLOR` turns on, as no-color.org wants it."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """Read any text as yes."""
        return "1" if super().resolve_envvar_value(ctx) else None


class Command(click.Command):
    """A command with an example in its help and the common options; returns its exit code."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        self.params.extend(common_options(shown=False))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example and where the other options are."""
        del ctx
        write_example(formatter, self.example)


class Commands(click.Group):
    """
    A command with commands below it; its modules are imported when they are needed.

    Args:
        lazy: name to `module:attribute`.
        hint: shown in the help instead of where the common options are.
    """

    command_class = Command

    def __init__(
        self, *args: Any, example: str = "", lazy: Mapping[str, str] | None = None, top: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        self.lazy = lazy or {}
        self.top = top
        self.params.extend(common_options(shown=top))

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands in the order in which they were written."""
        del ctx
        return [*self.lazy, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        if cmd_name in self.lazy:
            module, _colon, attribute = self.lazy[cmd_name].partition(":")
            found = getattr(importlib.import_module(module), attribute)
            assert isinstance(found, click.Command)
            return found
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or name the nearest."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and name not in self.list_commands(ctx):
            names = self.list_commands(ctx)
            raise click.UsageError(f"No such command {name!r}.{nearest(name, names)}", ctx)
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example and where the other options are."""
        del ctx
        write_example(formatter, self.example, elsewhere=not self.top)


def write_example(formatter: click.HelpFormatter, example: str, *, elsewhere: bool = True) -> None:
    """Write the lines of an example as they are."""
    if example:
        with formatter.section("Example"):
            for line in example.strip().splitlines():
                formatter.write(f"{'':>{formatter.current_indent}}{line.strip()}\n")
    if elsewhere:
        formatter.write_paragraph()
        formatter.write_text(_ELSEWHERE)


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


def size_option(*names: str, unit: Unit, **how: Any) -> Callable[[F], F]:
    """Make an option whose value is a size, in whole MiB or GiB; 0 if it is not given."""

    def read(_context: click.Context, _option: click.Parameter, text: str | None) -> int:
        try:
            return read_size(text, unit) if text is not None else 0
        except InvalidInput as error:
            raise click.BadParameter(error.what) from error

    return click.option(*names, callback=read, metavar="SIZE", **how)
