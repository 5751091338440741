"""
Two services that share a ledger and a Placement, and everything that may happen to them, by seed.

Equal seeds make equal histories: whatever is drawn is drawn from one stream, and time passes only when told to.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

from stocktake.clock import SystemClock
from stocktake.drivers.fake.fleet import DEVICE_SPEC, Dice, generate_fleet
from stocktake.errors import StocktakeError
from stocktake.ledger import open_ledger
from stocktake.model.topology import GuestCell, GuestTopology
from stocktake.model.value import plain
from stocktake.model.workload import Flavor, Instance
from stocktake.refresh.context import Context, Pass
from stocktake.refresh.run import refresh
from tests.context import Fleet, a_guest, context_of
from tests.servers.placement import PlacementServer
from tests.system.readback import Readback, remote

START = datetime(2026, 1, 1, tzinfo=UTC)
THEIRS = "CUSTOM_THEIRS"
HOSTS = ("alpha", "beta")
NODES = 8
# Short, as a lock that the world itself holds does not go away by waiting.
LOCK_WAIT_S = 0.05


class SimClock(SystemClock):
    """Days pass as the world says; nobody waits."""

    def __init__(self) -> None:
        self.day = 0

    def now(self) -> datetime:
        """Give the day."""
        return START + timedelta(days=self.day)

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        """Don't."""
        del timeout_s
        return event.is_set()


class SimIds:
    """Ids from the world's stream."""

    def __init__(self, dice: Dice) -> None:
        self._dice = dice

    def uuid(self) -> str:
        """Draw one."""
        return self._dice.uuid()


class Service:
    """One of the two: its fleet, and its context, which is opened anew when it starts again."""

    def __init__(self, host: str, directory: Path, opened: Callable[["Service"], Any]) -> None:
        directory.mkdir()
        self.host = host
        self.directory = directory
        self.fleet = Fleet(directory / "fleet.json").write()
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
        faulty: something is made to fail now.
        trace: what has happened so far.
        own: allocations are the services' to write; else they are somebody else's.
        held: allocations that nobody may take away while their provider lives, by provider's name.
    """

    def __init__(self, seed: int, directory: Path, server: PlacementServer) -> None:
        self.dice = Dice(seed, "world")
        self.clock = SimClock()
        self.server = server
        self.there = Readback(server.url)
        self.there.clear()
        self.trace: list[str] = []
        self.faulty = False
        self.own = seed % 2 == 0
        self.held: dict[str, set[str]] = {}
        self._ids = SimIds(self.dice)
        self._number = 0
        self._file = directory / "ledger.db"
        self._locks = ExitStack()
        self._spare = {node.name: node for node in generate_fleet(NODES, seed)}
        self.services = {host: Service(host, directory / host, self._opened) for host in HOSTS}

    @contextmanager
    def _opened(self, service: Service) -> Iterator[Context]:
        ledger = open_ledger(f"sqlite:///{self._file}", clock=self.clock, ids=self._ids, wait_s=LOCK_WAIT_S)
        with context_of(
            service.directory,
            clock=self.clock,
            ledger=ledger,
            host=service.host,
            placement=remote(self.server, retries_max=1),
            pci={"device_spec": DEVICE_SPEC},
            allocations="own" if self.own else "foreign",
        ) as context:
            yield context

    def close(self) -> None:
        """End all."""
        self._locks.close()
        for service in self.services.values():
            service.close()
        self.server.behave()

    # What is drawn.

    def number(self) -> int:
        """Count on: names and migrations are numbered."""
        self._number += 1
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
        instances = self.services["alpha"].context.ledger.instances()
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

        self.clock.day += 1
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
        for name in result.deleted:
            self.held = {held: who for held, who in self.held.items() if held.partition("_")[0] != name}
        return result if stop_after is None or asked <= stop_after else None
