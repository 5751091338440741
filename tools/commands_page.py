"""docs/reference/commands.md, made of the commands themselves. Invariant: what the page says, `--help` says."""

import click

from stocktake.cli.main import main

_HEAD = """\
# Commands

<!-- Made from the code by `python -m tools.reference` (`make docs`). Change the help texts in src/stocktake/cli. -->

The options of `stocktake` itself may stand after the command too: `stocktake nodes --json`.

## Exit codes

| code | meaning |
|---|---|
| 0 | fine |
| 1 | something was found: orphans, a problem that is an error, figures that don't add up; a machine fits nowhere |
| 2 | wrong input: arguments, settings, a document, a name that isn't there; or this host is not who the ledger says |
| 3 | a part could not be reached, or refused |
| 130 | interrupted |
| 141 | the reader of the pipe went away |

## JSON

With `--json` a command prints one object, a failing one too:

```json
{"command": "nodes", "exit_code": 0, "error": null, "data": []}
```

`data` is a list where there may be several things, an object where there is one, and null with an `error`, which has
`code`, `what`, `where` and `remedy`. Times are ISO 8601 in UTC; names end in their units (`_mb` is MiB, `_gb` is GiB).
Two commands print JSON lines instead, and their errors on stderr only: `tally --json`, one object a document, and
`ledger export`, one a row.
"""
# As wide as help is on a terminal of 80 columns.
_COLUMNS = 78


def commands_page() -> str:
    """Write the page."""
    parts = [_HEAD, *_sections(main, "stocktake", None)]
    return "\n".join(parts)


def _sections(command: click.Command, name: str, parent: click.Context | None) -> list[str]:
    """Write a command's help, then that of the commands below it."""
    settings = {"help_option_names": ["-h", "--help"], "terminal_width": _COLUMNS, "color": False}
    context = click.Context(command, info_name=name, parent=parent, **settings)  # type: ignore[arg-type]
    parts = [f"## `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"]
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            found = command.get_command(context, child)
            if found is not None and not found.hidden:
                parts += _sections(found, child, context)
    return parts
