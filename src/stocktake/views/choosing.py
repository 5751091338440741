"""
Which of thousands of nodes are shown: filters, and a page of what they leave. Law: pure; sums are of all that match.

A bare-metal node is called by the name that Ironic has for it, where it has one, for its own name is a uuid.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from stocktake.model.books import ComputeNode
from stocktake.model.workload import Service
from stocktake.views.state import State

Line = tuple[ComputeNode, Service | None, State]


@dataclass(frozen=True, slots=True)
class Choice:
    """
    Which nodes are wanted; nothing given wants all.

    Attributes:
        states: any of these: the program's words, or a machine's (`available`, `clean failed`, `maintenance`).
        problems: a problem of any of these codes, patterns such as `placement-*`.
        traits: all of these.
        name: a pattern of names such as `rack7-*`.
        limit: at most so many, those after the one called `marker`.
    """

    states: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    traits: tuple[str, ...] = ()
    name: str | None = None
    limit: int | None = None
    marker: str | None = None

    def chosen(self, lines: Iterable[Line]) -> list[Line]:
        """Give those that match, by what they are called."""
        found = [line for line in lines if self._matches(line[0], line[2])]
        return sorted(found, key=lambda line: (called(line[0]), line[0].uuid))

    def page(self, lines: Sequence[Line]) -> Sequence[Line]:
        """Give those that are shown at a time, of lines in order."""
        if self.marker is not None:
            lines = [line for line in lines if called(line[0]) > self.marker]
        return lines if self.limit is None else lines[: self.limit]

    def _matches(self, node: ComputeNode, state: State) -> bool:
        if self.states and not {state.word, *machine(node)}.intersection(self.states):
            return False
        codes = [problem.code for problem in (*node.problems, *((node.failure,) if node.failure else ()))]
        if self.problems and not any(fnmatchcase(code, asked) for code in codes for asked in self.problems):
            return False
        if not node.traits.issuperset(self.traits):
            return False
        names = (called(node), node.hypervisor_hostname)
        return self.name is None or any(fnmatchcase(name.lower(), self.name.lower()) for name in names)


def called(node: ComputeNode) -> str:
    """Say what people call a node."""
    return str(node.stats.get("name") or node.hypervisor_hostname)


def machine(node: ComputeNode) -> tuple[str, ...]:
    """Say what a bare-metal node does, is switched to, and whether it is maintained; nothing of another node."""
    state = node.stats.get("provision_state")
    if state is None:
        return ()
    power = str(node.stats.get("power_state") or "power unknown").removeprefix("power ")
    return (str(state), power, *(("maintenance",) if node.stats.get("maintenance") else ()))


def counted(words: Iterable[str]) -> str:
    """Count words, the most frequent first: `700 active, 12 available`."""
    counts = sorted(Counter(words).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{number:,} {word}" for word, number in counts)
