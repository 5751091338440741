"""What a key does to the view. Invariant: pure; a key that means nothing changes nothing."""

from dataclasses import replace

from stocktake.cli.watch.frame import Size, View, areas, last_top
from stocktake.cli.watch.table import SORTS

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
