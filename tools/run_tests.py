"""Run the whole test suite on all cores, with coverage, and hold the core to every branch."""

import os
import subprocess
import sys
from collections.abc import Sequence

CORE = (
    "src/stocktake/accounting/*",
    "src/stocktake/verify.py",
    "src/stocktake/placement/desired.py",
    "src/stocktake/placement/desired_allocations.py",
)


def main(arguments: Sequence[str]) -> int:
    """Run pytest, then check coverage: every branch of the core, nine tenths of the whole."""
    python = [sys.executable, "-m"]
    # One more than cores: tests of real servers wait a good part of their time.
    workers = str(max(2, os.cpu_count() or 1) + 1)
    status = subprocess.call(
        [
            *python,
            "pytest",
            "-n",
            workers,
            "--dist",
            "loadfile",
            "--no-loadscope-reorder",
            "--cov",
            "--cov-report=",
            *arguments,
        ]
    )
    if status or arguments:
        return status
    for what, floor in ((("--include", ",".join(CORE)), "100"), ((), "90")):
        status = subprocess.call([*python, "coverage", "report", "--skip-covered", f"--fail-under={floor}", *what])
        if status:
            print(f"coverage is below {floor} %", file=sys.stderr)
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
