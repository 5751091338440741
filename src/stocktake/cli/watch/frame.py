"""
One picture of the fleet, for any size. Invariant: pure; as many lines as there are rows and none wider than the screen.

From above: what is seen and when, the nodes, what is wrong, what changed (the newest first), the keys.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from stocktake.cli.screen import COLOURS
from stocktake.cli.text import clean
from stocktake.cli.watch.fleet_snapshot import Change, FleetSnapshot
from stocktake.cli.watch.table import (
    EMPTY,
    SORTS,
    Line,
    Span,
    apart,
    cut,
    heading,
    laid_out,
    node_line,
    sums_line,
    width_of,
)
from stocktake.views.nodes import NodeView
from stocktake.views.quantities import count, span

LEGEND = (
    Span("▒", "cyan"),
    Span(" reserved "),
    Span("█", "green"),
    Span(" allocated "),
    Span("░", "dim"),
    Span(" free"),
)
_TOTAL = (Span(" │", "bold"), Span(" total"))
# Below so many rows there is room for nodes alone.
_ROWS_SMALL = 12
_NAMED_MAX = 3
# Problems that a node's state has as its reason.
_STATES = frozenset({"agent-down", "service-unknown"})


@dataclass(frozen=True, slots=True)
class Size:
    """A screen's; without `rows` everything is shown, as for a pipe."""

    columns: int
    rows: int | None = None


@dataclass(frozen=True)
class View:
    """
    What is looked at, and how.

    Attributes:
        ledger: its name, without a password.
        fleet: what it said last; None as long as it said nothing.
        trouble: why it says nothing now.
        changes: what changed, the newest first.
        top: the first node shown.
        pattern: nodes whose name, host or state contain it are shown; `typing`: it is being typed.
    """

    ledger: str
    now: datetime
    fleet: FleetSnapshot | None = None
    trouble: str = ""
    changes: tuple[Change, ...] = ()
    sort: str = "name"
    top: int = 0
    pattern: str = ""
    typing: bool = False


@dataclass(frozen=True, slots=True)
class Areas:
    """How many lines each part gets, titles not counted."""

    nodes: int
    problems: int
    changes: int


def shown(view: View) -> Sequence[NodeView]:
    """Give the rows that pass the filter, sorted."""
    if view.fleet is None:
        return ()
    wanted = view.pattern.lower()
    rows = view.fleet.rows
    if wanted:
        rows = [row for row in rows if wanted in f"{row.name} {row.node.host} {row.state.word}".lower()]
    return sorted(rows, key=SORTS[view.sort])


def areas(view: View, size: Size) -> Areas:
    """Share the rows out: problems and changes keep a few, nodes get what they need, changes the rest."""
    nodes = len(shown(view))
    problems = len(problem_kinds(view.fleet)) if view.fleet else 0
    if size.rows is None:
        return Areas(nodes, problems, len(view.changes))
    # The line on top, the titles and the keys; what is unreachable; the sums.
    fixed = 3 + bool(view.trouble) + (nodes > 1)
    room = max(size.rows - fixed, 0)
    if size.rows < _ROWS_SMALL:
        return Areas(room, 0, 0)
    kept = min(problems, max(2, size.rows // 8))
    least = max(3, size.rows // 6)
    room -= (kept + 1 if kept else 0) + 1
    given = max(min(nodes, room - least), 1)
    return Areas(given, kept, max(room - given, 0))


def last_top(view: View, size: Size) -> int:
    """Give how far down one can scroll."""
    return max(len(shown(view)) - areas(view, size).nodes, 0)


def frame(view: View, size: Size) -> list[Line]:
    """Draw everything."""
    lines = [cut(line, size.columns) for line in _lines(view, size)]
    if size.rows is None:
        return lines
    keys = _keys(view, size)
    lines = lines[: max(size.rows - 1, 0)]
    lines += [EMPTY] * (size.rows - 1 - len(lines))
    return [*lines, keys][: size.rows]


def _lines(view: View, size: Size) -> Iterator[Line]:
    given = areas(view, size)
    yield _head(view, size)
    if view.trouble:
        yield (Span(_away(view), "bold red"),)
    if view.fleet is None:
        return
    rows = shown(view)
    if rows:
        layout = laid_out(rows, size.columns)
        top = min(view.top, last_top(view, size))
        yield heading(layout, view.sort)
        yield from (node_line(layout, row, view.now) for row in rows[top : top + given.nodes])
        if len(rows) > 1:
            yield sums_line(layout, rows)
        if size.rows is None:
            yield (*LEGEND, *_TOTAL)
    else:
        yield from _nothing(view)
    yield from _below(view, size, given)


def _below(view: View, size: Size, given: Areas) -> Iterator[Line]:
    assert view.fleet is not None, "there is nothing below what was not seen"
    found = problem_kinds(view.fleet)
    if given.problems:
        more = len(found) - given.problems
        yield _title(
            "PROBLEMS", f"and {count(more, 'more kind')}: see `stocktake nodes`" if more > 0 else "", size.columns
        )
        yield from (_told(trouble) for trouble in found[: given.problems])
    if given.changes:
        yield _title("CHANGES", "" if view.changes else "none yet", size.columns)
        yield from (_changed(change) for change in view.changes[: given.changes])


def _head(view: View, size: Size) -> Line:
    """Say what is looked at, how much there is, and what time it is."""
    rows = view.fleet.rows if view.fleet else ()
    wrong = sum(len(row.problems) for row in rows)
    told = [Span("stocktake watch", "bold")]
    if view.fleet is not None:
        told.append(Span(f"  {count(len(rows), 'node')}, "))
        told.append(Span(count(wrong, "problem"), "yellow" if wrong else ""))
    clock = f"{view.now:%H:%M:%S} UTC"
    told.append(Span(f"  {_ending(clean(view.ledger), size.columns - width_of(told) - len(clock) - 4)}", "dim"))
    return apart(told, [Span(clock)], size.columns)


def _ending(text: str, columns: int) -> str:
    """Cut text at its beginning: of a path the end says more."""
    if len(text) <= columns:
        return text
    return f"…{text[-(columns - 1) :]}" if columns > 1 else ""


def _away(view: View) -> str:
    if view.fleet is None:
        return f"NO LEDGER: {clean(view.trouble)}"
    ago = span((view.now - view.fleet.at).total_seconds())
    return f"LEDGER UNREACHABLE, figures are {ago} old: {clean(view.trouble)}"


def _nothing(view: View) -> Iterator[Line]:
    if view.pattern:
        yield (Span(f"No node has {clean(view.pattern)!r} in its name, host or state."),)
        return
    yield (Span("The ledger has no nodes yet."),)
    yield (Span("`stocktake refresh` takes stock of this machine; `stocktake agent` keeps doing so.", "dim"),)


def _title(text: str, more: str, columns: int) -> Line:
    told = f"── {text} {f'({more}) ' if more else ''}"
    return (Span(told + "─" * max(columns - len(told), 0), "dim"),)


def _changed(change: Change) -> Line:
    node, text = clean(change.node), clean(change.text)
    return (Span(f"{change.at:%H:%M:%S} ", "dim"), Span(f"{node}  ", "bold"), Span(text, change.colour))


def _keys(view: View, size: Size) -> Line:
    """Say what can be pressed, and which part of the nodes is shown."""
    if view.typing:
        return cut(
            (Span("filter: "), Span(f"{clean(view.pattern)}▏", "bold"), Span("  Enter keeps, Esc clears")), size.columns
        )
    rows = len(shown(view))
    given = areas(view, size).nodes
    top = min(view.top, last_top(view, size))
    part = f"{top + 1}-{min(top + given, rows)} of {rows}" if rows > given else ""
    kept = f"  / filter: {clean(view.pattern)}" if view.pattern else "  / filter"
    keys = [Span(f"q quit  j k scroll  s sort: {view.sort}{kept}  ")]
    for legend in ((*LEGEND, *_TOTAL), LEGEND):
        if width_of(keys) + width_of(legend) + len(part) < size.columns:
            keys += legend
            break
    return apart(keys, [Span(part, "bold")], size.columns)


@dataclass(frozen=True, slots=True)
class ProblemKind:
    """Something that is wrong with one node or with many."""

    word: str
    colour: str
    nodes: tuple[str, ...]
    text: str


def problem_kinds(fleet: FleetSnapshot) -> list[ProblemKind]:
    """Gather what is wrong: each kind once, however many nodes have it; the worst first, then the most frequent."""
    found: dict[tuple[int, str, str], list[tuple[str, str]]] = {}
    for row in fleet.rows:
        if row.state.reason:
            found.setdefault((0, row.state.word, COLOURS[row.state.word]), []).append((row.name, row.state.reason))
        if row.disabled and row.service is not None:
            reason = row.service.disabled_reason or "no reason was given"
            found.setdefault((2, "disabled", COLOURS["disabled"]), []).append((row.name, reason))
        for problem in row.problems:
            if problem is row.node.failure or problem.code in _STATES:
                # The state says it.
                continue
            grave = problem.severity == "error"
            key = (0 if grave else 1, f"{problem.severity} {problem.code}", "red" if grave else "yellow")
            found.setdefault(key, []).append((row.name, problem.text))
    ordered = sorted(found.items(), key=lambda one: (one[0][0], -len(one[1]), one[0][1]))
    return [
        ProblemKind(word, colour, tuple(dict.fromkeys(name for name, _ in cases)), cases[0][1])
        for (_rank, word, colour), cases in ordered
    ]


def _told(trouble: ProblemKind) -> Line:
    names = ", ".join(map(clean, trouble.nodes[:_NAMED_MAX]))
    more = len(trouble.nodes) - _NAMED_MAX
    who = f"  {names}{f' and {more} more' if more > 0 else ''}: "
    return (Span(trouble.word, trouble.colour), Span(who, "bold"), Span(clean(trouble.text)))


_PATTERN_MAX = 64
_UP = {"up": -1, "k": -1, "down": 1, "j": 1}
_ENDS = {"home": 0, "g": 0, "end": 1, "G": 1}


def pressed(view: View, key: str, size: Size) -> View | None:
    """
    Give the view after a key; None to end.

    Args:
        key: a letter, or `up`, `down`, `pgup`, `pgdn`, `home`, `end`, `enter`, `escape`, `backspace`.
    """
    if view.typing:
        return _typed(view, key)
    if key == "q":
        return None
    if key in {"/", "escape"}:
        return replace(view, typing=key == "/", pattern="", top=0)
    if key in {"s", "S"}:
        names = list(SORTS)
        step = 1 if key == "s" else -1
        return replace(view, sort=names[(names.index(view.sort) + step) % len(names)], top=0)
    last, page = last_top(view, size), max(areas(view, size).nodes, 1)
    if key in _ENDS:
        return replace(view, top=_ENDS[key] * last)
    lines = _UP.get(key, {"pgup": -page, "pgdn": page, " ": page}.get(key, 0))
    return replace(view, top=max(min(min(view.top, last) + lines, last), 0))


def _typed(view: View, key: str) -> View:
    if key == "enter":
        return replace(view, typing=False)
    if key == "escape":
        return replace(view, typing=False, pattern="", top=0)
    if key == "backspace":
        return replace(view, pattern=view.pattern[:-1], top=0)
    if len(key) == 1 and key.isprintable():
        return replace(view, pattern=(view.pattern + key)[:_PATTERN_MAX], top=0)
    return view
