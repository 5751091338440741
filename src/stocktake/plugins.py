"""
Third parties' drivers and monitors, found through entry points. Invariant: whatever one raises, it is a typed error
that names the plug-in.
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import TypeVar

from stocktake.errors import DriverError, SettingsError, StocktakeError

T = TypeVar("T")


def names_of(group: str) -> tuple[str, ...]:
    """List the plug-ins of a group that are installed, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def find(group: str, name: str, *, setting: str, kind: str, besides: tuple[str, ...] = ()) -> EntryPoint:
    """
    Find a plug-in by its name.

    Args:
        setting: the setting that names it; kind: what it is, for people; besides: other names that would do.

    Raises:
        SettingsError: there is none; says which there are.
    """
    found = entry_points(group=group, name=name)
    if not found:
        remedy = f"There are: {', '.join((*besides, *names_of(group)))}."
        raise SettingsError(f"{setting}: there is no {kind} {name!r}", remedy=remedy)
    return next(iter(found))


def load(entry: EntryPoint, kind: str, *arguments: object, check: Callable[[object], T | None], otherwise: str) -> T:
    """
    Load a plug-in and call it.

    Args:
        check: gives the made thing back if it is what it should be, else None.
        otherwise: what to do if installing what it needs does not help.

    Raises:
        DriverError: it can't be loaded, fails, or makes something else.
        StocktakeError: what it raised on purpose.
    """
    where = f"{kind} {entry.name} ({entry.value})"
    try:
        made = entry.load()(*arguments)
    except StocktakeError:
        raise
    except Exception as error:
        # A third party's code may raise anything when it is imported or called.
        raise DriverError(
            f"can't be loaded: {type(error).__name__}: {error}",
            where=where,
            remedy=f"Install what it needs, or {otherwise}.",
        ) from error
    checked = check(made)
    if checked is None:
        what = f"gave a {type(made).__name__}, which lacks a part of a {kind}"
        raise DriverError(what, where=where, remedy=f"Ask its author; see stocktake.{kind}s.base.")
    return checked
