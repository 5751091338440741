"""The settings in force, for a person. Invariant: what is secret leaves here hidden."""

from typing import Any

from stocktake.model.value import Value
from stocktake.settings.secrets import hidden
from stocktake.settings.table import rows, sections
from stocktake.settings.whole import Settings

DEFAULT = "default"


class Shown(Value, frozen=True, kw_only=True):
    """
    One setting as `config show` has it.

    Attributes:
        name: dotted.
        value: plain data, secrets hidden.
        origin: `default`, the file and line, `environment NAME` or `flag`.
    """

    name: str
    value: Any
    origin: str
    unit: str = ""


def redacted(settings: Settings) -> tuple[Shown, ...]:
    """List every setting with where its value came from; passwords hidden."""
    tables = {name: getattr(settings, name) for name in sections()}
    return tuple(
        Shown(
            name=name,
            value=_plain(
                hidden(row.section, row.field, getattr(tables.get(name.partition(".")[0], settings), row.field))
            ),
            origin=settings.origins.get(name, DEFAULT),
            unit=row.unit,
        )
        for name, row in rows().items()
    )


def _plain(value: Any) -> Any:
    import msgspec

    return msgspec.to_builtins(value, enc_hook=str, order="sorted")
