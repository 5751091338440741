"""
Histories from any number of seeds, side by side: a process for each core, each with a Placement of its own.

    python -m tests.sim.soak --seeds 2000            # how often what happened, and what was wrong
    python -m tests.sim.soak --seed 1234             # that history again, told and made as short as it can be
    python -m tests.sim.soak --seed 1234 --only 3,7  # some of its steps

`make soak` starts it.
"""

import argparse
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.servers.placement import PlacementServer, private_placement
from tests.sim.events import LIFE, TROUBLE
from tests.sim.history import STEPS, History, said, shortest, told

# Memory, where there is such a place: nothing here has to outlive the machine.
SHARED = Path("/dev/shm")
# So many seeds make every event happen, however rare.
ALL_EVENTS = 200
FAILURES_MAX = 5
EVERY_S = 15.0

_SERVER: list[PlacementServer] = []
_KEPT = ExitStack()


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; 1 if something was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.soak", description=(__doc__ or "").split("\n")[1])
    parser.add_argument("--seeds", type=int, default=2000, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="this one only, told and made as short as it can be")
    parser.add_argument("--steps", type=int, default=STEPS, help="how many things happen in each")
    parser.add_argument("--only", help="of one seed, only these steps, such as 3,7,12")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes")
    asked = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if asked.seed is not None:
        steps = [int(step) for step in asked.only.split(",")] if asked.only else range(asked.steps)
        return _one(asked.seed, tuple(steps))
    return _many(range(asked.first, asked.first + asked.seeds), asked.steps, asked.jobs)


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _one(seed: int, steps: Sequence[int]) -> int:
    with ExitStack() as stack:
        server = _placement(stack)
        history = told(seed, server, steps)
        if history.failure:
            history = shortest(history, server)
        _say(said(history))
    return 1 if history.failure else 0


def _many(seeds: Sequence[int], steps: int, jobs: int) -> int:
    began_s = told_s = time.monotonic()
    total, refused, failures = Counter[str](), Counter[str](), list[History]()
    done = passes = checks = 0
    for history in _histories(seeds, steps, jobs):
        done, passes, checks = done + 1, passes + history.passes, checks + history.checks
        total += history.events
        refused += history.refused
        if history.failure:
            failures.append(history)
            _say(f"seed {history.seed}: {history.mark}")
        if time.monotonic() - told_s > EVERY_S:
            told_s = time.monotonic()
            _say(f"{done} of {len(seeds)} histories, {len(failures)} wrong, {told_s - began_s:.0f} s")
    _tell(total, refused)
    _say(
        f"{done} histories (seeds {seeds[0]} to {seeds[-1]}) of {steps} steps: {sum(total.values())} events, "
        f"{passes} passes, {checks} checks, in {time.monotonic() - began_s:.0f} s: {len(failures)} wrong"
    )
    missing = [event.__name__ for event in (*LIFE, *TROUBLE) if not total[event.__name__]]
    if missing and done >= ALL_EVENTS:
        _say(f"never happened: {', '.join(missing)}")
        return 1
    with ExitStack() as stack:
        for history in _each_once(failures):
            _say(f"\nmade as short as it can be; again: make soak SEED={history.seed}")
            _say(said(shortest(history, _placement(stack))))
    return 1 if failures else 0


def _each_once(failures: Sequence[History]) -> Iterator[History]:
    """Give one history of each kind of failure."""
    kinds = {history.mark: history for history in reversed(failures)}
    yield from list(kinds.values())[:FAILURES_MAX]


def _tell(total: Counter[str], refused: Counter[str]) -> None:
    """Print how often what happened, the most frequent first."""
    width = max((len(name) for name in total), default=0)
    _say(f"{'event':{width}}  happened  refused")
    for name, count in sorted(total.items(), key=lambda pair: -pair[1]):
        _say(f"{name:{width}}  {count:8}  {refused[name] or '':>7}")


def _histories(seeds: Sequence[int], steps: int, jobs: int) -> Iterator[History]:
    with _directory() as directory:
        context = multiprocessing.get_context("spawn")
        with context.Pool(jobs, initializer=_begin, initargs=(directory,)) as pool:
            yield from pool.imap_unordered(_told, [(seed, steps) for seed in seeds])


def _begin(directory: str) -> None:
    """Start this process's Placement; it ends with the process."""
    logging.disable(logging.CRITICAL)
    _SERVER.append(_KEPT.enter_context(private_placement(Path(tempfile.mkdtemp(dir=directory)))))


def _told(asked: tuple[int, int]) -> History:
    seed, steps = asked
    history = told(seed, _SERVER[0], tuple(range(steps)))
    if not history.failure:
        history.trace = ()
    return history


def _placement(stack: ExitStack) -> PlacementServer:
    return stack.enter_context(private_placement(Path(stack.enter_context(_directory()))))


def _directory() -> tempfile.TemporaryDirectory[str]:
    shared = SHARED if SHARED.is_dir() else None
    return tempfile.TemporaryDirectory(prefix="stocktake-soak-", dir=shared, ignore_cleanup_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
