"""
Write the pages of docs/reference/ that are made of the code: settings, commands, errors, metrics, the API.

    python -m tools.reference
"""

import inspect
from pathlib import Path

from stocktake import errors
from stocktake.errors import StocktakeError
from tools.api_page import api_page
from tools.commands_page import commands_page
from tools.metrics_page import metrics_page
from tools.settings_page import settings_page

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"

_HEAD = """\
# Errors

<!-- Made from the code by `python -m tools.reference` (`make docs`). Change src/stocktake/errors.py. -->

Every error that stocktake raises on purpose says what failed, where, and what the operator can do. With `--json` it is
the `error` of the answer: an object of `code` (the name below), `what`, `where` and `remedy`.

An error that concerns one node does not end the program: it becomes that node's *problem*, shown by `nodes` and `show`,
and the next refresh tries again. One that concerns everything ends the command with the exit code below.

The tree; whoever catches one catches those below it:

```text
{tree}
```

| code | a kind of | exit code | meaning |
|---|---|---|---|
"""


def kinds() -> tuple[type[StocktakeError], ...]:
    """Give every error there is, in the order in which they are written."""
    found = (kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, StocktakeError))
    return tuple(sorted(found, key=lambda kind: inspect.getsourcelines(kind)[1]))


def errors_page() -> str:
    """Make the page of errors, of their docstrings and exit codes."""
    lines = inspect.getdoc(errors) or ""
    tree = inspect.cleandoc("\n" + lines.partition("\n\n")[2])
    rows = []
    for kind in kinds():
        parent = "" if kind is StocktakeError else f"`{kind.__mro__[1].__name__}`"
        meaning = " ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())
        rows.append(f"| `{kind.__name__}` | {parent} | {errors.exit_code(kind.__new__(kind))} | {meaning} |\n")
    return _HEAD.format(tree=tree) + "".join(rows)


def main() -> None:
    """Write all pages anew."""
    pages = {
        "settings.md": settings_page,
        "commands.md": commands_page,
        "errors.md": errors_page,
        "metrics.md": metrics_page,
        "api.md": api_page,
    }
    for name, page in pages.items():
        (REFERENCE / name).write_text(page(), encoding="utf-8")
        print(f"wrote docs/reference/{name}")


if __name__ == "__main__":
    main()
