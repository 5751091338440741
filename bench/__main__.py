"""
Run the measurements and print them; `make bench`, or `python -m bench SUITE...` for some.

Each case is measured beside its floor, the bare calls that any implementation must make, in the same run: machines are
noisy, so the ratio is what counts. The figures are kept as JSON in bench/results. Each suite runs in a process of its
own, as Placement can be embedded once in a process.
"""

import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
# Each is a module with `measured(directory)`, which gives a row for each case.
SUITES = ("start", "refresh", "claims", "guests", "day", "ironic", "pages", "serve", "watch")
_INSIDE = "--inside"

Row = Mapping[str, str | float]


def main(arguments: Sequence[str]) -> int:
    """Run the named suites, or all."""
    unknown = sorted(set(arguments) - {*SUITES, _INSIDE})
    if unknown:
        sys.stderr.write(f"no such suite: {', '.join(unknown)}; there are {', '.join(SUITES)}\n")
        return 2
    if _INSIDE in arguments:
        return _run(next(name for name in arguments if name != _INSIDE))
    codes = [
        subprocess.call([sys.executable, "-m", "bench", _INSIDE, name])
        for name in SUITES
        if name in arguments or not arguments
    ]
    return max(codes)


def _run(name: str) -> int:
    module = importlib.import_module(f"bench.{name}")
    with tempfile.TemporaryDirectory(prefix="stocktake-bench-") as path:
        rows: list[Row] = module.measured(Path(path))
    _print(rows)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0


def _print(rows: Sequence[Row]) -> None:
    """Print a table for each kind of row, figures to the right."""
    for keys in dict.fromkeys(tuple(row) for row in rows):
        alike = [row for row in rows if tuple(row) == keys]
        widths = {key: max(len(key), *(len(_text(row[key])) for row in alike)) for key in keys}
        print("  ".join(f"{key:<{widths[key]}}" if key == "case" else f"{key:>{widths[key]}}" for key in keys))
        for row in alike:
            cells = {key: _text(row[key]) for key in keys}
            print(
                "  ".join(
                    f"{cells[key]:<{widths[key]}}" if key == "case" else f"{cells[key]:>{widths[key]}}" for key in keys
                )
            )
        print()


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
