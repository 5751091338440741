"""
A figure over time, as a drawing. Invariant: pure; a point holds until the next one, and what is not known is not drawn.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from stocktake.model.history import Moment
from stocktake.model.value import Value
from stocktake.views.words import since

WIDTH, HEIGHT = 600, 120
DAY = timedelta(days=1)
MONTH = timedelta(days=30)
_TICKS = 6


class Point(Value, frozen=True, kw_only=True):
    """What was used of what there was, from a time on."""

    at: datetime
    used: int
    total: int


class Plot(Value, frozen=True, kw_only=True):
    """
    A drawing of `WIDTH` by `HEIGHT`.

    Attributes:
        area, line: paths of what was used and of what there was.
        most: the amount at the upper edge.
        ticks: where along the lower edge which time is written.
        label: the drawing in words.
    """

    title: str
    unit: str
    area: str
    line: str
    most: int
    ticks: tuple[tuple[int, str], ...]
    label: str


def points_of(history: Iterable[Moment], what: str) -> tuple[Point, ...]:
    """Pick one resource of a node's history, the oldest first."""
    found = [Point(at=then.at, used=getattr(then, f"{what}_used"), total=getattr(then, what)) for then in history]
    return tuple(sorted(found, key=lambda point: point.at))


def plot(points: Sequence[Point], title: str, unit: str, *, now: datetime, span: timedelta) -> Plot | None:
    """Draw the last `span` of what is known, the oldest first; None if nothing is."""
    start = now - span
    before = [point for point in points if point.at <= start]
    shown = [*before[-1:], *(point for point in points if start < point.at <= now)]
    if not shown:
        return None
    most = max(1, *(max(point.used, point.total) for point in shown))
    edges = [(_across(max(point.at, start), start, span), point) for point in shown]
    used = _steps([(across, _up(point.used, most)) for across, point in edges])
    total = _steps([(across, _up(point.total, most)) for across, point in edges])
    low, high = min(point.used for point in shown), max(point.used for point in shown)
    last = shown[-1]
    return Plot(
        title=title,
        unit=unit,
        area=f"{used}V{HEIGHT}H{edges[0][0]}Z",
        line=total,
        most=most,
        ticks=_ticks(now, span),
        label=f"{title} in the last {since(start, now)}: from {low:,} to {high:,} {unit}, "
        f"now {last.used:,} of {last.total:,}",
    )


def _steps(marks: Sequence[tuple[int, int]]) -> str:
    """Write a path that keeps each height until the next, and the last until now."""
    (across, up), *rest = marks
    return f"M{across} {up}" + "".join(f"H{across}V{up}" for across, up in rest) + f"H{WIDTH}"


def _across(moment: datetime, start: datetime, span: timedelta) -> int:
    return round(WIDTH * ((moment - start) / span))


def _up(amount: int, most: int) -> int:
    return HEIGHT - round(HEIGHT * amount / most)


def _ticks(now: datetime, span: timedelta) -> tuple[tuple[int, str], ...]:
    """Write times at equal distances, in UTC, the last of them now."""
    form = "%H:%M" if span <= DAY else "%d %b"
    times = [(number, now - span + span * number / _TICKS) for number in range(1, _TICKS)]
    return tuple((WIDTH * number // _TICKS, time.strftime(form)) for number, time in times)
