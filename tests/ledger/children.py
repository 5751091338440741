"""What child processes do to a ledger; started with `python -m`, so that nothing is shared but the database."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import Ledger, NodeSave, open_ledger
from stocktake.model.books import Tally
from stocktake.model.value import replace

_ROOT = Path(__file__).parents[2]


def spawn(*words: str) -> subprocess.Popen[str]:
    """Start a child that does `words`; it waits for a line on its input before it begins."""
    command = [sys.executable, "-m", "tests.ledger.children", *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=_ROOT, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)


def together(children: Sequence[subprocess.Popen[str]], timeout_s: float = 60) -> list[str]:
    """Let children begin at once, and give what each said; all must end well."""
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [child.communicate(timeout=timeout_s)[0] for child in children]
        assert [child.returncode for child in children] == [0] * len(children), said
        return said
    finally:
        for child in children:
            child.kill()
            child.wait()


def add_one(ledger: Ledger, uuid: str) -> int:
    """Add one to a node's `vcpus_used` by read and save, as often as it takes; give how often that was."""
    tries = 0
    while True:
        tries += 1
        record = ledger.node(uuid)
        tally = Tally(node=replace(record, vcpus_used=record.vcpus_used + 1), entries=())
        if ledger.save([NodeSave(tally=tally, expected_generation=record.generation)]).saved:
            return tries


def _say(what: object) -> None:
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def _main(what: str, url: str, *rest: str) -> None:
    _say("ready")
    sys.stdin.readline()
    ledger = open_ledger(url, clock=SystemClock(), ids=RandomIds(), wait_s=30)
    if what == "open":
        _say(ledger.schema_version())
        _say(len(ledger.nodes()))
    else:
        _say(sum(add_one(ledger, rest[0]) for _ in range(int(rest[1]))))
    ledger.close()


if __name__ == "__main__":
    _main(*sys.argv[1:])
