"""
Two services that share a ledger and a Placement, and everything that may happen to them, by seed.

Equal seeds make equal histories: what a step draws is drawn from a stream of its own, so that a step left out changes
no other's, and time passes only when told to.
"""

import json
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from stocktake.claims import ClaimRules, Claims
from stocktake.clock import RandomIds, SystemClock
from stocktake.drivers.fake.fleet import DEVICE_SPEC, GPU, Dice, generate_fleet
from stocktake.errors import StocktakeError
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.model.pci import PciAlias
from stocktake.model.topology import GuestCell, GuestTopology
from stocktake.model.value import plain
from stocktake.model.workload import Flavor, Instance
from stocktake.refresh.context import Context, Pass
from stocktake.refresh.run import refresh
from tests.context import Fleet, a_guest, context_of, database_of, dump
from tests.servers.placement import PlacementServer
from tests.sim.killing import ended_or_killed
from tests.sim.placement_file import PlacementFile, Provider
from tests.system.readback import Readback, remote

START = datetime(2026, 1, 1, tzinfo=UTC)
HOSTS = ("alpha", "beta")
NODES = 8
# Short, as a lock that the world itself holds does not go away by waiting.
LOCK_WAIT_S = 0.05
# Of a service that waits for answers that do not come; any other time would be right too.
STALLED_S = 0.1
ALIASES = (PciAlias(name="gpu", vendor_id=GPU[0], product_id=GPU[1]),)
CLAIM_EXPIRY_S = 3600.0


class SimClock(SystemClock):
    """Time passes as the world says; nobody waits."""

    def __init__(self) -> None:
        self.later = timedelta()

    def now(self) -> datetime:
        """Give the time."""
        return START + self.later

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Don't."""
        del timeout_s
        return event.is_set()


class SimIds:
    """Ids from the stream of the step that the world is at."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def uuid(self) -> str:
        """Draw one."""
        return self._world.dice.uuid()


class Service:
    """
    One of the two: its fleet, and its context, which is opened anew when it starts again.

    Attributes:
        impatient: it does not wait long for Placement.
    """

    def __init__(self, host: str, directory: Path, opened: Callable[["Service"], Any]) -> None:
        directory.mkdir()
        self.host = host
        self.directory = directory
        self.fleet = Fleet(directory / "fleet.json").write()
        self.impatient = False
        self._open = opened
        self._stack = ExitStack()
        self.context: Context = self._stack.enter_context(opened(self))

    def restart(self) -> None:
        """End and start: whatever was only remembered is forgotten."""
        self.close()
        self.context = self._stack.enter_context(self._open(self))

    def close(self) -> None:
        """End."""
        self._stack.close()


class At(NamedTuple):
    """A node of a service."""

    service: Service
    node: str

    @property
    def here(self) -> dict[str, Any]:
        """What is special about the node, as its fleet's file has it."""
        return self.service.fleet.nodes[self.node]

    @property
    def cells(self) -> list[dict[str, Any]]:
        """The host cells that it reports."""
        return list((self.here["resources"]["numa_topology"] or {"cells": []})["cells"])


class World:
    """
    All there is.

    Attributes:
        dice: what is drawn now.
        faulty: something is made to fail now.
        trace: what has happened so far.
        own: allocations are the services' to write; else they are somebody else's.
        held: allocations that nobody may take away while their provider lives, by provider's name.
    """

    def __init__(self, seed: int, directory: Path, server: PlacementServer) -> None:
        self.seed = seed
        self.dice = Dice(seed, "world")
        self.clock = SimClock()
        self.server = server
        self.there = Readback(server.url)
        self.placement_file = PlacementFile(server.directory / "placement.db")
        self.placement_file.clear()
        self.trace: list[str] = []
        self.faulty = False
        self.own = seed % 2 == 0
        self.held: dict[str, set[str]] = {}
        self._ids = SimIds(self)
        self._number = 0
        self._file = directory / "ledger.db"
        self._files = 1
        _copy_empty_ledger(server.directory, self._file)
        self._locks = ExitStack()
        self._spare = {node.name: node for node in generate_fleet(NODES, seed)}
        self.services = {host: Service(host, directory / host, self._opened) for host in HOSTS}

    def step(self, number: int) -> None:
        """Begin a step, which draws what only it draws."""
        self.dice = Dice(self.seed, number)

    @contextmanager
    def _opened(self, service: Service) -> Iterator[Context]:
        ledger = open_ledger(f"sqlite:///{self._file}", clock=self.clock, ids=self._ids, wait_s=LOCK_WAIT_S)
        patience = {"timeout_s": STALLED_S, "retries_max": 0} if service.impatient else {"retries_max": 1}
        with context_of(
            service.directory,
            clock=self.clock,
            ledger=ledger,
            host=service.host,
            placement=remote(self.server, **patience),
            pci={"device_spec": DEVICE_SPEC},
            allocations="own" if self.own else "foreign",
        ) as context:
            yield context

    def claims(self, context: Context) -> Claims:
        """Claim as somebody who is no service: with the ledger and the scheduler of this context."""
        rules = ClaimRules(own=self.own, expiry_s=CLAIM_EXPIRY_S, aliases=ALIASES)
        return Claims(database_of(context), context.scheduler, rules, self.clock, self._ids)

    @property
    def ledger(self) -> DatabaseLedger:
        """The one that both share."""
        return database_of(self.services["alpha"].context)

    def placement(self) -> Mapping[str, Provider]:
        """Look at all providers, by name."""
        return self.placement_file.read()

    def exported(self) -> list[dict[str, Any]]:
        """Look at the ledger as everybody can: exported."""
        return [json.loads(line) for line in dump(self.ledger)]

    def close(self) -> None:
        """End all."""
        self._locks.close()
        for service in self.services.values():
            service.close()
        self.server.behave()

    # What is drawn.

    def number(self) -> int:
        """Count on: names and migrations are numbered, migrations that claims made too."""
        numbers = [migration.id for migration in self.ledger.migrations(all=True)]
        self._number = max([self._number, *numbers]) + 1
        return self._number

    def any_service(self) -> Service:
        """Draw a service."""
        return self.services[self.dice.pick(HOSTS)]

    def any_node(self) -> At | None:
        """Draw a node that is reported; None if there is none."""
        nodes = [
            At(service, name)
            for service in self.services.values()
            for name, node in service.fleet.nodes.items()
            if node.get("listed", True)
        ]
        return self.dice.pick(nodes) if nodes else None

    def any_instance(self) -> Instance | None:
        """Draw an instance that is not deleted."""
        instances = self.ledger.instances()
        return self.dice.pick(instances) if instances else None

    def a_flavor(self) -> Flavor:
        """Draw what an instance is sold; disks that don't divide by a GiB among them."""
        return Flavor(
            vcpus=1 + self.dice.below(4),
            memory_mb=512 * (1 + self.dice.below(8)),
            root_gb=self.dice.below(40),
            ephemeral_gb=self.dice.below(3),
            swap_mb=self.dice.pick((0, 0, 100, 1536)),
        )

    def a_topology(self, at: At, flavor: Flavor) -> GuestTopology | None:
        """Draw where a guest sits: nowhere, floating on a cell, or pinned, perhaps to what another has already."""
        cells = at.cells
        if not cells or self.dice.below(2):
            return None
        cell = self.dice.pick(cells)
        vcpus = frozenset(range(flavor.vcpus))
        free = sorted({*cell["pcpuset"], *cell["cpuset"]})
        if self.dice.below(2):
            first = self.dice.below(len(free) - flavor.vcpus)
            pinning = {vcpu: free[first + vcpu] for vcpu in vcpus}
            guest = GuestCell(
                id=cell["id"], pcpuset=vcpus, memory_mb=flavor.memory_mb, cpu_pinning=pinning, cpu_policy="dedicated"
            )
        else:
            guest = GuestCell(id=cell["id"], cpuset=vcpus, memory_mb=flavor.memory_mb, cpu_policy="shared")
        return GuestTopology(cells=(guest,))

    def a_node(self) -> tuple[str, dict[str, Any]] | None:
        """Take a machine that is nobody's; it is always the same one of that name, with the same uuid."""
        taken = {name for service in self.services.values() for name in service.fleet.nodes}
        free = sorted(self._spare.keys() - taken)
        if not free:
            return None
        name = self.dice.pick(free)
        return name, {"resources": dict(self._spare[name].report), "guests": []}

    def a_guest_of(self, at: At, uuid: str, flavor: Flavor) -> dict[str, Any]:
        """Make the guest that a hypervisor runs for it."""
        topology = self.a_topology(at, flavor)
        disk_mb = (flavor.root_gb + flavor.ephemeral_gb) * 1024 + flavor.swap_mb
        sizes = {"vcpus": flavor.vcpus, "memory_mb": flavor.memory_mb, "disk_mb": disk_mb}
        return {**a_guest(uuid, **sizes), "numa": plain(topology) if topology else None}

    # Trouble.

    def lock_ledger(self) -> None:
        """Be somebody whose transaction does not end; there may be one such only."""
        self._locks.close()
        connection = sqlite3.connect(self._file, isolation_level=None, timeout=5)
        self._locks.callback(connection.close)
        connection.execute("BEGIN IMMEDIATE")
        self.faulty = True

    def refuse_saves(self) -> None:
        """Make saves of records fail in their middle."""
        self._execute(
            "CREATE TRIGGER IF NOT EXISTS sim BEFORE UPDATE ON compute_nodes BEGIN SELECT RAISE(ABORT, 'sim'); END"
        )
        self.faulty = True

    def heal(self) -> None:
        """End all trouble."""
        self._locks.close()
        self._execute("DROP TRIGGER IF EXISTS sim")
        self.server.behave()
        for service in self.services.values():
            service.fleet.listing = None
            for node in service.fleet.nodes.values():
                node.pop("fault", None)
            service.fleet.write()
            if service.impatient:
                service.impatient = False
                service.restart()
        self.faulty = False

    def _execute(self, statement: str) -> None:
        self._locks.close()
        connection = sqlite3.connect(self._file, isolation_level=None, timeout=5)
        connection.execute(statement)
        connection.close()

    # What it is all about.

    def refresh(self, service: Service, *, stop_after: int | None = None) -> Pass | None:
        """Refresh a service's nodes; None where the pass was given up or cut short. Only trouble may end a pass."""
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return stop_after is not None and asked > stop_after

        self.time_passes()
        full = self.dice.below(5) == 0
        self.trace.append(
            f"refresh {service.host}{' full' if full else ''}{f' cut at {stop_after}' if stop_after else ''}"
        )
        try:
            result = refresh(service.context, full=full, stop=stop)
        except StocktakeError as error:
            self.trace.append(f"  {error.code}: {error.what}")
            if not self.faulty:
                raise
            return None
        finally:
            self.forget_what_went()
        return result if stop_after is None or asked <= stop_after else None

    def time_passes(self) -> None:
        """Let seconds pass, minutes or a day."""
        self.clock.later += self.dice.pick((timedelta(seconds=20), timedelta(minutes=30), timedelta(days=1)))

    def forget_what_went(self) -> None:
        """Whoever held something of a node that no service has any more has lost it with the node's providers."""
        if not self.held:
            return
        there = self.placement()
        nodes = {name for service in self.services.values() for name in service.fleet.nodes}
        for name in list(self.held):
            if name not in there and name.partition("_")[0] not in nodes:
                del self.held[name]

    def kill(self, service: Service, work: Callable[[Context], object], at: int) -> str:
        """Let a process do something that is killed at the so many-th thing it asks of ledger or Placement."""

        def child() -> None:
            # What it draws is not drawn here.
            self.dice = Dice(self.seed, "child", self.dice.bits())
            with self._opened(service) as context:
                try:
                    work(context)
                except StocktakeError:
                    # Refused, or in trouble, before it could be killed.
                    if not self.faulty:
                        raise

        ended = ended_or_killed(child, at)
        self.forget_what_went()
        return ended

    def carry_over(self) -> None:
        """Export the ledger, import it into a new one, and go on with that."""
        lines = dump(self.ledger)
        self._files += 1
        file = self._file.with_name(f"ledger-{self._files}.db")
        _copy_empty_ledger(self.server.directory, file)
        new = open_ledger(f"sqlite:///{file}", clock=self.clock, ids=self._ids, wait_s=LOCK_WAIT_S)
        new.import_(lines)
        assert dump(new) == lines, "what was imported is what was exported"
        new.close()
        self._file = file
        for service in self.services.values():
            service.restart()


def _copy_empty_ledger(directory: Path, file: Path) -> None:
    """Make a ledger by copying one: making its schema takes longer than many a history."""
    empty = directory / "empty.db"
    if not empty.exists():
        clock = SimClock()
        open_ledger(f"sqlite:///{empty}", clock=clock, ids=RandomIds()).close()
    shutil.copy(empty, file)
