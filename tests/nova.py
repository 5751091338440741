"""
Nova's own answers to the sample of hosts, and what of them we differ from on purpose.

Each rule here recomputes what Nova does, so that a difference is asserted to be *that* difference and no other.
"""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

SAMPLE = Path(__file__).parent / "data" / "nova-sample"
SCENARIOS = SAMPLE / "scenarios.jsonl"


@cache
def expected() -> Mapping[str, Mapping[str, Any]]:
    """What Nova made of each document, by id."""
    with (SAMPLE / "expected.jsonl").open() as lines:
        return {one["id"]: one for one in map(json.loads, lines)}


@cache
def scenarios() -> Mapping[str, Mapping[str, Any]]:
    """The documents, by id."""
    with SCENARIOS.open() as lines:
        return {one["id"]: one for one in map(json.loads, lines)}


def cut_disk_gb(scenario: Mapping[str, Any], disks_mb: Iterable[int]) -> int:
    """Nova's local_gb_used: cut down to whole GB at every addition, the reserve's too (difference 1)."""
    return int(scenario["config"]["reserved_host_disk_mb"] / 1024) + sum(disk_mb // 1024 for disk_mb in disks_mb)


def first_ratios(scenario: Mapping[str, Any]) -> Mapping[str, float]:
    """Nova's ratios of a record made just now: the initial ones, whatever is configured (difference 4)."""
    return {
        f"{kind}_allocation_ratio": scenario["config"][f"initial_{kind}_allocation_ratio"]
        for kind in ("cpu", "ram", "disk")
    }


def latest_only(scenario: Mapping[str, Any], stale: list[int]) -> list[int]:
    """Of stale migrations, those that Nova sets to error: an instance's latest, if it is stale (difference 5)."""
    settled = {"confirmed", "reverted", "failed", "completed", "cancelled", "done"}
    by_instance: dict[str, list[Mapping[str, Any]]] = {}
    for migration in scenario["migrations"]:
        ends = {(migration[f"{end}_compute"], migration[f"{end}_node"]) for end in ("source", "dest")}
        here = (scenario["host"], scenario["node"]) in ends
        if here and migration["status"] not in settled and not migration["deleted"]:
            by_instance.setdefault(migration["instance_uuid"], []).append(migration)
    latest = {
        max(several, key=lambda one: one["updated_at"] or one["created_at"])["id"] for several in by_instance.values()
    }
    return [number for number in stale if number in latest]


def counts_where_nova_does_not(scenario: Mapping[str, Any], answer: Mapping[str, Any]) -> set[str]:
    """Instances whose named migration counts with us, and for which Nova looked at a later one only (difference 5)."""
    ours = {entry["id"] for entry in answer["entries"] if entry["kind"] == "migration"}
    return ours - set(expected()[scenario["id"]]["tracked_migrations"])
