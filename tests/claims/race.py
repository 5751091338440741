"""
Many processes that claim and release at random on one node.

A racer is a process of its own: nothing is shared but the database. It ends well, or says what it met that is no typed
refusal.
"""

import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stocktake.claims import Claimed, ClaimRules, Claims, Request
from stocktake.cli.session import open_placement
from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import InvalidInput, NotFound
from stocktake.ledger import open_ledger
from stocktake.model.fitting import Limits
from stocktake.settings import read_settings
from tests.claims.desk import ALIASES, flavor

RACERS = 8
FLAVORS = (
    flavor(vcpus=1, memory_mb=1024, root_gb=5),
    flavor(vcpus=2, memory_mb=4096, root_gb=40),
    flavor(vcpus=2, memory_mb=1024, hw_cpu_policy="dedicated"),
    flavor(vcpus=1, memory_mb=512, pci="gpu:1"),
)
NODE_LIMITS = Limits(memory_mb=12_288, vcpus=10, disk_gb=120)
# So many promises of its own a racer keeps at most.
OWN_MAX = 6
# A racer begins, ends what it is at and gives back; so long it may take where ten others want the same core.
ENDS_S = 400


def race(seed: int, seconds: float, node: str, config: Path) -> None:
    """Claim, keep, resize, give back and release at random until the time is over; count on stdout."""
    dice = random.Random(seed)
    clock = SystemClock()
    settings = read_settings(config, {}, {"state_path": config.parent})
    ledger = open_ledger(settings.database.connection, clock=clock, ids=RandomIds(), wait_s=60)
    scheduler = open_placement(settings, clock)
    rules = ClaimRules(own=settings.allocations == "own", expiry_s=settings.claim_expiry_s, aliases=ALIASES)
    claims = Claims(ledger, scheduler, rules, clock, RandomIds())
    mine: list[str] = []
    count = {"granted": 0, "refused": 0, "released": 0}
    end = clock.monotonic_s() + seconds
    while clock.monotonic_s() < end:
        if len(mine) < OWN_MAX and dice.random() < 0.6:
            try:
                done = claims.build(node, Request(flavor=dice.choice(FLAVORS)), limits=NODE_LIMITS)
            except NotFound:
                # It expired before the scheduler was told: this process had no time for it for long.
                continue
            count["granted" if isinstance(done, Claimed) else "refused"] += 1
            if isinstance(done, Claimed):
                mine.append(done.instance.uuid)
        elif mine:
            count["released"] += _changed(claims, dice, mine, node)
    for uuid in mine:
        _given_back(claims, uuid)
    scheduler.close()
    ledger.close()
    sys.stdout.write(f"{count}\n")


def _changed(claims: Claims, dice: random.Random, mine: list[str], node: str) -> int:
    """Do something to a promise of one's own; say whether it is gone."""
    uuid = dice.choice(mine)
    try:
        match dice.choice(("keep", "resize", "release", "release")):
            case "keep":
                claims.keep(uuid)
            case "resize":
                done = claims.move(uuid, "resize", node, flavor=dice.choice(FLAVORS), limits=NODE_LIMITS)
                if isinstance(done, Claimed):
                    claims.finish(uuid)
                    dice.choice((claims.confirm, claims.revert))(uuid)
            case _:
                mine.remove(uuid)
                claims.release(uuid)
                return 1
    except InvalidInput:
        # It is not in a state to be resized.
        return 0
    except NotFound:
        # It expired: this process had no time for it for long.
        mine[:] = [one for one in mine if one != uuid]
    return 0


def _given_back(claims: Claims, uuid: str) -> None:
    try:
        claims.release(uuid)
    except NotFound:
        # It expired: this process had no time for it for long.
        return


@dataclass
class Racers:
    """The processes: started, killed one after another if wanted, waited for."""

    seconds: float
    node: str
    config: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)
    ended: list[subprocess.Popen[str]] = field(default_factory=list)
    started: int = 0

    def start(self, number: int = RACERS) -> None:
        """Start so many."""
        for _ in range(number):
            self.started += 1
            arguments = [str(self.started), str(self.seconds), self.node, str(self.config)]
            self.running.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.claims.race", *arguments],
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def kill_one(self) -> None:
        """Kill the oldest as no process can defend itself against, and start another."""
        oldest = self.running.pop(0)
        oldest.send_signal(signal.SIGKILL)
        self.ended.append(oldest)
        self.start(1)

    def wait(self) -> Sequence[str]:
        """Wait for all; what each counted, or what it met."""
        said: list[str] = []
        for one in [*self.running, *self.ended]:
            out, err = one.communicate(timeout=self.seconds + ENDS_S)
            if one.returncode not in (0, -signal.SIGKILL):
                said.append(f"exit {one.returncode}: {err[-2000:]}")
            elif one.returncode == 0:
                said.append(out.strip())
        return said


if __name__ == "__main__":
    race(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], Path(sys.argv[4]))
