"""The page docs/reference/metrics.md. Invariant: it says what the table says, and a test compares them."""

from collections.abc import Iterator

from stocktake.agent.metrics.table import GROUPS, LIBRARY, ExportedMetric
from stocktake.telemetry import BUCKETS_S

_HEAD = """\
# Metrics

<!-- Made from the code by `make docs`. Change src/stocktake/agent/metrics/table.py. -->

The agent shows them at `/metrics` where [`metrics.listen`](settings.md#metricslisten) says, in Prometheus' text format.
[The how-to](../howto/monitoring.md) has the scrape configuration, alert rules and a dashboard.

A scrape reads what the last pass left: it asks no hypervisor, no database and no Placement. Counters begin with the
agent.

Times are seconds since 1970, so an age is `time() - x`. Memory and disk are in bytes. Capacity, allocated and free
mean what they mean in `stocktake show`. The buckets of the histograms end at {limits} seconds.

"""
_TABLE = "| metric | kind | labels | meaning |\n|---|---|---|---|\n"


def metrics_page() -> str:
    """Write the page, in Markdown."""
    limits = ", ".join(f"{limit:g}" for limit in BUCKETS_S)
    return _HEAD.format(limits=limits) + "\n".join(_parts())


def _parts() -> Iterator[str]:
    for group, metrics in GROUPS.items():
        yield f"## {group}\n\n{_TABLE}{''.join(map(_row, metrics))}"
    rows = "".join(f"| `{name}` | {text} |\n" for name, text in LIBRARY.items())
    yield f"## The process\n\nThese are prometheus-client's own.\n\n| metric | meaning |\n|---|---|\n{rows}"


def _row(metric: ExportedMetric) -> str:
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    return f"| `{metric.name}` | {metric.kind} | {labels} | {metric.text} |\n"
