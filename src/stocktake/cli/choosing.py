"""
The options that choose some of thousands of nodes. Invariant: what they mean is said in `views.choosing`.
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from stocktake.views.choosing import Choice


def choice_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that make a choice; they come as one argument, `choice`."""

    @click.option("--state", "states", metavar="STATE", multiple=True, help="In this state; of several, in any.")
    @click.option(
        "--problem", "problems", metavar="CODE", multiple=True, help="With such a problem; 'any' is any, 'none' none."
    )
    @click.option("--trait", "traits", metavar="TRAIT", multiple=True, help="With this trait; of several, with all.")
    @click.option("--name", metavar="PATTERN", help="Called so, such as 'rack7-*'; a uuid will do.")
    @click.option("--limit", metavar="N", type=click.IntRange(min=1), help="At most so many.")
    @click.option("--marker", metavar="NODE", help="Only those after the node that is called so.")
    @wraps(command)
    def chosen(
        *args: Any,
        states: tuple[str, ...],
        problems: tuple[str, ...],
        traits: tuple[str, ...],
        name: str | None,
        limit: int | None,
        marker: str | None,
        **others: Any,
    ) -> Any:
        choice = Choice(states=states, problems=problems, traits=traits, name=name, limit=limit, marker=marker)
        return command(*args, choice=choice, **others)

    return chosen
