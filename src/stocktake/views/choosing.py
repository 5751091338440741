"""
Which of thousands of nodes are shown: filters, and a page of what they leave. Invariant: pure; sums are of all that
match.

A bare-metal node is called by the name that Ironic has for it, where it has one, for its own name is a uuid.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

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
        return self.name is None or any(fnmatchcase(name.lower(), self.name.lower()) for name in names)


def _has_any(codes: Sequence[str], asked: Sequence[str]) -> bool:
    if "none" in asked and not codes:
        return True
    patterns = ["*" if one == "any" else one for one in asked]
    return any(fnmatchcase(code, pattern) for code in codes for pattern in patterns)


def counted(words: Iterable[str]) -> str:
    """Count words, the most frequent first: `700 active, 12 available`."""
    counts = sorted(Counter(words).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{number:,} {word}" for word, number in counts)
