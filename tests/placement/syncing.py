"""
A process that syncs nodes again and again; the tests run several at once.

Its argument is JSON: the settings' section, the nodes' names and uuids, how many rounds. Each round changes what is
wanted. It prints, as JSON, the errors it met.
"""

import json
import random
import sys

from stocktake.clock import SystemClock
from stocktake.errors import StocktakeError
from stocktake.placement.opening import open_scheduler
from tests.placement.making import Section, stock, tree


def run(section: dict[str, object], nodes: dict[str, str], rounds: int, seed: int) -> list[str]:
    """Sync `rounds` times; every node's VCPU total is its round's number, modulo 3, plus 1."""
    dice = random.Random(seed)
    scheduler = open_scheduler(Section(**section), SystemClock(), jitter=dice.random)  # type: ignore[arg-type]
    errors: list[str] = []
    for step in range(rounds):
        inventories = {"VCPU": stock((step + seed) % 3 + 1)}
        trees = {name: tree(name, root_uuid=uuid, inventories=inventories) for name, uuid in nodes.items()}
        answers = scheduler.sync(trees)
        errors += [
            f"{type(answer).__name__}: {answer}" for answer in answers.values() if isinstance(answer, StocktakeError)
        ]
    return errors


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(**json.loads(sys.argv[1]))))
