"""
The program `stocktake`. Invariant: every end has its exit code, and none is a traceback for what somebody typed.

0 fine, 1 found something, 2 wrong input, 3 a part could not be reached.
"""

import gc
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from stocktake import __version__
from stocktake.cli.options import Commands
from stocktake.cli.session import Session
from stocktake.errors import InvalidInput, StocktakeError, exit_code

# What a shell reports for a program that a signal ended.
_INTERRUPTED = 130
_PIPE_BROKEN = 141
# Nothing that is made while a program starts is garbage, and looking for some takes a sixth of a command's time.
_COLLECT_AFTER = 100_000

COMMANDS = {
    "refresh": "stocktake.cli.refresh:refresh_command",
    "agent": "stocktake.cli.agent:agent_command",
    "nodes": "stocktake.cli.nodes:nodes_command",
    "show": "stocktake.cli.show:show_command",
    "watch": "stocktake.cli.watch.command:watch_command",
    "explain": "stocktake.cli.explain:explain_command",
    "history": "stocktake.cli.history:history_command",
    "fit": "stocktake.cli.fit:fit_command",
    "tally": "stocktake.cli.tally:tally_command",
    "claim": "stocktake.cli.claim:claim_command",
    "keep": "stocktake.cli.claim:keep_command",
    "release": "stocktake.cli.claim:release_command",
    "move": "stocktake.cli.move:move_command",
    "instances": "stocktake.cli.promises:instances_command",
    "migrations": "stocktake.cli.promises:migrations_command",
    "orphans": "stocktake.cli.orphans:orphans_command",
    "services": "stocktake.cli.services:services_command",
    "serve": "stocktake.cli.serve:serve_command",
    "token": "stocktake.cli.token:token_command",
    "ledger": "stocktake.cli.ledger:ledger_command",
    "config": "stocktake.cli.config:config_command",
    "doctor": "stocktake.cli.doctor:doctor_command",
    "completion": "stocktake.cli.completion:completion_command",
}

WELCOME = """\
stocktake keeps the books of compute hosts: what they have, what is promised, what is left.

  stocktake refresh             take stock of this machine now
  stocktake nodes               all nodes at a glance
  stocktake show NODE           everything about one node
  stocktake explain NODE FIELD  why a number is what it is
  stocktake orphans             guests that nobody promised
  stocktake agent               take stock every minute, for ever
  stocktake doctor              what is wrong here, and what to do

`stocktake --help` lists all commands and options, `stocktake COMMAND --help` explains one."""


class _PipeBroken(Exception):
    """The reader of our output went away; click would make 1 of it, which means something else here."""


class Program(Commands):
    """The group of all commands; the one place where an error becomes an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise _PipeBroken from error
        return code

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run, and exit with the code; without `standalone_mode` give it instead."""
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
        return _usage_error(session, error)
    except StocktakeError as error:
        return _told(session, error)
    except (_PipeBroken, BrokenPipeError):
        # What Python still holds for the pipe must not fail again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_BROKEN
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    return code if isinstance(code, int) else 0


def _told(session: Session, error: StocktakeError) -> int:
    """Say on one line what failed; for programs on stdout too."""
    code = exit_code(error)
    if session.json and not session.json_lines:
        from stocktake.cli.screen import write_json

        write_json(session, None, exit_code=code, error=error)
    click.echo(f"stocktake: {' '.join(str(error).split())}", err=True)
    return code


def _usage_error(session: Session, error: click.ClickException) -> int:
    if session.json and not session.json_lines:
        from stocktake.cli.screen import write_json

        write_json(session, None, exit_code=error.exit_code, error=InvalidInput(error.format_message()))
    error.show()
    return error.exit_code


def _version(context: click.Context, _option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001 - click calls it
    if wanted and not context.resilient_parsing:
        click.echo(f"stocktake {__version__}")
        context.exit()


@click.group(
    cls=Program,
    lazy=COMMANDS,
    top=True,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    example="$ stocktake refresh\n$ stocktake explain $(hostname) memory_mb_used",
)
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Print the version and exit."
)
@click.pass_context
def main(context: click.Context) -> int:
    """Keep the books of compute hosts: what they have, what is promised, what is left.

    \b
    Settings come from a file (/etc/stocktake/stocktake.toml, or --config),
    STOCKTAKE_* variables above it, --set above those: `stocktake config show`.
    Exit codes: 0 fine, 1 something was found, 2 wrong input,
    3 a part could not be reached.
    """
    session = context.ensure_object(Session)
    session.log_as_asked()
    if context.invoked_subcommand is None:
        click.echo(WELCOME)
    return 0
