"""
What a setting is written with. Invariant: its meaning, unit and limits stand where its name does.
"""

from collections.abc import Mapping
from typing import Any

from msgspec import Meta

from stocktake.model.value import Value
from stocktake.settings.secrets import hidden

# Whole numbers that a database and JSON can hold.

AuthOptions = Mapping[str, str | int | float | bool]


def about(text: str, *, unit: str = "", hide: str = "", default: str = "", **limits: Any) -> Meta:
    """
    Say what a setting means.

    Args:
        unit: of the value, as shown in the reference.
        hide: how it is hidden: `secret` (all of it), `url` (the password in it) or `options` (all but names known to be
            harmless).
        default: in words, where the machine decides.
        limits: msgspec's (ge, gt, le, ...).
    """
    return Meta(description=text, extra={"unit": unit, "hide": hide, "default": default}, **limits)


class Section(Value, frozen=True, kw_only=True):
    """A table of settings; its repr hides what is secret."""

    def __repr__(self) -> str:
        """Show the settings, passwords hidden."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> Any:
        """Give names and values, passwords hidden."""
        return ((name, hidden(type(self), name, getattr(self, name))) for name in self.__struct_fields__)
