"""`completion`: the script that makes a shell complete. Invariant: what it completes, the program says itself."""

import click
from click.shell_completion import get_completion_class

from stocktake.cli.commands import Command
from stocktake.errors import InvalidInput

_VARIABLE = "_STOCKTAKE_COMPLETE"


@click.command(
    "completion",
    cls=Command,
    example="""
    $ stocktake completion bash > /etc/bash_completion.d/stocktake
    $ stocktake completion zsh > "${fpath[1]}/_stocktake"
    $ stocktake completion fish > ~/.config/fish/completions/stocktake.fish
    """,
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(context: click.Context, shell: str) -> int:
    """Print the script that makes SHELL complete stocktake's commands."""
    kind = get_completion_class(shell)
    if kind is None:
        raise InvalidInput(f"there is no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "stocktake", _VARIABLE).source())
    return 0
