"""
One picture of `stocktake watch` with 5,000 nodes in it, drawn on a large screen.

The floor is the names of the same nodes, sorted and joined: what is above it is the layout's work.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from tests.cli.watch.making import LARGE, fleet, view

from stocktake.cli.watch.frame import frame

NODES = 5000
RUNS = 9


def measured(directory: Path) -> list[dict[str, str | float]]:
    """Draw the picture again and again; nothing is read, so that the directory is not used."""
    del directory
    seen = view(*fleet(NODES))
    rows = seen.fleet.rows if seen.fleet else ()
    drawn = _median_ms(lambda: frame(seen, LARGE))
    floor = _median_ms(lambda: "\n".join(sorted(row.name for row in rows)))
    ratio = round(drawn / floor, 1)
    return [{"case": f"a picture of {NODES:,} nodes", "ms": round(drawn), "floor_ms": round(floor, 1), "ratio": ratio}]


def _median_ms(call: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(RUNS):
        began_s = time.perf_counter()
        call()
        times.append((time.perf_counter() - began_s) * 1000)
    return statistics.median(times)
