"""What the dashboard and the alert rules ask of Prometheus."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from stocktake.agent.metrics.table import LIBRARY, METRICS

ROOT = Path(__file__).parents[2]
RULES = ROOT / "packaging" / "prometheus" / "stocktake.rules.yml"
DASHBOARD = ROOT / "packaging" / "grafana" / "stocktake.json"

# Prometheus' own, of every job.
_OTHERS = {"up"}
_NAME = re.compile(r"\b(?:stocktake|process)_[a-z_]+\b|\bup\b")


def rules() -> dict[str, Mapping[str, Any]]:
    """Read the alerts by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def dashboard() -> Mapping[str, Any]:
    """Read the dashboard."""
    read: Mapping[str, Any] = json.loads(DASHBOARD.read_text())
    return read


def panels() -> Iterator[Mapping[str, Any]]:
    """Give the panels of the dashboard, those in rows too."""
    for panel in dashboard()["panels"]:
        yield panel
        yield from panel.get("panels", ())


def expressions() -> dict[str, str]:
    """Give every query of the dashboard by panel and letter, with values for Grafana's variables."""
    return {
        f"{panel['title']} {target['refId']} ({panel['id']})": filled(target["expr"])
        for panel in panels()
        for target in panel.get("targets", ())
    }


def filled(expression: str) -> str:
    """Put in what Grafana puts in when everything is selected."""
    for variable, value in {"$instance": ".*", "$node": ".*", "$__rate_interval": "1m"}.items():
        expression = expression.replace(variable, value)
    return expression


def unknown(expression: str) -> set[str]:
    """Give the metrics that a query names and that there are not."""
    known = METRICS.keys() | LIBRARY.keys() | _OTHERS
    for metric in METRICS.values():
        if metric.kind == "histogram":
            known |= {f"{metric.name}_{part}" for part in ("bucket", "count", "sum")}
            known -= {metric.name}
    return set(_NAME.findall(expression)) - known
