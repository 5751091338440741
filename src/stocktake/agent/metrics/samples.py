"""
What a metric's samples are read from, and how. Invariant: pure; no sample where there is no value.
"""

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from stocktake import __version__
from stocktake.agent.metrics.figures import Life, NodeFigures
from stocktake.errors import StocktakeError
from stocktake.telemetry import Counts, Durations

Kind = Literal["gauge", "counter", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class View:
    """What one scrape shows: the life of the agent, the counts, and the steady clock's seconds."""

    life: Life
    counts: Counts
    now_s: float


# Values of the labels, and the number; a histogram's is its durations.
Sample = tuple[tuple[str, ...], float | Durations]
Read = Callable[[View], Iterable[Sample]]


class Metric(NamedTuple):
    """One metric; `read` gives its samples, values of labels in the order of `labels`."""

    name: str
    kind: Kind
    text: str
    read: Read
    labels: tuple[str, ...] = ()


def gauge(name: str, text: str, value: Callable[[View], float | None]) -> Metric:
    """Make a gauge without labels; it is absent while its value is None."""
    return Metric(name, "gauge", text, one(value))


def node_gauge(name: str, text: str, value: Callable[[NodeFigures], float | None]) -> Metric:
    """Make a gauge of every node; it is absent where its value is None."""

    def read(view: View) -> Iterator[Sample]:
        for node, figures in view.life.nodes.items():
            number = value(figures)
            if number is not None:
                yield (node,), number

    return Metric(name, "gauge", text, read, ("node",))


def counter(name: str, text: str) -> Metric:
    """Make a counter without labels."""
    return Metric(name, "counter", text, one(lambda view: view.counts.totals[name, ""]))


def counter_by(label: str, name: str, text: str, known: Iterable[str] = ()) -> Metric:
    """Make a counter by the value of its label; those known are there from the start, as 0."""
    start = dict.fromkeys(known, 0)

    def read(view: View) -> Iterator[Sample]:
        counted = {value: number for (metric, value), number in view.counts.totals.items() if metric == name}
        yield from (((value,), number) for value, number in sorted({**start, **counted}.items()))

    return Metric(name, "counter", text, read, (label,))


def one(value: Callable[[View], float | Durations | None]) -> Read:
    """Read a single sample, if there is one."""

    def read(view: View) -> Iterator[Sample]:
        number = value(view)
        if number is not None:
            yield (), number

    return read


def build(_view: View) -> Iterator[Sample]:
    """Say which program this is."""
    yield (__version__, platform.python_version()), 1


def parts(view: View) -> Iterator[Sample]:
    """Say which parts answer."""
    yield from (((part,), not wrong) for part, wrong in sorted(view.life.parts.items()))


def steps(view: View) -> Iterator[Sample]:
    """Give the durations of the steps."""
    yield from (((step,), durations) for step, durations in sorted(view.counts.steps.items()))


def node_info(view: View) -> Iterator[Sample]:
    """Say which nodes there are."""
    yield from (((name, node.uuid, node.hypervisor_type), 1) for name, node in view.life.nodes.items())


def holders(view: View) -> Iterator[Sample]:
    """Count the holders of each kind."""
    for name, node in view.life.nodes.items():
        yield from (((name, kind), number) for kind, number in node.holders.items())


def problems(view: View) -> Iterator[Sample]:
    """Count the problems of each kind."""
    for name, node in view.life.nodes.items():
        yield from (((name, *which), number) for which, number in node.problems.items())


def error_codes(kind: type[StocktakeError] = StocktakeError) -> Iterator[str]:
    """List the codes of all errors that an agent may meet."""
    if kind.__module__ == StocktakeError.__module__:
        yield kind.__name__
    for below in kind.__subclasses__():
        yield from error_codes(below)
