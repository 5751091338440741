"""
Which of thousands of nodes are shown: filters, and a page of what they leave. Invariant: pure; sums are of all that
match.

A bare-metal node is called by the name that Ironic has for it, where it has one, for its own name is a uuid.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from types import MappingProxyType

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.workload import Service
from stocktake.views.nodes import State, called, machine
from stocktake.views.problems import codes_of

Line = tuple[ComputeNode, Service | None, State]
_NOBODY: Mapping[str, Sequence[Entry]] = MappingProxyType({})


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

    def chosen(self, lines: Iterable[Line], strangers: Mapping[str, Sequence[Entry]] = _NOBODY) -> list[Line]:
        """
        Give those that match, by what they are called.

        Args:
            strangers: by node, guests there that nobody promised it.
        """
        found = [line for line in lines if self._matches(line, strangers.get(line[0].uuid, ()))]
        return sorted(found, key=lambda line: (called(line[0]), line[0].uuid))

    def page(self, lines: Sequence[Line]) -> Sequence[Line]:
        """Give those that are shown at a time, of lines in order."""
        if self.marker is not None:
            lines = [line for line in lines if called(line[0]) > self.marker]
        return lines if self.limit is None else lines[: self.limit]

    def _matches(self, line: Line, strangers: Sequence[Entry]) -> bool:
        node, service, state = line
        off = ("disabled",) if service is not None and service.disabled else ()
        if self.states and not {state.word, *off, *machine(node)}.intersection(self.states):
            return False
        if self.machines and not set(self.machines).intersection(machine(node)):
            return False
        if self.problems and not _has_any(codes_of(node, strangers), self.problems):
            return False
        if not node.traits.issuperset(self.traits):
            return False
        names = (called(node), node.hypervisor_hostname)
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
