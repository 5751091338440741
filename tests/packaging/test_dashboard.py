"""The dashboard: JSON that Grafana can read, and queries that Prometheus can answer."""

import re
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from stocktake.agent.metrics.table import METRICS
from tests.packaging.queries import dashboard, expressions, panels, unknown

WIDTH = 24


def test_given_the_dashboard_then_every_panel_has_a_number_of_its_own_a_title_and_what_it_is_about() -> None:
    ids = [panel["id"] for panel in panels()]
    assert len(ids) == len(set(ids))
    assert all(panel["title"] for panel in panels())
    assert all(panel["description"] for panel in panels() if panel["type"] != "row")


def test_given_the_dashboard_then_no_panel_covers_another() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= WIDTH for place in places)
    assert [pair for pair in combinations(places, 2) if overlap(*pair)] == []


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    down = one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]
    return across and down


def test_given_the_dashboard_then_it_takes_whatever_prometheus_the_reader_has() -> None:
    sources = {str(source) for source in found(dashboard(), "datasource")}
    assert sources == {"{'type': 'prometheus', 'uid': '${datasource}'}"}


def found(value: Any, key: str) -> list[Any]:
    """Give everything under a key, however deep."""
    if isinstance(value, list):
        return [one for part in value for one in found(part, key)]
    if isinstance(value, dict):
        mine = [value[key]] if key in value else []
        return mine + [one for part in value.values() for one in found(part, key)]
    return []


def test_given_the_dashboard_then_its_variables_are_those_that_it_uses() -> None:
    names = {one["name"] for one in dashboard()["templating"]["list"]}
    used = {name for text in texts() for name in re.findall(r"\$\{?([a-z]+)", text)}
    assert used == names


def texts() -> list[str]:
    queries = [target["expr"] for panel in panels() for target in panel.get("targets", ())]
    asked = [one["definition"] for one in dashboard()["templating"]["list"] if "definition" in one]
    return [*queries, *asked, *(source["uid"] for source in found(dashboard(), "datasource"))]


@pytest.mark.parametrize("where", expressions())
def test_given_a_query_then_the_metrics_it_asks_for_are_there(where: str) -> None:
    assert unknown(expressions()[where]) == set()


def test_given_the_variables_then_the_metrics_they_ask_for_are_there_with_their_labels() -> None:
    for one in dashboard()["templating"]["list"]:
        if one["type"] == "query":
            name, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", one["definition"]).groups()  # type: ignore[union-attr]
            assert label in {*METRICS[name].labels, "instance"}


def test_given_the_queries_when_promtool_reads_them_then_all_are_promql(tmp_path: Path) -> None:
    recorded = [{"record": f"query:{number}", "expr": text} for number, text in enumerate(expressions().values())]
    file = tmp_path / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
