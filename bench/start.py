"""How long a command takes from nothing: `stocktake nodes` on a ledger of 24 nodes, beside a bare Python."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("stocktake"))
RUNS = 15


def measured(directory: Path) -> list[dict[str, str | float]]:
    """Run the command and a Python that does nothing in turn."""
    empty = directory / "stocktake.toml"
    empty.touch()
    fleet = ("host=bench", "compute_driver=fake", "fake.nodes=24", "placement.mode=none")
    options = [PROGRAM, "--config", str(empty), "--state-path", str(directory)]
    command = [*options, *(word for pair in fleet for word in ("--set", pair))]
    subprocess.run([*command, "-q", "refresh"], check=True, stdout=subprocess.DEVNULL)
    taken: list[float] = []
    floor: list[float] = []
    for _ in range(RUNS):
        taken.append(_seconds([*command, "nodes"]))
        floor.append(_seconds([sys.executable, "-c", ""]))
    return [
        {
            "case": "stocktake nodes, cold start",
            "s": round(statistics.median(taken), 3),
            "floor_s": round(statistics.median(floor), 3),
            "ratio": round(statistics.median(taken) / statistics.median(floor), 1),
            "target_s": 0.4,
        }
    ]


def _seconds(command: Sequence[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun
