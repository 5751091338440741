"""Options whose value is a size. Invariant: how sizes are read is `views.sizes`' to say."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from stocktake.errors import InvalidInput
from stocktake.views.sizes import Unit, read_size

F = TypeVar("F", bound=Callable[..., Any])


def size_option(*names: str, unit: Unit, **how: Any) -> Callable[[F], F]:
    """Make an option whose value is a size, in whole MiB or GiB; 0 if it is not given."""

    def read(_context: click.Context, _option: click.Parameter, text: str | None) -> int:
        try:
            return read_size(text, unit) if text is not None else 0
        except InvalidInput as error:
            raise click.BadParameter(error.what) from error

    return click.option(*names, callback=read, metavar="SIZE", **how)
