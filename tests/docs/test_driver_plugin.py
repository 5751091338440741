"""The example of docs/howto/driver-plugin.md does what the page says."""

import importlib
import json
import re
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.program import Program

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "howto" / "driver-plugin.md"
RACK = {
    "r1-u01": {"cpus": 8, "memory_mb": 32768, "disk_gb": 500},
    "r1-u02": {"cpus": 16, "memory_mb": 65536, "disk_gb": 1000},
}


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def rack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """The program with the page's package installed beside it, and a rack of two."""
    site = tmp_path / "site"
    info = site / "stocktake_rack-1.0.dist-info"
    info.mkdir(parents=True)
    groups = tomllib.loads(block("toml"))["project"]["entry-points"]
    lines = [line for group, names in groups.items() for line in (f"[{group}]", *(f"{k} = {names[k]}" for k in names))]
    (info / "entry_points.txt").write_text("\n".join(lines))
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stocktake-rack\nVersion: 1.0\n")
    (site / "stocktake_rack.py").write_text(block("python"))
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.delitem(sys.modules, "stocktake_rack", raising=False)
    importlib.invalidate_caches()
    state = tmp_path / "state"
    state.mkdir()
    (state / "rack.json").write_text(json.dumps(RACK))
    return Program(state, settings={"compute_driver": "rack", "compute_monitors": '["temperature"]'})


def test_given_the_pages_driver_then_its_nodes_are_taken_stock_of(rack: Program) -> None:
    assert rack.run("refresh").code == 0
    nodes = {node["hypervisor_hostname"]: node for node in rack.run("nodes", "--json").data}
    assert {name: (node["vcpus"], node["memory_mb"], node["local_gb"]) for name, node in nodes.items()} == {
        "r1-u01": (8, 32768, 500),
        "r1-u02": (16, 65536, 1000),
    }
    assert all(node["problems"] == [] for node in nodes.values())


def test_given_the_pages_monitor_then_its_metric_is_on_the_node(rack: Program) -> None:
    rack.run("refresh")
    metrics = rack.run("show", "r1-u01", "--json").data["metrics"]
    assert [(metric["name"], metric["value"]) for metric in metrics] == [("rack.celsius", 21)]


def test_given_a_file_that_is_gone_then_no_node_is_deleted(rack: Program) -> None:
    rack.run("refresh")
    (rack.state / "rack.json").unlink()
    assert rack.run("refresh").code == 3
    assert len(rack.run("nodes", "--json").data) == len(RACK)
