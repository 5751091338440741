"""
A private Prometheus, the real one: it scrapes what the test names every second, with the repository's alert rules.

    with private_prometheus(directory, ["127.0.0.1:9809"]) as prometheus:
        prometheus.query("up")
"""

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.placement import free_port

START_TIMEOUT_S = 150.0
RULES = Path(__file__).parents[2] / "packaging" / "prometheus" / "stocktake.rules.yml"


@dataclass(frozen=True, slots=True)
class Prometheus:
    """A running server."""

    url: str

    def query(self, expression: str) -> list[Any]:
        """Ask for the values of an expression now."""
        result: list[Any] = self._get("query", query=expression)["result"]
        return result

    def rules(self) -> list[Any]:
        """Give the alert rules with their health and state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, what: str, **parameters: str) -> Any:
        url = f"{self.url}/api/v1/{what}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]


@contextlib.contextmanager
def private_prometheus(folder: Path, targets: Sequence[str]) -> Iterator[Prometheus]:
    """Run a server on a free loopback port; its files are in `folder`."""
    jobs = [{"job_name": "stocktake", "static_configs": [{"targets": list(targets)}]}]
    timing = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    settings = {"global": timing, "rule_files": [str(RULES)], "scrape_configs": jobs}
    file = folder / "prometheus.yml"
    # JSON is YAML.
    file.write_text(json.dumps(settings))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("w") as log:
        child = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        _wait(f"http://{address}", child, folder / "prometheus.log")
        yield Prometheus(f"http://{address}")
    finally:
        child.kill()
        child.wait()


def _wait(url: str, child: "subprocess.Popen[bytes]", log: Path) -> None:
    limit_s = time.monotonic() + START_TIMEOUT_S
    while True:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/-/ready", timeout=5):
            return
        assert child.poll() is None, log.read_text()
        assert time.monotonic() < limit_s, log.read_text()
        time.sleep(0.05)
