"""
Try for long what a test tries for seconds: a part, or all of them one after another.

    make soak                          # all parts, 2,000 histories of a fleet among them
    make soak PART=races               # one part
    make soak PART=fleet SEEDS=100     # so many histories
    make soak SEED=1234                # one history of a fleet again, made as short as it can be
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

# What each part runs after the interpreter's `-m`, and what makes it last.
PARTS: Mapping[str, tuple[Sequence[str], Mapping[str, str]]] = {
    "fleet": (("tests.sim.soak",), {}),
    "races": (("pytest", "-q", "--timeout", "1200", "tests/claims/test_races.py"), {"STOCKTAKE_TEST_RACE_S": "60"}),
    "claims": (("pytest", "-q", "--timeout", "1200", "tests/claims/test_machine.py"), {"STOCKTAKE_TEST_TIMES": "20"}),
    "api": (("pytest", "-q", "--timeout", "1200", "tests/web/test_fuzz.py"), {"STOCKTAKE_TEST_FUZZ_S": "120"}),
}


def main(arguments: Sequence[str]) -> int:
    """
    Run the parts that were asked for, and say of each how it went and how long it took.

    Args:
        arguments: `part=races`, `seeds=100`, `seed=7`; one without a value is left out, as make has it.
    """
    parser = argparse.ArgumentParser(prog="python -m tools.soak")
    parser.add_argument("--part", choices=PARTS, help="this part only")
    parser.add_argument("--seeds", type=int, default=2000, help="how many histories of a fleet")
    parser.add_argument("--seed", type=int, help="one history of a fleet again")
    asked = parser.parse_args([f"--{one}" for one in arguments if not one.endswith("=")])
    names = [asked.part] if asked.part else ["fleet"] if asked.seed is not None else list(PARTS)
    lines = []
    for name in names:
        command, environment = PARTS[name]
        if name == "fleet":
            which = ("--seed", str(asked.seed)) if asked.seed is not None else ("--seeds", str(asked.seeds))
            command = (*command, *which)
        began_s = time.monotonic()
        status = subprocess.call([sys.executable, "-m", *command], env={**os.environ, **environment})
        said = "nothing was wrong" if status == 0 else f"something was wrong (exit {status})"
        lines.append((status, f"{name:8} {time.monotonic() - began_s:6.0f} s  {said}"))
    print("\n".join(line for _, line in lines))
    return max(status for status, _ in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
