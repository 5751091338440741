"""
Numbers and times as people read them. Invariant: what is shown is never rounded so that it hides what is used.
"""

import difflib
from collections.abc import Sequence
from datetime import datetime

_MIB_PER_GIB = 1024
_STEPS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def gib(memory_mb: int) -> str:
    """Give MiB as GiB with one decimal, which is left out where it is 0."""
    return f"{memory_mb / _MIB_PER_GIB:.1f}".removesuffix(".0")


def mib(number: int) -> str:
    """Give a number with thousands apart: 24,105 MiB."""
    return f"{number:,} MiB"


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
