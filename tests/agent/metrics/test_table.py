"""The table of metrics: names as Prometheus wants them, and no value that is left out or made up."""

import re

import pytest

from stocktake import errors, telemetry
from stocktake.agent.metrics.table import GROUPS, LIBRARY, METRICS, ExportedMetric, ScrapeView, error_codes
from stocktake.telemetry import Durations
from tests.agent.metrics.making import a_view, figures

UNITS = ("_seconds", "_bytes", "_ratio", "_info", "_total")
ABOUT_NODES = [metric.name for metric in METRICS.values() if "node" in metric.labels]


def values_of(metric: ExportedMetric, view: ScrapeView) -> dict[tuple[str, ...], float]:
    return {
        labels: number.sum_s if isinstance(number, Durations) else float(number) for labels, number in metric.read(view)
    }


def test_given_the_table_then_no_name_is_there_twice() -> None:
    names = [metric.name for group in GROUPS.values() for metric in group]
    assert len(names) == len(set(names)) == len(METRICS)
    assert not METRICS.keys() & LIBRARY.keys()


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_given_a_metric_then_its_name_says_its_kind_and_unit_and_its_text_is_a_sentence(metric: ExportedMetric) -> None:
    assert re.fullmatch(r"stocktake_[a-z]+(_[a-z]+)*", metric.name)
    assert metric.name.endswith("_total") == (metric.kind == "counter")
    assert metric.name.endswith("_info") == (metric.kind == "info")
    assert metric.kind != "histogram" or metric.name.endswith("_seconds")
    assert not re.search(r"_(mb|gb|ms|kb|mib|gib)\b", metric.name)
    assert metric.text[0].isupper() or metric.text[0].isdigit()
    assert metric.text.endswith(".")


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_given_something_of_everything_when_read_then_every_metric_has_a_sample_with_all_its_labels(
    metric: ExportedMetric,
) -> None:
    samples = list(metric.read(a_view()))
    assert samples
    assert all(len(labels) == len(metric.labels) for labels, _ in samples)


def test_given_counts_then_each_has_its_metric() -> None:
    counted = {name for name, _ in telemetry.Telemetry().counts().totals} | {telemetry.ERRORS}
    assert counted == {metric.name for metric in METRICS.values() if metric.kind == "counter"}


def test_given_a_node_when_read_then_sizes_are_in_base_units_and_free_may_be_below_zero() -> None:
    view = a_view(one=figures())
    read = {name: values_of(METRICS[name], view).get(("one",)) for name in ABOUT_NODES}
    mib, gib = 1024**2, 1024**3
    assert {name.removeprefix("stocktake_node_"): value for name, value in read.items() if value is not None} == {
        "stale": 0,
        "refreshed_timestamp_seconds": 1_700_000_060,
        "updated_timestamp_seconds": 1_700_000_000,
        "running_guests": 3,
        "vcpus": 16,
        "vcpus_reserved": 1,
        "vcpus_allocation_ratio": 4,
        "vcpus_capacity": 60,
        "vcpus_allocated": 63,
        "vcpus_free": -3,
        "pcpus": 16,
        "pcpus_reserved": 1,
        "pcpus_allocation_ratio": 4,
        "pcpus_capacity": 60,
        "pcpus_allocated": 63,
        "pcpus_free": -3,
        "memory_bytes": 16 * mib,
        "memory_reserved_bytes": 1 * mib,
        "memory_allocation_ratio": 4,
        "memory_capacity_bytes": 60 * mib,
        "memory_allocated_bytes": 63 * mib,
        "memory_free_bytes": -3 * mib,
        "disk_bytes": 16 * gib,
        "disk_reserved_bytes": 1 * gib,
        "disk_allocation_ratio": 4,
        "disk_capacity_bytes": 60 * gib,
        "disk_allocated_bytes": 63 * gib,
        "disk_free_bytes": -3 * gib,
        "disk_available_least_bytes": -11 * gib,
    }
    assert values_of(METRICS["stocktake_node_holders"], view)["one", "orphan"] == 1
    assert values_of(METRICS["stocktake_node_problems"], view) == {("one", "cell-overfull", "warning"): 2}


NOT_YET = ("reserved", "capacity", "allocated", "free")


def test_given_what_is_not_known_when_read_then_there_is_no_sample_and_no_zero() -> None:
    unknown = figures(holders={}, problems={}, running_guests=None, disk_available_least=None, refreshed_at_s=None)
    view = a_view(one=unknown)
    absent = {name for name in ABOUT_NODES if not values_of(METRICS[name], view)}
    assert {name.removeprefix("stocktake_node_") for name in absent} == {
        "refreshed_timestamp_seconds",
        "problems",
        "holders",
        "running_guests",
        *(f"{name}_{figure}" for name in ("vcpus", "pcpus") for figure in NOT_YET),
        *(f"{name}_{figure}_bytes" for name in ("memory", "disk") for figure in NOT_YET),
        "disk_available_least_bytes",
    }


def test_given_parts_when_read_then_one_is_up_unless_something_is_wrong_and_the_health_follows() -> None:
    view = a_view()
    assert values_of(METRICS["stocktake_part_up"], view) == {("driver",): 1, ("ledger",): 0, ("placement",): 1}
    assert values_of(METRICS["stocktake_agent_healthy"], view) == {(): 0}


def test_given_errors_when_read_then_those_there_are_begin_at_zero_and_others_are_counted_too() -> None:
    read = values_of(METRICS["stocktake_errors_total"], a_view())
    assert {labels[0]: number for labels, number in read.items() if number} == {"LedgerError": 1, "OfSomebodyElse": 1}
    assert read["PlacementConflict",] == 0
    assert set(error_codes()) == {kind.__name__ for kind in vars(errors).values() if is_error(kind)}


def is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, errors.StocktakeError)
