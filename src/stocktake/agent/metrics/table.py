"""
Every metric: its name, kind, meaning, labels, and where its values come from. Invariant: a metric is written only here.

The scrape, the page docs/reference/metrics.md and the tests of the dashboard and of the alert rules follow from it.
Names follow Prometheus: base units, `_total` for counters, times as seconds since 1970 so that ages are `time() - x`.
"""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal, NamedTuple

from stocktake import __version__, telemetry
from stocktake.accounting.capacity import RESOURCES, ResourceTotals
from stocktake.agent.metrics.life import Life, NodeFigures, health
from stocktake.errors import StocktakeError
from stocktake.telemetry import Counts, Durations

Kind = Literal["gauge", "counter", "histogram", "info"]


@dataclass(frozen=True, slots=True)
class ScrapeView:
    """What one scrape shows: the life of the agent, the counts, and the steady clock's seconds."""

    life: Life
    counts: Counts
    now_s: float


# Values of the labels, and the number; a histogram's is its durations.
Sample = tuple[tuple[str, ...], float | Durations]
Read = Callable[[ScrapeView], Iterable[Sample]]


class ExportedMetric(NamedTuple):
    """One metric; `read` gives its samples, values of labels in the order of `labels`."""

    name: str
    kind: Kind
    text: str
    read: Read
    labels: tuple[str, ...] = ()


def gauge(name: str, text: str, value: Callable[[ScrapeView], float | None]) -> ExportedMetric:
    """Make a gauge without labels; it is absent while its value is None."""
    return ExportedMetric(name, "gauge", text, one(value))


def node_gauge(name: str, text: str, value: Callable[[NodeFigures], float | None]) -> ExportedMetric:
    """Make a gauge of every node; it is absent where its value is None."""

    def read(view: ScrapeView) -> Iterator[Sample]:
        for node, figures in view.life.nodes.items():
            number = value(figures)
            if number is not None:
                yield (node,), number

    return ExportedMetric(name, "gauge", text, read, ("node",))


def counter(name: str, text: str) -> ExportedMetric:
    """Make a counter without labels."""
    return ExportedMetric(name, "counter", text, one(lambda view: view.counts.totals[name, ""]))


def counter_by(label: str, name: str, text: str, known: Iterable[str] = ()) -> ExportedMetric:
    """Make a counter by the value of its label; those known are there from the start, as 0."""
    start = dict.fromkeys(known, 0)

    def read(view: ScrapeView) -> Iterator[Sample]:
        counted = {value: number for (metric, value), number in view.counts.totals.items() if metric == name}
        yield from (((value,), number) for value, number in sorted({**start, **counted}.items()))

    return ExportedMetric(name, "counter", text, read, (label,))


def one(value: Callable[[ScrapeView], float | Durations | None]) -> Read:
    """Read a single sample, if there is one."""

    def read(view: ScrapeView) -> Iterator[Sample]:
        number = value(view)
        if number is not None:
            yield (), number

    return read


def build(_view: ScrapeView) -> Iterator[Sample]:
    """Say which program this is."""
    yield (__version__, platform.python_version()), 1


def parts(view: ScrapeView) -> Iterator[Sample]:
    """Say which parts answer."""
    yield from (((part,), not wrong) for part, wrong in sorted(view.life.parts.items()))


def steps(view: ScrapeView) -> Iterator[Sample]:
    """Give the durations of the steps."""
    yield from (((step,), durations) for step, durations in sorted(view.counts.steps.items()))


def node_info(view: ScrapeView) -> Iterator[Sample]:
    """Say which nodes there are in the ledger."""
    yield from (((name, node.uuid, node.hypervisor_type), 1) for name, node in view.life.nodes.items() if node.uuid)


def holders(view: ScrapeView) -> Iterator[Sample]:
    """Count the holders of each kind."""
    for name, node in view.life.nodes.items():
        yield from (((name, kind), number) for kind, number in node.holders.items())


def problems(view: ScrapeView) -> Iterator[Sample]:
    """Count the problems of each kind."""
    for name, node in view.life.nodes.items():
        yield from (((name, *which), number) for which, number in node.wrong.items())


def error_codes(kind: type[StocktakeError] = StocktakeError) -> Iterator[str]:
    """List the codes of all errors that an agent may meet."""
    if kind.__module__ == StocktakeError.__module__:
        yield kind.__name__
    for below in kind.__subclasses__():
        yield from error_codes(below)


_MIB = 1024**2
_GIB = 1024**3

AGENT = (
    ExportedMetric(
        "stocktake_build_info", "info", "Which program this is; always 1.", build, labels=("version", "python")
    ),
    gauge(
        "stocktake_agent_start_time_seconds",
        "When the agent started, in seconds since 1970.",
        lambda view: view.life.started_at_s,
    ),
    gauge(
        "stocktake_agent_healthy",
        "Whether /healthz says 200: passes complete in time, the ledger and the driver are there.",
        lambda view: health(view.life, view.now_s).healthy,
    ),
    ExportedMetric(
        "stocktake_part_up",
        "gauge",
        "Whether the driver, the ledger and placement answered the last request.",
        parts,
        labels=("part",),
    ),
    counter_by("code", telemetry.ERRORS, "Errors that the agent met, by their code (errors.md).", error_codes()),
)

PASSES = (
    counter_by(
        "outcome",
        telemetry.PASSES,
        "Passes by how they ended. fine; partial: some nodes could not be refreshed or reported; failed: it broke off.",
    ),
    gauge(
        "stocktake_pass_interval_seconds",
        "The time between passes (update_resources_interval); absent if the periodic pass is off.",
        lambda view: view.life.interval_s,
    ),
    ExportedMetric(
        "stocktake_pass_duration_seconds", "histogram", "How long passes took.", one(lambda view: view.counts.passes)
    ),
    ExportedMetric(
        "stocktake_pass_step_duration_seconds",
        "histogram",
        "How long the steps of passes took: read, list, audit, verify, tally, save, report.",
        steps,
        labels=("step",),
    ),
    gauge("stocktake_last_pass_duration_seconds", "How long the last pass took.", lambda view: view.life.took_s),
    gauge(
        "stocktake_last_pass_timestamp_seconds",
        "When the last pass ended, however it did, in seconds since 1970.",
        lambda view: view.life.ended_at_s,
    ),
    gauge(
        "stocktake_last_completed_pass_timestamp_seconds",
        "When a pass last went through all its steps, in seconds since 1970.",
        lambda view: view.life.completed_at_s,
    ),
)

EVENTS = (
    counter(telemetry.EVENTS, "Events that the hypervisor sent."),
    counter(telemetry.COALESCED, "Events that asked for a pass that was due already."),
    counter(telemetry.CACHE_CHECKS, "Comparisons of the cache with the hypervisor."),
    counter(telemetry.CACHE_LIES, "Cached facts that turned out to be wrong: a lost event, or a bug."),
)

WRITES = (
    counter_by(
        "outcome",
        telemetry.REQUESTS,
        "Requests to Placement by how they were answered: ok, conflict (409), refused (any other 4xx), unreachable "
        "(5xx or no answer).",
    ),
    counter(telemetry.SAVES, "Records saved in the ledger."),
    counter(telemetry.CONFLICTS, "Records that another writer had changed meanwhile, so that they were tallied again."),
    counter(telemetry.DELETED, "Orphan compute nodes that were deleted: the driver no longer reported them."),
)

NODES = (
    ExportedMetric(
        "stocktake_node_info",
        "info",
        "Which nodes there are; always 1.",
        node_info,
        labels=("node", "uuid", "hypervisor"),
    ),
    node_gauge(
        "stocktake_node_stale",
        "1 if the last try to refresh the node failed: its figures are older than the last pass.",
        lambda node: node.stale,
    ),
    node_gauge(
        "stocktake_node_refreshed_timestamp_seconds",
        "When this agent last refreshed the node well, in seconds since 1970.",
        lambda node: node.refreshed_at_s,
    ),
    node_gauge(
        "stocktake_node_updated_timestamp_seconds",
        "When the node's record last changed, in seconds since 1970; that of a quiet node is old.",
        lambda node: node.updated_at_s,
    ),
    ExportedMetric(
        "stocktake_node_problems",
        "gauge",
        "What is wrong with the node, by code and severity (warning, error): the failed refresh too, also the first.",
        problems,
        labels=("node", "code", "severity"),
    ),
    node_gauge(
        "stocktake_node_running_guests",
        "Guests that run or are paused, as the hypervisor says; absent where it can't list guests.",
        lambda node: node.running_guests,
    ),
    ExportedMetric(
        "stocktake_node_holders",
        "gauge",
        "Who has a share of the node, by kind: instance, migration, orphan, misplaced.",
        holders,
        labels=("node", "kind"),
    ),
)


def _resource_gauges(name: str, prefix: str, unit: str = "", factor: int = 1) -> tuple[ExportedMetric, ...]:
    """Make the gauges of one resource, in base units."""
    title = RESOURCES[name].title

    def of(figure: str, text: str, value: Callable[[ResourceTotals], float], *, always: bool = False) -> ExportedMetric:
        def read(node: NodeFigures) -> float | None:
            one = node.resources.get(name)
            return None if one is None or not (always or node.holders) else value(one)

        return node_gauge(f"{prefix}{figure}", text, read)

    return (
        of(unit, f"Total {title} of the node.", lambda one: one.total * factor, always=True),
        of(f"_reserved{unit}", f"What is reserved of {title} for the host.", lambda one: one.reserved * factor),
        of("_allocation_ratio", f"How often {title} may be given out.", lambda one: one.ratio, always=True),
        of(f"_capacity{unit}", f"Capacity: (total - reserved) * ratio of {title}.", lambda one: one.capacity * factor),
        of(
            f"_allocated{unit}",
            f"What instances, moves and unmanaged guests were given of {title}.",
            lambda one: one.allocated * factor,
        ),
        of(
            f"_free{unit}",
            f"Capacity less allocated of {title}; below 0 where the node is over-allocated.",
            lambda one: one.free * factor,
        ),
    )


VCPUS = (*_resource_gauges("vcpus", "stocktake_node_vcpus"), *_resource_gauges("pcpus", "stocktake_node_pcpus"))
MEMORY = _resource_gauges("memory_mb", "stocktake_node_memory", "_bytes", _MIB)
DISK = (
    *_resource_gauges("local_gb", "stocktake_node_disk", "_bytes", _GIB),
    node_gauge(
        "stocktake_node_disk_available_least_bytes",
        "Disk that is free if thin images grow to what they may; absent where the driver does not say.",
        lambda node: None if node.disk_available_least is None else node.disk_available_least * _GIB,
    ),
)

GROUPS: Mapping[str, tuple[ExportedMetric, ...]] = {
    "The agent": AGENT,
    "Passes": PASSES,
    "Events and the cache": EVENTS,
    "Placement and the ledger": WRITES,
    "Nodes": NODES,
    "CPUs": VCPUS,
    "Memory": MEMORY,
    "Disk": DISK,
}

METRICS: Mapping[str, ExportedMetric] = {metric.name: metric for metric in chain.from_iterable(GROUPS.values())}

# What prometheus-client itself tells of the process, where there is a /proc.
LIBRARY: Mapping[str, str] = {
    "process_cpu_seconds_total": "CPU time that the agent took.",
    "process_max_fds": "How many files it may have open.",
    "process_open_fds": "How many files it has open.",
    "process_resident_memory_bytes": "Memory that it holds.",
    "process_start_time_seconds": "When its process started, in seconds since 1970.",
    "process_virtual_memory_bytes": "Its address space.",
}
