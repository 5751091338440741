"""
Run the measurements and print them; `make bench`.

Each case is measured beside its floor, the bare calls that any implementation must make, in the same run: machines are
noisy, so the ratio is what counts. The figures are kept as JSON in bench/results.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.fleets import Case, floor_of, prepared
from stocktake.refresh import refresh

RESULTS = Path(__file__).parent / "results"
RUNS = 7

CASES = (
    Case("1 node, 1,000 instances, steady", nodes=1, instances=1000, placement="none"),
    Case("100 nodes x 1 instance, embedded Placement, steady", nodes=100, instances=1, placement="embedded"),
    Case("1,000 nodes x 1 instance, steady", nodes=1000, instances=1, placement="none"),
)


def main(arguments: Sequence[str]) -> int:
    """Measure the cases whose names hold the first argument, or all."""
    wanted = arguments[0] if arguments else ""
    measured = [_measured(case) for case in CASES if wanted in case.name]
    width = max((len(str(one["case"])) for one in measured), default=0)
    print(f"{'case':<{width}}  {'first ms':>9}  {'steady ms':>9}  {'floor ms':>9}  {'ratio':>6}")
    for one in measured:
        figures = f"{one['first_ms']:>9.1f}  {one['steady_ms']:>9.1f}  {one['floor_ms']:>9.1f}  {one['ratio']:>6.1f}"
        print(f"{one['case']:<{width}}  {figures}")
    if not wanted:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "refresh.json").write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return 0


def _measured(case: Case) -> dict[str, str | float]:
    with _directory() as directory, prepared(case, directory) as parts:
        first_ms = _milliseconds(lambda: refresh(parts))
        refresh(parts)
        steady: list[float] = []
        floor: list[float] = []
        for _ in range(RUNS):
            steady.append(_milliseconds(lambda: refresh(parts)))
            floor.append(_milliseconds(floor_of(parts)))
    median, least = statistics.median(steady), statistics.median(floor)
    return {
        "case": case.name,
        "first_ms": round(first_ms, 1),
        "steady_ms": round(median, 1),
        "floor_ms": round(least, 1),
        "ratio": round(median / least, 1),
    }


def _milliseconds(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1000


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="stocktake-bench-") as path:
        yield Path(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
