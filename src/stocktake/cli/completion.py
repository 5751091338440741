"""
`completion`: what a shell needs to complete commands, options and node names. Invariant: it never fails loudly.
"""

import click
from click.shell_completion import CompletionItem, get_completion_class

from stocktake.cli.options import Command
from stocktake.cli.session import Session
from stocktake.errors import InvalidInput, StocktakeError

_VARIABLE = "_STOCKTAKE_COMPLETE"


@click.command(
    "completion",
    short_help="Print the script that makes a shell complete.",
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
    context.ensure_object(Session).command = "completion"
    kind = get_completion_class(shell)
    if kind is None:
        raise InvalidInput(f"there is no completion for {shell}")
    click.echo(kind(context.find_root().command, {}, "stocktake", _VARIABLE).source())
    return 0


def complete_node(context: click.Context, _option: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a node's name from the ledger; without one there is nothing to complete."""
    session = context.ensure_object(Session)
    try:
        names = [node.hypervisor_hostname for node in session.ledger.nodes()]
    except StocktakeError:
        return []
    finally:
        session.close()
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
