"""Spans of time as people write them. Invariant: a number without a unit is a mistake."""

from datetime import timedelta

from stocktake.errors import InvalidInput

_UNITS_S = {"s": 1, "min": 60, "h": 3600, "d": 86_400}


def span_of(text: str, *, where: str) -> timedelta:
    """
    Read a time span such as 90d.

    Raises:
        InvalidInput: it is none.
    """
    number = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = _UNITS_S.get(text[len(number) :])
    if unit is None or not number.isascii() or not number.isdigit() or not 0 < int(number) * unit < 2**32:
        raise InvalidInput(f"{text[:40]!r} is no time such as 90d, 12h or 30min", where=where)
    return timedelta(seconds=int(number) * unit)
