"""The text of a scrape: what Prometheus' own tools make of it."""

import subprocess

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from stocktake.agent.metrics.exposition import exposition
from stocktake.agent.metrics.table import LIBRARY, METRICS, ScrapeView
from stocktake.telemetry import BUCKETS_S
from tests.agent.metrics.making import a_view, figures


def text_of(view: ScrapeView) -> str:
    return b"".join(exposition(view)).decode()


def test_given_a_scrape_when_parsed_then_it_has_the_metrics_of_the_table_and_of_the_process_and_no_other() -> None:
    families = {family.name: family for family in text_string_to_metric_families(text_of(a_view()))}
    wanted = {name.removesuffix("_total") for name in (*METRICS, *LIBRARY)}
    assert families.keys() == wanted
    told = {name: family.documentation for name, family in families.items() if name.startswith("stocktake_")}
    assert told == {metric.name.removesuffix("_total"): metric.text for metric in METRICS.values()}
    kinds = {metric.name.removesuffix("_total"): metric.kind.replace("info", "gauge") for metric in METRICS.values()}
    assert {name: families[name].type for name in kinds} == kinds


def test_given_a_scrape_when_promtool_looks_then_it_finds_nothing_to_say() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text_of(a_view()), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_given_durations_when_written_then_buckets_add_up() -> None:
    families = {family.name: family for family in text_string_to_metric_families(text_of(a_view()))}
    samples = families["stocktake_pass_step_duration_seconds"].samples
    audit = [one for one in samples if one.labels["step"] == "audit"]
    buckets = {float(one.labels["le"]): one.value for one in audit if one.name.endswith("_bucket")}
    assert set(buckets) == {*BUCKETS_S, float("inf")}
    assert {limit for limit, number in buckets.items() if number} == {limit for limit in buckets if limit >= 0.4}
    assert [one.value for one in audit if one.name.endswith(("_count", "_sum"))] == [1, 0.4]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_given_any_name_of_a_node_when_written_then_it_comes_back(name: str) -> None:
    families = text_string_to_metric_families(text_of(a_view(**{name: figures()})))
    (sample,) = next(family for family in families if family.name == "stocktake_node_vcpus").samples
    assert (sample.labels, sample.value) == ({"node": name}, 16)
