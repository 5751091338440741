"""
Numbers, sizes and spans of time as people read and write them. Invariant: what is read is exact, or refused; what is
shown is rounded to the nearest, and exact in JSON.

Units are of 1,024s, as everywhere here; a bare number is in the unit that was asked for.
"""

import difflib
import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from stocktake.errors import InvalidInput
from stocktake.model.value import LARGEST

_MIB_PER_GIB = 1024
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def gib(memory_mb: int) -> str:
    """Give MiB as GiB with one decimal, which is left out where it is 0."""
    return f"{memory_mb / _MIB_PER_GIB:.1f}".removesuffix(".0")


def count(number: int, one: str, many: str = "") -> str:
    """Count things: 1 guest, 2 guests."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def ratio(number: float) -> str:
    """Give a ratio without needless digits."""
    return f"{number:g}"


def since(moment: datetime | None, now: datetime) -> str:
    """Give how long ago something was, in its two largest units: `3 d 4 h`; `never` for None."""
    if moment is None:
        return "never"
    return span((now - moment).total_seconds())


def ago(moment: datetime | None, now: datetime) -> str:
    """Say how long ago something was: `3 d 4 h ago`, or `never`."""
    return "never" if moment is None else f"{since(moment, now)} ago"


def span(seconds: float) -> str:
    """Give a time span in its two largest units; one that is negative is no time at all."""
    left = max(0, int(seconds))
    parts: list[str] = []
    for size, unit in _STEPS:
        number, rest = divmod(left, size)
        if number:
            parts.append(f"{number} {unit}")
            left = rest
        elif parts:
            break
        if len(parts) == 2:
            break
    return " ".join(parts) or "0 s"


def moment(time: datetime | None) -> str:
    """Give a moment to the second, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC") if time else ""


def nearest(name: str, names: Sequence[str]) -> str:
    """Ask what may have been meant, with a space before it; empty if nothing is near."""
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6) or [known for known in names if name in known][:3]
    return f" Did you mean {' or '.join(near)}?" if near else ""


Unit = Literal["MiB", "GiB"]

_SIZE = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)\s*(?:([KMGT])(?:i?B)?)?", re.ASCII | re.IGNORECASE)
_KIB = {"K": 1, "M": 1024, "G": 1024**2, "T": 1024**3}


def read_size(text: str, unit: Unit) -> int:
    """
    Read a size.

    Raises:
        InvalidInput: it is none, no whole number of the unit, or more than any machine has.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{text[:40]!r} is no size such as 8G, 512M or 40 ({unit})")
    letter = (found[2] or unit[0]).upper()
    size = Decimal(found[1]) * _KIB[letter] / _KIB[unit[0]]
    if size != int(size):
        raise InvalidInput(f"{text.strip()} is no whole number of {unit}")
    if size > LARGEST:
        raise InvalidInput(f"{text.strip()} is more than any machine has")
    return int(size)


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
