"""
A history: what happens by a seed, step by step, and what is looked at after each.

A step draws what only it draws. So a history that fails may be tried with steps left out, until none can be: what is
left is the shortest that still shows the fault.
"""

import tempfile
import traceback
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stocktake.drivers.fake.fleet import Dice
from stocktake.errors import LedgerUnreachable, ProviderNotOurs
from stocktake.refresh.context import Pass
from tests.servers.placement import PlacementServer
from tests.sim import oracle
from tests.sim.events import LIFE, TROUBLE, Event, Nothing, Refusal, a_node_comes
from tests.sim.world import HOSTS, Service, World

STEPS = 20
# Every so many steps all trouble ends, and everything has to be right.
CHAPTER = 10
ROUNDS_MAX = 4
NODES_AT_FIRST = 4
# So often a step draws another event where nothing can happen: there is nothing yet that could end, or move.
DRAWS_MAX = 6
# So often a history that fails is tried with steps left out.
TRIES_MAX = 150


@dataclass
class History:
    """
    What happened.

    Attributes:
        seed, steps: what it was made of.
        events: how often what happened.
        refused: how often what was asked for was refused for a reason.
        passes, checks: how many refreshes there were, and how many nodes' hosts were looked at after one.
        failure: what was wrong, with a traceback; empty if nothing was.
        mark: what kind of failure it is; equal ones are the same fault.
    """

    seed: int
    steps: Sequence[int]
    events: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    passes: int = 0
    checks: int = 0
    trace: Sequence[str] = ()
    at: int = -1
    failure: str = ""
    mark: str = ""


def told(
    seed: int, server: PlacementServer, steps: Sequence[int] = tuple(range(STEPS)), check: oracle.Check = oracle.check
) -> History:
    """Let everything happen that the seed says, and say what did; a failure ends it."""
    history = History(seed=seed, steps=steps)
    with tempfile.TemporaryDirectory(prefix="stocktake-sim-", dir=server.directory) as directory:
        world = World(seed, Path(directory), server)
        teller = _Teller(world, history, check)
        try:
            for number in range(-NODES_AT_FIRST, 0):
                world.step(number)
                world.trace.append(a_node_comes(world))
            for history.at in steps:
                world.step(history.at)
                teller.happen()
                if history.at % CHAPTER == CHAPTER - 1:
                    teller.settle()
            if not steps or history.at % CHAPTER != CHAPTER - 1:
                world.step(max(steps, default=0) + 1)
                teller.settle()
        except Exception as error:  # noqa: BLE001  # whatever is wrong is the finding
            history.failure = "".join(traceback.format_exception(error))
            frame = traceback.extract_tb(error.__traceback__)[-1]
            history.mark = f"{type(error).__name__} in {frame.name}, line {frame.lineno} of {Path(frame.filename).name}"
        finally:
            history.trace = world.trace
            world.close()
    return history


def shortest(failed: History, server: PlacementServer, check: oracle.Check = oracle.check) -> History:
    """Leave steps out of a history that failed, more and more of them, as long as it fails in the same way."""
    tries = 0

    def fails(steps: Sequence[int]) -> History | None:
        nonlocal tries
        tries += 1
        again = told(failed.seed, server, steps, check)
        return again if again.mark == failed.mark else None

    best = fails([step for step in failed.steps if step <= failed.at]) or failed
    size = len(best.steps) // 2
    while size and tries < TRIES_MAX:
        at = 0
        while at < len(best.steps) and tries < TRIES_MAX:
            less = fails([*best.steps[:at], *best.steps[at + size :]])
            best, at = (less, at) if less else (best, at + size)
        size //= 2
    return best


def said(history: History) -> str:
    """Tell a failure to people: what was wrong, and what had happened."""
    happened = "\n".join(f"  {line}" for line in history.trace)
    steps = ",".join(map(str, history.steps))
    return f"seed {history.seed}, steps {steps}: {history.mark}\n{happened}\n{history.failure}"


def drawn(dice: Dice, events: dict[Event, int]) -> Event:
    """Draw an event, by how often each is to be."""
    left = dice.below(sum(events.values()))
    for event, weight in events.items():
        left -= weight
        if left < 0:
            return event
    raise AssertionError


@dataclass
class _Teller:
    world: World
    history: History
    check: oracle.Check

    def happen(self) -> None:
        """Let one thing happen, mostly of life, sometimes trouble; then perhaps refresh, and check if all is well."""
        world = self.world
        events = dict(TROUBLE if world.dice.below(10) == 0 else LIFE)
        for _ in range(DRAWS_MAX):
            event = drawn(world.dice, events)
            try:
                done = event(world)
            except LedgerUnreachable:
                # The event itself met the lock that stands round the ledger.
                assert world.faulty
                done = Nothing(f"{event.__name__} met a locked ledger")
            if not isinstance(done, Nothing):
                (self.history.refused if isinstance(done, Refusal) else self.history.events)[event.__name__] += 1
                break
        world.trace.append(f"{self.history.at}: {done}")
        if world.dice.below(2):
            return
        service = world.any_service()
        cut = world.dice.below(4) if world.dice.below(6) == 0 else None
        healthy = not world.faulty
        result = self.refresh(service, stop_after=cut)
        if result is not None and healthy:
            self.look(service, result)

    def settle(self) -> None:
        """End all trouble: one pass each is right at once, and soon nobody has anything left to write."""
        self.world.heal()
        self.world.trace.append("all trouble ends")
        for _ in range(ROUNDS_MAX):
            quiet = True
            for host in HOSTS:
                service = self.world.services[host]
                result = self.refresh(service)
                assert result is not None
                self.look(service, result)
                quiet = quiet and not (result.changed or result.writes or result.deleted)
            if quiet:
                return
        raise AssertionError(f"after {ROUNDS_MAX} healthy passes of each there is still something to write")

    def refresh(self, service: Service, stop_after: int | None = None) -> Pass | None:
        self.history.passes += 1
        result = self.world.refresh(service, stop_after=stop_after)
        self.history.events["claims expired"] += len(result.expired) if result else 0
        return result

    def look(self, service: Service, result: Pass) -> None:
        """Hold what the pass said, and what is there now, to what should be."""
        world = self.world
        self.history.checks += 1
        # What others hold something of is left alone: that is said, and is no trouble.
        unsynced = {name: why for name, why in result.unsynced.items() if not isinstance(why, ProviderNotOurs)}
        assert not {**result.failed, **unsynced}
        rows = {row.hypervisor_hostname: row for row in service.context.ledger.nodes(host=service.host)}
        assert {name: rows[name] for name in result.nodes} == result.nodes, "a pass says what it saved"
        self.check(
            oracle.Case(
                host=service.host,
                books=oracle.books_of(world.exported()),
                fleet=service.fleet.nodes,
                kept=result.kept,
                placement=world.placement(),
                own=world.own,
                unknown=world.held,
            )
        )
