"""
The nodes as lines with bars. Invariant: figures are told whole; bars take what room is left.

Where it is narrow first bars get short, then names, then bars go; a colour only ever repeats what a figure says.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil, floor
from typing import NamedTuple

from stocktake.accounting.capacity import RESOURCES, ResourceTotals, added
from stocktake.cli.nodes import RESOURCE_COLUMNS
from stocktake.cli.screen import COLOURS, columns_of, shortened
from stocktake.cli.show import bar
from stocktake.cli.text import clean
from stocktake.views.nodes import NodeView
from stocktake.views.quantities import count, gib, since


class Span(NamedTuple):
    """Text in a style: colours (`red`, `yellow`, `green`, `cyan`), `bold`, `dim`, `reverse`, several with spaces."""

    text: str
    style: str = ""


Line = tuple[Span, ...]
EMPTY: Line = ()


def width_of(line: Iterable[Span]) -> int:
    """Count a line's columns."""
    return sum(columns_of(span.text) for span in line)


def text_of(line: Iterable[Span]) -> str:
    """Give a line without its styles."""
    return "".join(span.text for span in line)


def cell(text: str, width: int, style: str = "", *, right: bool = False) -> Span:
    """Put text from anywhere into so many columns, cut or filled up."""
    shown = shortened(clean(text), width) if width > 0 else ""
    space = " " * (width - columns_of(shown))
    return Span(space + shown if right else shown + space, style)


def cut(line: Iterable[Span], columns: int) -> Line:
    """Cut a line to so many columns, with an ellipsis if something is lost."""
    return tuple(_cut(line, columns))


def _cut(line: Iterable[Span], columns: int) -> Iterator[Span]:
    spans = [span for span in line if span.text]
    if width_of(spans) <= columns:
        yield from spans
        return
    left = columns
    for place, span in enumerate(spans):
        wide = columns_of(span.text)
        # One column is kept for the ellipsis as long as something follows.
        if wide < left or (wide == left and place == len(spans) - 1):
            yield span
            left -= wide
            continue
        if left > 0:
            yield Span(shortened(span.text + "…", left), span.style)
        return


def apart(left: Iterable[Span], right: Iterable[Span], columns: int) -> Line:
    """Put two texts to the ends of a line; the left one gives way, and the right one too if it has to."""
    ending = cut(right, columns)
    room = columns - width_of(ending)
    start = cut(left, max(room - 1, 0))
    return (*start, Span(" " * (room - width_of(start))), *ending)


_NOTHING: Mapping[str, ResourceTotals] = {
    name: ResourceTotals(name=name, resource_class=one.resource_class) for name, one in RESOURCES.items()
}
# What parts of a bar look like; what is allocated, as it is full.
_STYLES: Mapping[str, str] = {"reserved": "cyan", "free": "dim", "total": "bold", "over": "red"}
_NAME_MIN, _NAME_MAX = 8, 40
_BAR_MIN, _BAR_WIDE, _BAR_MAX = 4, 12, 40
_STATE, _DISABLED = 6, 8
_CHANGED = len("59 min 59 s")
_HOST_MAX = 20
_ROOMY = 100
_HIGH = 0.8
# From here on numbers are told in thousands.
_LONG = 10_000

_SORT_KEYS: Mapping[str, str] = {"memory_mb": "memory", "local_gb": "disk"}
# What `s` goes through, in this order; figures and problems the largest first.
SORTS: Mapping[str, Callable[[NodeView], tuple[object, ...]]] = {
    "name": lambda row: (row.name,),
    "vcpus": lambda row: (-row.resources["vcpus"].share, row.name),
    "memory": lambda row: (-row.resources["memory_mb"].share, row.name),
    "disk": lambda row: (-row.resources["local_gb"].share, row.name),
    "vms": lambda row: (-row.node.running_vms, row.name),
    "problems": lambda row: (row.state.word in {"up", "manual"}, -len(row.problems), row.name),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """
    How many columns everything gets; 0 leaves it out.

    Attributes:
        texts: the figures beside the bars, by resource; `least`: what the sums need without a bar.
        short: names are told without their domain, which is no less clear.
    """

    name: int
    texts: Mapping[str, int]
    least: Mapping[str, int]
    vms: int
    state: int
    gap: int
    bar: int = 0
    problems: int = 5
    host: int = 0
    changed: int = 0
    short: bool = False

    def resource(self, name: str) -> int:
        """Give the columns of a resource: bar, a space, figures."""
        return max(
            self.texts[name] + (self.bar + 1 if self.bar else 0), self.least[name], len(RESOURCE_COLUMNS[name][0]) + 1
        )

    @property
    def width(self) -> int:
        """Give the columns of a whole line."""
        parts = [self.name, self.state, *map(self.resource, self.texts)]
        parts += [self.vms, self.problems, self.host, self.changed]
        kept = [part for part in parts if part]
        return sum(kept) + self.gap * (len(kept) - 1)


def laid_out(rows: Sequence[NodeView], columns: int) -> Layout:
    """Share out the columns among what all these rows need."""
    totals = _sums(rows)
    known = [name for name in RESOURCES if name in totals]
    layout = Layout(
        name=_name_width(rows, short=False),
        texts={name: max(len(figures(_of(row, name))) for row in rows) for name in known},
        least={name: len(figures(totals[name])) for name in known},
        vms=max(4, len(str(sum(row.node.running_vms for row in rows)))),
        state=_DISABLED if any(_is_off(row) for row in rows) else _STATE,
        gap=2 if columns >= _ROOMY else 1,
    )
    hosts = {row.node.host for row in rows}
    host = min(max(map(columns_of, hosts)), _HOST_MAX) if len(hosts) > 1 else 0
    for wide in (replace(layout, changed=_CHANGED, host=host), replace(layout, changed=_CHANGED), layout):
        if _bar(wide, columns) >= _BAR_WIDE:
            return replace(wide, bar=_bar(wide, columns))
    return _narrow(layout, rows, columns)


def _narrow(layout: Layout, rows: Sequence[NodeView], columns: int) -> Layout:
    """Let names give way to bars: first their domains, then down to what can be told apart; at last the bars go."""
    if len({_short(row.name) for row in rows}) == len(rows):
        layout = replace(layout, short=True, name=_name_width(rows, short=True))
    over = max(replace(layout, bar=_BAR_MIN).width - columns, 0)
    cut = replace(layout, name=max(layout.name - over, _NAME_MIN))
    bar = _bar(cut, columns)
    return replace(cut, bar=bar) if bar >= _BAR_MIN else layout


def _name_width(rows: Sequence[NodeView], *, short: bool) -> int:
    names = (columns_of(_short(row.name) if short else row.name) for row in rows)
    return min(max(_NAME_MIN, len(_total_title(rows)), *names), _NAME_MAX)


def _short(name: str) -> str:
    return name.partition(".")[0]


def _bar(layout: Layout, columns: int) -> int:
    """Give the longest bar with which the line still fits; 0 if none does."""
    fitting = (bar for bar in range(_BAR_MAX, 0, -1) if replace(layout, bar=bar).width <= columns)
    return next(fitting, 0)


def heading(layout: Layout, sort: str) -> Line:
    """Give the titles; the one that is sorted by has an arrow."""

    def title(key: str, text: str) -> str:
        return f"{text}{'▲' if key == 'name' else '▼'}" if key == sort else text

    cells = [cell(title("name", "NODE"), layout.name), cell("STATE", layout.state)]
    cells += [
        cell(title(_SORT_KEYS.get(name, name), RESOURCE_COLUMNS[name][0]), layout.resource(name))
        for name in layout.texts
    ]
    cells.append(cell(title("vms", "VMS"), layout.vms, right=True))
    cells.append(cell(title("problems", "PROB"), layout.problems, right=True))
    if layout.host:
        cells.append(cell("HOST", layout.host))
    if layout.changed:
        cells.append(cell("CHANGED", layout.changed, right=True))
    return _joined(layout, [(Span(one.text, "bold"),) for one in cells])


def node_line(layout: Layout, row: NodeView, now: datetime) -> Line:
    """Show one node."""
    state = "disabled" if _is_off(row) else row.state.word
    worst = "red" if row.severity == "error" else "yellow"
    cells: list[Line] = [
        (cell(_short(row.name) if layout.short else row.name, layout.name),),
        (cell(state, layout.state, COLOURS[state]),),
    ]
    cells += [
        _resource(layout, name, row.resources[name]) if name in row.resources else (cell("", layout.resource(name)),)
        for name in layout.texts
    ]
    cells.append((cell(str(row.node.running_vms), layout.vms, right=True),))
    cells.append((cell(str(len(row.problems)), layout.problems, worst if row.problems else "dim", right=True),))
    if layout.host:
        cells.append((cell(row.node.host, layout.host),))
    if layout.changed:
        ago = since(row.node.updated_at or row.node.created_at, now)
        cells.append((cell(ago, layout.changed, "dim", right=True),))
    return _joined(layout, cells)


def sums_line(layout: Layout, rows: Sequence[NodeView]) -> Line:
    """Show the sums of all these rows."""
    totals = _sums(rows)
    cells: list[Line] = [(cell(_total_title(rows), layout.name, "bold"),), (cell("", layout.state),)]
    cells += [_resource(layout, name, totals[name], "bold") for name in layout.texts]
    cells.append((cell(str(sum(row.node.running_vms for row in rows)), layout.vms, "bold", right=True),))
    cells.append((cell(str(sum(len(row.problems) for row in rows)), layout.problems, "bold", right=True),))
    return _joined(layout, cells)


def _is_off(row: NodeView) -> bool:
    """Say whether being disabled is the worst that is to be said of a node."""
    return row.disabled and row.state.word in {"up", "manual"}


def _total_title(rows: Sequence[NodeView]) -> str:
    return count(len(rows), "node")


def _joined(layout: Layout, cells: Iterable[Line]) -> Line:
    line: list[Span] = []
    for one in cells:
        line += [Span(" " * layout.gap), *one] if line else one
    return tuple(line)


def _of(row: NodeView, name: str) -> ResourceTotals:
    return row.resources.get(name) or _NOTHING[name]


def _sums(rows: Iterable[NodeView]) -> dict[str, ResourceTotals]:
    return {one.name: one for one in added(row.resources.values() for row in rows)}


def _resource(layout: Layout, name: str, amount: ResourceTotals, style: str = "") -> Line:
    colour = "red" if amount.over_allocated else "yellow" if amount.share >= _HIGH else style
    width, told = layout.resource(name), figures(amount)
    # The sums have longer figures, and a shorter bar.
    length = min(layout.bar, width - len(told) - 1)
    if length <= 0:
        return (cell(told, width, colour, right=True),)
    return (*bar_line(amount, length), cell(told, width - length, colour, right=True))


def bar_line(amount: ResourceTotals, length: int) -> Line:
    """Draw a bar in colours."""
    colour = "red" if amount.over_allocated else "yellow" if amount.share >= _HIGH else "green"
    return tuple(Span(text, _STYLES.get(what, colour)) for text, what in bar(amount, length))


def figures(amount: ResourceTotals) -> str:
    """Write allocated/capacity as `nodes` does; long ones in thousands, allocated rounded up, the capacity down."""
    return f"{_figure(amount.name, amount.allocated, ceil)}/{_figure(amount.name, amount.capacity, floor)}"


def _figure(name: str, number: int, rounded: Callable[[float], int]) -> str:
    whole = number / 1024 if name == "memory_mb" else number
    if abs(whole) >= _LONG:
        return f"{rounded(whole / 100) / 10:g}k"
    return gib(number) if name == "memory_mb" else str(number)
