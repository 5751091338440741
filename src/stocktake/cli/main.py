"""
The program `stocktake`. Invariant: every end has its exit code, and nothing that somebody types makes a traceback.

0 fine, 1 a problem was found, 2 wrong input, 3 something could not be reached.
"""

import errno
import gc
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import click
from click.shell_completion import CompletionItem

from stocktake import __version__
from stocktake.cli.commands import Commands
from stocktake.cli.screen import complain, write_json
from stocktake.cli.session import Session
from stocktake.cli.text import clean
from stocktake.errors import InvalidInput, MachineFault, StocktakeError, exit_code, redact
from stocktake.settings.state_files import disk_of

LOG = logging.getLogger(__name__)

# What a shell reports for a program that a signal ended.
_INTERRUPTED = 130
_PIPE_BROKEN = 141
# Nothing that is made while a program starts is garbage, and collecting it takes a sixth of a command's time.
_COLLECT_AFTER = 100_000


class Registered(NamedTuple):
    """A command as `--help` lists it; in its module, it is the function `NAME_command`."""

    name: str
    group: str
    text: str
    module: str


_STOCK, _BOOKS, _ROOM, _RUN = "Take stock", "Read the ledger", "Claim room", "Run the service"

COMMANDS = (
    Registered("refresh", _STOCK, "Take stock now, once.", "refresh"),
    Registered("agent", _STOCK, "Take stock every minute, until stopped.", "agent"),
    Registered("nodes", _BOOKS, "List all nodes: state, allocated and total, problems.", "nodes"),
    Registered("show", _BOOKS, "Show everything about one node.", "show"),
    Registered("watch", _BOOKS, "Watch all nodes live: bars, changes, problems.", "watch.command"),
    Registered("explain", _BOOKS, "Say why a number is what it is, entry by entry.", "explain"),
    Registered("history", _BOOKS, "Show how full a node was over time.", "history"),
    Registered("instances", _BOOKS, "List the instances; delete one's record.", "instances"),
    Registered("migrations", _BOOKS, "List the migrations that take room on two nodes.", "instances"),
    Registered("orphans", _BOOKS, "List guests without an instance; adopt them.", "orphans"),
    Registered("services", _BOOKS, "List the agents; enable and disable them.", "services"),
    Registered("fit", _ROOM, "List the nodes that an instance fits, and why not the others.", "fit"),
    Registered("claim", _ROOM, "Claim room for an instance, and build it under the claim.", "claim"),
    Registered("keep", _ROOM, "Keep a claim: its instance is built.", "claim"),
    Registered("release", _ROOM, "Release a claim, or an instance's room.", "claim"),
    Registered("move", _ROOM, "Move an instance: room on both nodes until it is settled.", "move"),
    Registered("serve", _RUN, "Serve the fleet: API and pages.", "serve"),
    Registered("token", _RUN, "Make, list and revoke tokens for the server.", "token"),
    Registered("ledger", _RUN, "Make, upgrade, export and import the ledger.", "ledger"),
    Registered("config", _RUN, "Show and check the settings.", "config"),
    Registered("doctor", _RUN, "Check everything this host needs, and say what to do.", "doctor"),
    Registered("tally", _RUN, "Tally nodes described in a file, without ledger or hypervisor.", "tally"),
    Registered("completion", _RUN, "Print the script that makes a shell complete.", "completion"),
)

WELCOME = """\
stocktake keeps the books of compute hosts: total, allocated and free resources.

  stocktake refresh             take stock of this machine now
  stocktake nodes               all nodes at a glance
  stocktake show NODE           everything about one node
  stocktake explain NODE FIELD  why a number is what it is
  stocktake orphans             guests without an instance
  stocktake agent               take stock every minute
  stocktake doctor              what is wrong here, and what to do

`stocktake --help` lists all commands and options, `stocktake COMMAND --help` explains one."""


class _PipeBroken(Exception):
    """The reader of our output went away; click would exit with 1, which means something else here."""


class Program(Commands):
    """The group of all commands: imports one when it runs; the one place where an error becomes an exit code."""

    all_options_shown = True

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Name the commands of the table."""
        del ctx
        return [command.name for command in COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        del ctx
        for command in COMMANDS:
            if command.name == cmd_name:
                module = importlib.import_module(f"stocktake.cli.{command.module}")
                found = getattr(module, f"{cmd_name}_command")
                assert isinstance(found, click.Command)
                return found
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table, group by group; nothing is imported for it."""
        del ctx
        wide = max(len(command.name) for command in COMMANDS)
        for group, commands in groupby(COMMANDS, key=lambda command: command.group):
            with formatter.section(group):
                formatter.write_dl([(f"{command.name:{wide}}", command.text) for command in commands])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command's name from the table."""
        named = [command for command in COMMANDS if command.name.startswith(incomplete)]
        items = [CompletionItem(command.name, help=command.text) for command in named]
        return [*items, *click.Command.shell_complete(self, ctx, incomplete)]

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _PipeBroken from error
        return code

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and exit with the code; without `standalone_mode` return it."""
        session = extra.pop("obj", None) or Session()
        code = _run(super().main, session, args, extra)
        if standalone_mode:
            sys.exit(code)
        return code


def _run(main: Any, session: Session, args: Sequence[Any], extra: dict[str, Any]) -> int:
    gc.set_threshold(_COLLECT_AFTER, *session.collector[1:])
    try:
        try:
            code = main(*args, standalone_mode=False, obj=session, **extra)
        finally:
            session.close()
            gc.set_threshold(*session.collector)
    except click.ClickException as error:
        _show(error)
        return _fail(session, InvalidInput(error.format_message()), error.exit_code)
    except StocktakeError as error:
        return _told(session, error)
    except (_PipeBroken, BrokenPipeError):
        # What Python has buffered for the pipe must not fail again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_BROKEN
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except (OSError, MemoryError, RuntimeError) as error:
        # Python's only word for a thread that the machine has no memory, or no number, for.
        if isinstance(error, RuntimeError) and str(error) != "can't start new thread":
            raise
        LOG.debug("the machine failed", exc_info=error)
        return _told(session, _machine_fault(error))
    return code if isinstance(code, int) else 0


def _told(session: Session, error: StocktakeError) -> int:
    """Say what is wrong."""
    complain(str(error))
    return _fail(session, error, exit_code(error))


def _machine_fault(error: OSError | MemoryError | RuntimeError) -> MachineFault:
    """Name what the machine refused and nobody expected where it happened: that is no bug, and no page of Python."""
    number = error.errno if isinstance(error, OSError) else errno.ENOMEM
    if number in (errno.ENOMEM, errno.EAGAIN):
        remedy = "Give it more memory: look at `ulimit -v`, at MemoryMax= of the unit, and at who has the memory."
        return MachineFault("there is not enough memory", remedy=remedy)
    assert isinstance(error, OSError), "the others were named"
    file = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else None
    place = f" (disk {disk_of(file)})" if file is not None else ""
    what = f"{error.strerror or type(error).__name__}{place}"
    remedy = ""
    if number in (errno.ENOSPC, errno.EDQUOT):
        remedy = "Free some space there; where no file is named it is what the output goes to, or /tmp."
    return MachineFault(what, where=str(file or ""), remedy=remedy)


def _show(error: click.ClickException) -> None:
    """Write a usage error as click does, with nothing of what was typed that controls a terminal or is secret."""
    with StringIO() as text:
        error.show(text)
        usage = text.getvalue().partition("Error: ")[0]
    click.echo(f"{usage}Error: {clean(redact(error.format_message()))}", err=True)


def _fail(session: Session, error: StocktakeError, code: int) -> int:
    """Write the error for programs, on stdout."""
    if session.json and not session.json_lines:
        write_json(session, None, exit_code=code, error=error)
    return code


def _version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click calls it
    if wanted and not context.resilient_parsing:
        click.echo(f"stocktake {__version__}")
        context.exit()


@click.group(
    cls=Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    example="$ stocktake refresh\n$ stocktake explain $(hostname) memory_mb_used",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version and exit."
)
@click.pass_context
def main(context: click.Context) -> int:
    """Keep the books of compute hosts: total, allocated and free resources.

    \b
    Settings come from a file (/etc/stocktake/stocktake.toml, or --config),
    STOCKTAKE_* variables above it, --set above those: `stocktake config show`.
    Exit codes: 0 fine, 1 a problem was found, 2 wrong input,
    3 something could not be reached.
    """
    session = context.ensure_object(Session)
    session.log_as_asked()
    if context.invoked_subcommand is None:
        click.echo(WELCOME)
    return 0
