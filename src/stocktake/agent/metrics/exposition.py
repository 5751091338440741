"""
The scrape: the table's samples in Prometheus' text format. Invariant: one metric is written after another, never all at
once.

Ten thousand nodes have a quarter of a million samples, which would take many times the memory of their text.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from stocktake.agent.metrics.table import METRICS, ExportedMetric, ScrapeView
from stocktake.telemetry import BUCKETS_S, Durations

_LIMITS = (*(str(limit) for limit in BUCKETS_S), "+Inf")
# A registry of our own: the library's holds what other packages put there.
_PROCESS = CollectorRegistry(auto_describe=False)
ProcessCollector(registry=_PROCESS)


class _Alone(Collector):
    """A collector of one family."""

    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        """Give it."""
        return (self._family,)


def exposition(view: ScrapeView) -> Iterator[bytes]:
    """Write the metrics, then those of the process."""
    for metric in METRICS.values():
        yield generate_latest(_Alone(family_of(metric, view)))
    yield generate_latest(_PROCESS)


def family_of(metric: ExportedMetric, view: ScrapeView) -> Family:
    """Make the library's form of a metric and its samples."""
    family = Family(metric.name.removesuffix("_total").removesuffix("_info"), metric.text, metric.kind)
    for values, number in metric.read(view):
        labels = dict(zip(metric.labels, values, strict=True))
        if isinstance(number, Durations):
            _add_histogram(family, labels, number)
        else:
            family.add_sample(metric.name, labels, number)
    return family


def _add_histogram(family: Family, labels: dict[str, str], durations: Durations) -> None:
    below = list(accumulate(durations.counts))
    for limit, number in zip(_LIMITS, below, strict=True):
        family.add_sample(f"{family.name}_bucket", {**labels, "le": limit}, number)
    family.add_sample(f"{family.name}_count", labels, below[-1])
    family.add_sample(f"{family.name}_sum", labels, durations.sum_s)
