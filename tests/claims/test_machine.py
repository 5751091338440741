"""
Whatever is claimed, moved, settled, given back and refreshed, in whatever order: the books are true and nothing is
promised twice. Hypothesis draws the order, on a real ledger and, with allocations of our own, a real Placement.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from stocktake.accounting.lifecycle import MoveKind
from stocktake.claims import ClaimRules, Refused, Request
from stocktake.errors import InvalidInput
from stocktake.model.fitting import Limits
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration
from stocktake.placement.desired_allocations import wanted as wanted_of
from tests.claims.desk import ALIASES, HOSTS, Desk, flavor, open_desk
from tests.servers.placement import PlacementServer
from tests.system.readback import Readback, remote

TIMES = int(os.environ.get("STOCKTAKE_TEST_TIMES", "1"))
LIMITS = Limits(memory_mb=24_000, vcpus=12, disk_gb=200)
FLAVORS: tuple[Flavor, ...] = (
    flavor(vcpus=1, memory_mb=1024, root_gb=5),
    flavor(vcpus=4, memory_mb=6144, root_gb=40),
    flavor(vcpus=2, hw_cpu_policy="dedicated"),
    flavor(vcpus=2, hw_cpu_policy="dedicated", hw_cpu_thread_policy="isolate"),
    flavor(vcpus=4, memory_mb=1024, hw_numa_nodes="2", hw_mem_page_size="2MB"),
    flavor(vcpus=3, hw_cpu_policy="mixed", hw_cpu_dedicated_mask="0-1", pci="nic:1"),
    flavor(vcpus=2, hw_numa_nodes="1", pci="gpu:1"),
)
KINDS: tuple[MoveKind, ...] = ("resize", "migration", "live-migration", "evacuation")


class Promises(RuleBasedStateMachine):
    """Two hosts, and a few machines that come, move and go."""

    settings_of_desk: dict[str, Any] = {}

    def __init__(self) -> None:
        super().__init__()
        self.opened = ExitStack()
        self.pending: list[str] = []
        self.settled: list[str] = []
        self.moving: list[str] = []
        self.finished: list[str] = []

    @initialize(of=st.lists(st.sampled_from(FLAVORS), min_size=2, max_size=4))
    def open(self, of: list[Flavor]) -> None:
        """Open the two hosts, with a few machines."""
        folder = Path(self.opened.enter_context(tempfile.TemporaryDirectory(prefix="stocktake-machine-")))
        url = f"sqlite:///{folder}/ledger.db"
        rules = ClaimRules(own=bool(self.settings_of_desk), aliases=ALIASES)
        self.desk: Desk = self.opened.enter_context(open_desk(folder, url, rules=rules, **self.settings_of_desk))
        for one in of:
            self.build("alpha", one, limited=False, kept=True)

    @rule(host=st.sampled_from(HOSTS), of=st.sampled_from(FLAVORS), limited=st.booleans(), kept=st.booleans())
    def build(self, host: str, of: Flavor, *, limited: bool, kept: bool) -> None:
        """Claim room for a new machine."""
        done = self.desk.claims.build(f"node-{host}", Request(flavor=of), limits=LIMITS if limited else None)
        event(f"build: {type(done).__name__}")
        if isinstance(done, Refused):
            assert done.reasons
            return
        if limited:
            node = self.desk.node(host)
            assert (node.memory_mb_used <= 24_000, node.local_gb_used <= 200) == (True, True)
        if kept:
            self.desk.claims.keep(done.instance.uuid)

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), step=st.sampled_from(("keep", "abort", "renew")))
    def settle(self, data: st.DataObject, step: str) -> None:
        """Settle a build, give it back, or let it live longer."""
        getattr(self.desk.claims, step)(data.draw(st.sampled_from(self.pending)))

    @precondition(lambda self: self.settled)
    @rule(data=st.data(), kind=st.sampled_from(KINDS), host=st.sampled_from(HOSTS), of=st.sampled_from(FLAVORS))
    def move(self, data: st.DataObject, kind: MoveKind, host: str, of: Flavor) -> None:
        """Begin a move."""
        uuid = data.draw(st.sampled_from(self.settled))
        try:
            done = self.desk.claims.move(uuid, kind, f"node-{host}", flavor=of if kind == "resize" else None)
        except InvalidInput:
            # To the node where it is, or to the flavor that it has.
            event(f"{kind}: makes no sense")
            return
        event(f"{kind}: {type(done).__name__}")

    @precondition(lambda self: self.moving)
    @rule(data=st.data(), step=st.sampled_from(("finish", "finish", "abort")))
    def go_on(self, data: st.DataObject, step: str) -> None:
        """Finish a move that has begun, or give it up."""
        done = getattr(self.desk.claims, step)(data.draw(st.sampled_from(self.moving)))
        event(f"{step} of a {done.migration.migration_type}")

    @precondition(lambda self: self.finished)
    @rule(data=st.data(), step=st.sampled_from(("confirm", "revert")))
    def end(self, data: st.DataObject, step: str) -> None:
        """End a finished move."""
        done = getattr(self.desk.claims, step)(data.draw(st.sampled_from(self.finished)))
        event(f"{step} of a {done.migration.migration_type}")

    @precondition(lambda self: self.settled or self.moving or self.finished)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        """Take a promise back, whatever its state."""
        self.desk.claims.release(data.draw(st.sampled_from(self.settled + self.moving + self.finished)))

    @precondition(lambda self: self.settled)
    @rule(data=st.data())
    def shelve(self, data: st.DataObject) -> None:
        """Let a machine go somewhere else's storage, as who shelves it writes it, and unshelve it."""
        instance = self.desk.instance(data.draw(st.sampled_from(self.settled)))
        gone = replace(instance, host=None, node=None, vm_state="shelved_offloaded", numa_topology=None)
        self.desk.context["alpha"].ledger.change_instances([gone])
        self.desk.refresh()
        done = self.desk.claims.unshelve(instance.uuid, "node-beta")
        event(f"unshelve: {type(done).__name__}")

    @rule(host=st.sampled_from(HOSTS))
    def refresh(self, host: str) -> None:
        """Take stock of a host."""
        self.desk.refresh(host)

    @precondition(lambda self: self.pending or self.moving)
    @rule(seconds=st.sampled_from((10, 400, 700)))
    def wait(self, seconds: int) -> None:
        """Let time pass, and claims expire."""
        self.desk.clock.pass_by(seconds)
        self.desk.refresh()

    @invariant()
    def is_true(self) -> None:
        """Every record is what a whole count gives, and nothing is held twice."""
        if not hasattr(self, "desk"):
            return
        found = self.desk.context["alpha"].ledger.instances()
        moves = self.desk.context["alpha"].ledger.migrations()
        self.pending = [one.uuid for one in found if one.vm_state == "building"]
        self.settled = [one.uuid for one in found if one.vm_state == "active" and one.task_state is None]
        self.moving = [move.instance_uuid for move in moves if move.claim_expires_at is not None]
        self.finished = [one.uuid for one in found if one.vm_state == "resized"]
        self.desk.is_true()
        for host in HOSTS:
            pins = Counter(pin for one in found for pin in pins_of(one, moves, host))
            assert all(count == 1 for count in pins.values()), f"pinned twice on {host}: {pins}"
            assert not [one for one in self.desk.node(host).problems if one.code.endswith(("-taken", "-unknown"))]
            held = Counter(address for entry in self.desk.entries(host).values() for address in entry.pci)
            assert all(count == 1 for count in held.values())
            assert held.keys() == self.desk.holders(host).keys()
        self.check_scheduler()

    def check_scheduler(self) -> None:
        """Hold the scheduler to the books, where it is ours."""

    def teardown(self) -> None:
        """Close the hosts."""
        self.opened.close()


def pins_of(instance: Instance, moves: Sequence[Migration], host: str) -> set[int]:
    """Collect the host CPUs that a machine is, or may come to be, pinned to on a host."""
    sides = [instance.numa_topology] if instance.host == host else []
    context = instance.migration_context
    for move in moves:
        if context is not None and move.id == context.migration_id:
            sides += [context.old_numa_topology] if move.source_compute == host else []
            sides += [context.new_numa_topology] if move.dest_compute == host else []
    return {pin for side in sides if side for cell in side.cells for pin in (cell.cpu_pinning or {}).values()}


class OwnPromises(Promises):
    """The same, and a real Placement holds what the books say."""

    server: PlacementServer

    def __init__(self) -> None:
        super().__init__()
        Readback(self.server.url).clear()
        self.settings_of_desk = {"placement": remote(self.server), "allocations": "own"}

    def check_scheduler(self) -> None:
        """Compare what each consumer holds of the hosts' providers with the books."""
        there = Readback(self.server.url)
        uuids = {one["uuid"]: name for name, one in there.providers().items()}
        found: dict[str, dict[str, dict[str, int]]] = {}
        for uuid in uuids:
            for consumer, held in there.get(f"/resource_providers/{uuid}/allocations")["allocations"].items():
                found.setdefault(consumer, {})[uuid] = held["resources"]
        wanted: dict[str, dict[str, dict[str, int]]] = {}
        for host in HOSTS:
            node = self.desk.node(host)
            ledger = self.desk.context["alpha"].ledger
            entries, devices = ledger.entries(node.uuid), ledger.devices([node.uuid])[node.uuid]
            for consumer, resources in wanted_of(node, entries, devices, report_pci=True).items():
                wanted.setdefault(consumer, {}).update(resources)
        assert found == {consumer: resources for consumer, resources in wanted.items() if resources}


def few(examples: int, steps: int) -> settings:
    """Say how much is tried; `make soak` tries more."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    return settings(max_examples=examples * TIMES, stateful_step_count=steps, deadline=None, suppress_health_check=slow)


# Each part has a time limit of its own, and few enough steps to end in it on a machine that is ten times slower.
@pytest.mark.unmeasured
@pytest.mark.parametrize("part", range(4))
def test_given_any_history_of_promises_then_the_books_are_true_and_nothing_is_promised_twice(part: int) -> None:
    run_state_machine_as_test(Promises, settings=few(3, 30))


@pytest.mark.unmeasured
@pytest.mark.parametrize("part", range(4))
def test_given_any_history_with_own_allocations_then_placement_holds_what_the_books_say(
    placement_server: PlacementServer, part: int
) -> None:
    OwnPromises.server = placement_server
    run_state_machine_as_test(OwnPromises, settings=few(1, 12))
