"""
Which of thousands of nodes are shown: filters, and a page of what they leave. Invariant: pure; sums are of all that
match.

A bare-metal node is called by the name that Ironic has for it, where it has one, for its own name is a uuid.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from stocktake.views.nodes import NodeView, machine


@dataclass(frozen=True, slots=True)
class Choice:
    """
    Which nodes are wanted; nothing given wants all.

    Attributes:
        states: any of these: the program's words, `disabled`, or a machine's (`available`, `maintenance`).
        machines: any of these words of a machine alone.
        problems: a problem of any of these codes, patterns such as `placement-*`; `any` is any, `none` is none.
        traits: all of these.
        name: a pattern of names such as `rack7-*`, whatever the case of letters.
        limit: at most so many, those after the one called `marker`.
    """

    states: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    name: str | None = None
    limit: int | None = None
    marker: str | None = None

    def chosen(self, views: Iterable[NodeView]) -> list[NodeView]:
        """Give those that match, by what they are called."""
        found = [view for view in views if self._matches(view)]
        return sorted(found, key=lambda view: (view.name, view.node.uuid))

    def page(self, views: Sequence[NodeView]) -> Sequence[NodeView]:
        """Give those that are shown at a time, of nodes in order."""
        if self.marker is not None:
            views = [view for view in views if view.name > self.marker]
        return views if self.limit is None else views[: self.limit]

    def _matches(self, view: NodeView) -> bool:
        node = view.node
        disabled = ("disabled",) if view.disabled else ()
        if self.states and not {view.state.word, *disabled, *machine(node)}.intersection(self.states):
            return False
        if self.machines and not set(self.machines).intersection(machine(node)):
            return False
        if self.problems and not _has_any([problem.code for problem in view.problems], self.problems):
            return False
        if not node.traits.issuperset(self.traits):
            return False
        names = (view.name, node.hypervisor_hostname)
        return self.name is None or any(is_like(name.lower(), self.name.lower()) for name in names)


def is_like(text: str, pattern: str) -> bool:
    """
    Match a pattern of a shell: `*` any letters, `?` one, `[ab-d]` one of these, `[!ab]` one of none of these.

    Takes as many steps as text and pattern are long, multiplied, whatever they are: who asks may mean no good, and a
    regular expression can be made to take for ever.
    """
    signs = _signs(pattern)
    at = sign = 0
    # Where the last `*` stands, and how far it reaches.
    star, reach = -1, 0
    while at < len(text):
        if sign < len(signs) and signs[sign] == "*":
            star, reach = sign, at
            sign += 1
        elif sign < len(signs) and _is_one(text[at], signs[sign]):
            at, sign = at + 1, sign + 1
        elif star >= 0:
            reach += 1
            at, sign = reach, star + 1
        else:
            return False
    return all(one == "*" for one in signs[sign:])


@lru_cache(maxsize=64)
def _signs(pattern: str) -> tuple[str, ...]:
    """Divide a pattern into letters and sets; a bracket that is not closed is a letter."""
    signs: list[str] = []
    at = 0
    while at < len(pattern):
        # A bracket that comes first in a set is in it.
        first = at + (2 if pattern.startswith("[!", at) else 1)
        end = pattern.find("]", first + 1) if pattern[at] == "[" else -1
        end = at if end < 0 else end
        signs.append(pattern[at : end + 1])
        at = end + 1
    return tuple(signs)


def _is_one(letter: str, sign: str) -> bool:
    if sign == "?":
        return True
    if len(sign) == 1:
        return letter == sign
    within, other = (sign[2:-1], True) if sign[1] == "!" else (sign[1:-1], False)
    at = 0
    found = False
    while at < len(within):
        if within[at + 1 : at + 2] == "-" and at + 2 < len(within):
            found = found or within[at] <= letter <= within[at + 2]
            at += 3
        else:
            found = found or within[at] == letter
            at += 1
    return found != other


def _has_any(codes: Sequence[str], asked: Sequence[str]) -> bool:
    if "none" in asked and not codes:
        return True
    patterns = ["*" if one == "any" else one for one in asked]
    return any(is_like(code, pattern) for code in codes for pattern in patterns)


def counted(words: Iterable[str]) -> str:
    """Count words, the most frequent first: `700 active, 12 available`."""
    counts = sorted(Counter(words).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{number:,} {word}" for word, number in counts)
