"""An agent's metrics and health, as Prometheus and a health check get them."""

import json
import urllib.error
import urllib.request
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.system.running import Agent

TIMEOUT_S = 150


class Scrape:
    """One scrape: its text, and its samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._samples: dict[str, list[tuple[dict[str, str], float]]] = {}
        for family in text_string_to_metric_families(text):
            for one in family.samples:
                self._samples.setdefault(one.name, []).append((one.labels, one.value))

    @property
    def metrics(self) -> set[str]:
        """Names of all metrics, those without samples too."""
        return {line.split()[2] for line in self.text.splitlines() if line.startswith("# TYPE ")}

    def value(self, name: str, **labels: str) -> float | None:
        """Give the value of the only sample with these labels; None if there is none."""
        found = [value for there, value in self._samples.get(name, []) if there.items() >= labels.items()]
        assert len(found) < 2, f"{name} {labels}: {found}"
        return found[0] if found else None

    def labels(self, name: str) -> list[dict[str, str]]:
        """Give the labels of a metric's samples."""
        return [labels for labels, _ in self._samples.get(name, [])]


def url_of(agent: Agent) -> str:
    """Wait until the agent says where it shows itself; gives the server's root."""
    agent.until_said("metrics are served on")
    line = next(line for line in reversed(agent.lines) if "metrics are served on" in line)
    return line.rpartition(" ")[2].removesuffix("/metrics")


def scrape(agent: Agent) -> Scrape:
    """Get `/metrics`."""
    with urllib.request.urlopen(f"{url_of(agent)}/metrics", timeout=TIMEOUT_S) as answer:
        return Scrape(answer.read().decode())


def health(agent: Agent) -> tuple[int, Any]:
    """Get `/healthz`: its status and its JSON."""
    try:
        with urllib.request.urlopen(f"{url_of(agent)}/healthz", timeout=TIMEOUT_S) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def reasons(agent: Agent) -> set[str]:
    """Give the codes of the reasons why it is not healthy."""
    return {reason["code"] for reason in health(agent)[1]["reasons"]}
