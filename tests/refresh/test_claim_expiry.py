"""Claims that nobody settled: a guest that is there settles its claim, what has expired without one is given back."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stocktake.accounting import lifecycle
from stocktake.accounting.lifecycle import Location, MoveKind
from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.ledger.calls import LedgerCall
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.context import Fleet, a_guest, an_instance, context_of, database_of, dump

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SOON, LONG_AGO = NOON + timedelta(minutes=10), NOON - timedelta(seconds=1)
GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
OTHER = "bbbbbbbb-0000-4000-8000-000000000002"
ONE, TWO = Location(host="alpha", node="one"), Location(host="alpha", node="two")
AWAY = Location(host="beta", node="three")
GPU, GPU_2 = "0000:05:00.0", "0000:06:00.0"
DEVICES = [{"address": address, "vendor_id": "10de", "product_id": "20b5"} for address in (GPU, GPU_2)]


class Noon(SystemClock):
    """A clock that stands."""

    def now(self) -> datetime:
        """Give noon."""
        return NOON


class Interrupted(DatabaseLedger):
    """A ledger in which somebody is faster: after a pass has read, before it writes."""

    first: Callable[[DatabaseLedger], object] = staticmethod(lambda _: None)

    def carry(self, call: LedgerCall, arguments: msgspec.Struct, *, host: str | None = None) -> Any:
        """Let the other go first."""
        if call.name == "settle_expired":
            go, self.first = self.first, lambda _: None
            go(self)
        return super().carry(call, arguments, host=host)


@pytest.fixture
def fleet(tmp_path: Path) -> Fleet:
    return Fleet(tmp_path / "fleet.json").has("one").has("two")


@pytest.fixture
def context(tmp_path: Path, fleet: Fleet) -> Iterator[Context]:
    with opened(tmp_path) as made:
        refresh(made)
        yield made


@contextmanager
def opened(tmp_path: Path, **settings: Any) -> Iterator[Context]:
    with context_of(tmp_path, clock=Noon(), pci={"device_spec": [{"vendor_id": "10de"}]}, **settings) as made:
        yield made


def a_claim(expires_at: datetime | None, **fields: Any) -> Instance:
    """A build on node one that is to take 2 vCPUs, 2,048 MiB and 20 GiB."""
    said = {"vm_state": "building", "task_state": "spawning", "claim_expires_at": expires_at, **fields}
    return an_instance(GUEST, host="alpha", node="one", **said)


def put(context: Context, instance: Instance, *moves: Migration) -> None:
    context.ledger.put_instances([instance])
    context.ledger.put_migrations(moves)


def the_instance(context: Context) -> Instance:
    (found,) = context.ledger.instances()
    return found


def the_move(context: Context) -> Migration:
    (found,) = context.ledger.migrations(all=True)
    return found


# When it expires, the guest's state if there is one: what becomes of the claim.
@pytest.mark.parametrize(
    ("expires_at", "guest", "becomes"),
    [
        (SOON, None, "pending"),
        (SOON, "running", "active"),
        (SOON, "shutoff", "pending"),
        (NOON, None, "given back"),
        (LONG_AGO, None, "given back"),
        (LONG_AGO, "running", "active"),
        (LONG_AGO, "shutoff", "stopped"),
        (None, None, "pending"),
        (None, "running", "pending"),
    ],
)
def test_given_a_claim_of_a_build_when_refreshed_then_its_guest_or_the_time_settles_it(
    fleet: Fleet, context: Context, expires_at: datetime | None, guest: str | None, becomes: str
) -> None:
    put(context, a_claim(expires_at))
    if guest is not None:
        fleet.has("one", guests=[a_guest(GUEST, state=guest, active=guest == "running")])
    result = refresh(context)
    assert result.fine
    counted = 0 if becomes == "given back" else 1
    assert (result.nodes["one"].vcpus_used, result.nodes["one"].running_vms) == (2 * counted, counted)
    assert result.nodes["one"].memory_mb_used == 512 + 2048 * counted
    if becomes == "given back":
        assert (result.expired, context.ledger.instances()) == ([GUEST], ())
        return
    assert result.expired == []
    found = the_instance(context)
    states = {"pending": ("building", None), "active": ("active", 1), "stopped": ("stopped", 4)}
    assert (found.vm_state, found.power_state) == states[becomes]
    assert found.claim_expires_at == (expires_at if becomes == "pending" else None)
    assert found.task_state == ("spawning" if becomes == "pending" else None)
    assert result.nodes["one"].stats[f"num_vm_{found.vm_state}"] == 1


def test_given_settled_claims_when_refreshed_again_then_nothing_is_written(fleet: Fleet, context: Context) -> None:
    put(context, a_claim(LONG_AGO))
    fleet.has("one", guests=[a_guest(GUEST)])
    refresh(context)
    before = dump(context.ledger)
    assert refresh(context).changed == set()
    assert dump(context.ledger) == before


def test_given_an_expired_claim_when_given_back_then_that_is_told_once(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    put(context, a_claim(LONG_AGO))
    refresh(context)
    refresh(context)
    told = [record for record in caplog.records if record.name == "stocktake.refresh.claim_expiry"]
    assert [vars(record)["instance"] for record in told] == [GUEST]


def test_given_a_node_in_trouble_when_refreshed_then_no_claim_on_it_expires(fleet: Fleet, context: Context) -> None:
    """Whether its guest is there can't be known."""
    put(context, a_claim(LONG_AGO))
    fleet.has("one", fault={"raise": "DriverError"})
    assert refresh(context).expired == []
    assert the_instance(context).vm_state == "building"
    fleet.has("one")
    assert refresh(context).expired == [GUEST]


def test_given_only_one_node_asked_for_when_refreshed_then_claims_on_others_wait(context: Context) -> None:
    put(context, a_claim(LONG_AGO))
    assert refresh(context, only="two").expired == []
    assert refresh(context, only="one").expired == [GUEST]


@pytest.mark.parametrize(("expires_at", "guest"), [(SOON, False), (LONG_AGO, False), (LONG_AGO, True)])
def test_given_a_claim_of_an_unshelve_when_refreshed_then_its_guest_settles_it_or_it_is_shelved_again(
    fleet: Fleet, context: Context, expires_at: datetime, *, guest: bool
) -> None:
    shelved = an_instance(GUEST, host="alpha", node="one", vm_state="shelved_offloaded")
    shelved = replace(shelved, host=None, node=None)
    put(context, lifecycle.unshelving(shelved, ONE, None, expires_at))
    if guest:
        fleet.has("one", guests=[a_guest(GUEST)])
    result = refresh(context)
    found = the_instance(context)
    if guest:
        assert (found.vm_state, found.task_state, found.node, result.expired) == ("active", None, "one", [])
    elif expires_at == SOON:
        assert (found.task_state, found.claim_expires_at, result.expired) == ("spawning", SOON, [])
    else:
        times = {"created_at": found.created_at, "updated_at": found.updated_at}
        assert (found, result.expired) == (replace(shelved, **times), [GUEST])
    assert result.nodes["one"].running_vms == (0 if result.expired else 1)


def a_move(
    kind: MoveKind, source: Location, dest: Location, expires_at: datetime | None, devices: tuple[str, ...] = ()
) -> tuple[Instance, Migration]:
    """A move that has begun: a resize to 4 vCPUs and 4,096 MiB, or another of 2 vCPUs and 2,048 MiB."""
    instance = an_instance(GUEST, host=source.host, node=source.node)
    step = lifecycle.begun(
        instance,
        kind,
        dest,
        flavor=Flavor(id=9, vcpus=4, memory_mb=4096, root_gb=20) if kind == "resize" else None,
        numa=None,
        devices=devices,
        migration_id=1,
        migration_uuid=OTHER,
        expires_at=expires_at,
    )
    assert step.migration is not None
    return step.instance, step.migration


@pytest.mark.parametrize(
    ("kind", "status"),
    [("resize", "failed"), ("migration", "failed"), ("live-migration", "cancelled"), ("evacuation", "failed")],
)
@pytest.mark.parametrize(("source", "dest"), [(ONE, TWO), (AWAY, ONE), (ONE, AWAY)])
def test_given_an_expired_move_when_refreshed_then_it_is_aborted_and_the_instance_is_where_it_was(
    context: Context, kind: MoveKind, status: str, source: Location, dest: Location
) -> None:
    instance, move = a_move(kind, source, dest, LONG_AGO)
    put(context, instance, move)
    result = refresh(context)
    assert result.expired == [GUEST]
    found = the_instance(context)
    assert (found.host, found.node, found.vm_state, found.task_state) == (source.host, source.node, "active", None)
    assert (found.migration_context, found.new_flavor) == (None, None)
    assert (the_move(context).status, the_move(context).claim_expires_at) == (status, None)
    used = {name: result.nodes[name].vcpus_used for name in ("one", "two")}
    assert used == {"one": 2 if source == ONE else 0, "two": 0}
    assert refresh(context).expired == []


def finish(ledger: DatabaseLedger, instance: Instance, move: Migration) -> None:
    step = lifecycle.finished(instance, move)
    assert step.migration is not None
    with ledger.transaction() as books:
        books.change_instances([step.instance])
        books.change_migrations([step.migration])


@pytest.mark.parametrize("status", ["pre-migrating", "finished"])
def test_given_a_move_that_is_not_over_when_refreshed_then_it_keeps_its_room(context: Context, status: str) -> None:
    instance, move = a_move("resize", ONE, TWO, SOON if status == "pre-migrating" else None)
    put(context, instance, move)
    if status == "finished":
        finish(database_of(context), instance, move)
    result = refresh(context)
    assert (result.expired, the_move(context).status) == ([], status)
    assert {name: result.nodes[name].vcpus_used for name in ("one", "two")} == {"one": 2, "two": 4}


@pytest.mark.parametrize("dest", [ONE, AWAY])
def test_given_an_expired_resize_with_devices_when_aborted_then_only_those_of_the_new_side_are_free(
    tmp_path: Path, fleet: Fleet, dest: Location
) -> None:
    """On its own node, the instance keeps the device that it had."""
    fleet.has("one", report={"pci_passthrough_devices": DEVICES})
    with opened(tmp_path) as context:
        refresh(context)
        instance, move = a_move("resize", ONE, dest, LONG_AGO, devices=(GPU_2,))
        before = replace(instance.migration_context, old_pci_devices=(GPU,))
        put(context, replace(instance, migration_context=before), move)
        with database_of(context).transaction() as books:
            (held,) = books.hold([context.ledger.node("one").uuid]).values()
            devices = [
                replace(one, status="claimed", instance_uuid=GUEST) if one.address == GPU or dest == ONE else one
                for one in books.devices([held.uuid])[held.uuid]
            ]
            books.write_books(held, held, gone=(), come=(), devices=devices)
        result = refresh(context)
        assert result.expired == [GUEST]
        found = context.ledger.work("alpha", ["one"], {})["one"].pci_devices
        assert [(one.address, one.instance_uuid) for one in found] == [(GPU, GUEST), (GPU_2, None)]
        assert [pool.count for pool in result.nodes["one"].pci_device_pools] == [1]


def test_given_an_expired_move_of_an_instance_that_is_deleted_when_refreshed_then_its_room_is_given_back_once(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    """A deleted instance's record is still there, and would hold the room for ever."""
    instance, move = a_move("resize", AWAY, ONE, LONG_AGO)
    put(context, instance, move)
    context.ledger.delete_instances([GUEST])
    result = refresh(context)
    assert (the_move(context).status, the_move(context).claim_expires_at) == ("failed", None)
    assert result.nodes["one"].vcpus_used == 0
    assert (result.expired, refresh(context).expired) == ([GUEST], [])
    assert len([record for record in caplog.records if record.name == "stocktake.refresh.claim_expiry"]) == 1


def test_given_an_expired_move_that_the_instance_is_not_in_when_refreshed_then_it_is_an_error_and_no_other_is(
    context: Context,
) -> None:
    instance, move = a_move("resize", ONE, TWO, None)
    stale = replace(move, id=2, uuid=None, claim_expires_at=LONG_AGO)
    put(context, instance, move, stale)
    result = refresh(context)
    found = {one.id: one for one in context.ledger.migrations(all=True)}
    assert [(one.status, one.claim_expires_at) for one in found.values()] == [("pre-migrating", None), ("error", None)]
    assert the_instance(context).task_state == "resize_prep"
    assert result.nodes["two"].vcpus_used == 4
    assert refresh(context).expired == []


@pytest.mark.parametrize(("guest", "expires_at"), [(True, SOON), (False, LONG_AGO)])
def test_given_a_claim_whose_state_somebody_else_settled_when_refreshed_then_it_stays_and_is_pending_no_more(
    fleet: Fleet, context: Context, expires_at: datetime, *, guest: bool
) -> None:
    """A program that knows Nova's columns only; the pass of the whole host must not fail for it, nor its machine go."""
    put(context, a_claim(expires_at, vm_state="active", task_state=None))
    if guest:
        fleet.has("one", guests=[a_guest(GUEST)])
    result = refresh(context)
    assert result.fine
    found = the_instance(context)
    assert (found.vm_state, found.claim_expires_at, result.expired) == ("active", None, [])
    assert result.nodes["one"].running_vms == 1


@pytest.mark.parametrize("status", ["migrating", "error"])
def test_given_an_expired_move_that_somebody_else_took_on_when_refreshed_then_it_stays_and_is_pending_no_more(
    context: Context, status: str
) -> None:
    instance, move = a_move("resize", ONE, TWO, LONG_AGO)
    put(context, instance, replace(move, status=status))
    result = refresh(context)
    assert (result.fine, result.expired) == (True, [])
    assert (the_move(context).status, the_move(context).claim_expires_at) == (status, None)
    assert result.nodes["two"].vcpus_used == 4


def interrupted(tmp_path: Path, first: Callable[[DatabaseLedger], object]) -> Interrupted:
    plain = open_ledger(f"sqlite:///{tmp_path}/stocktake.db", clock=Noon(), ids=RandomIds())
    ledger = Interrupted(plain._database, None, Noon(), RandomIds())
    ledger.first = first
    return ledger


def change(ledger: DatabaseLedger, how: Callable[[Instance], Instance]) -> None:
    ledger.change_instances([how(one) for one in ledger.instances()])


def release(ledger: DatabaseLedger) -> None:
    ledger.delete_instances([GUEST])


@pytest.mark.parametrize("guests", [[], [a_guest(GUEST, state="shutoff", active=False)]])
@pytest.mark.parametrize(
    ("meanwhile", "left"),
    [
        (lambda ledger: change(ledger, lambda one: replace(one, claim_expires_at=SOON)), [("building", SOON)]),
        (lambda ledger: change(ledger, lifecycle.built), [("active", None)]),
        (release, []),
    ],
)
def test_given_an_expired_claim_that_somebody_renews_or_settles_meanwhile_when_refreshed_then_that_holds(
    tmp_path: Path,
    fleet: Fleet,
    guests: list[object],
    meanwhile: Callable[[DatabaseLedger], object],
    left: list[object],
) -> None:
    fleet.has("one", guests=guests)
    with context_of(tmp_path, clock=Noon(), ledger=interrupted(tmp_path, meanwhile)) as context:
        put(context, a_claim(LONG_AGO))
        result = refresh(context)
        assert (result.fine, result.expired) == (True, [])
        found = context.ledger.instances()
        assert [(one.vm_state, one.claim_expires_at) for one in found] == left
        assert result.nodes["one"].running_vms == len(found)


def test_given_a_running_guest_whose_claim_is_given_back_meanwhile_when_refreshed_then_it_is_an_orphan(
    tmp_path: Path, fleet: Fleet
) -> None:
    fleet.has("one", guests=[a_guest(GUEST)])
    with context_of(tmp_path, clock=Noon(), ledger=interrupted(tmp_path, release)) as context:
        put(context, a_claim(SOON))
        result = refresh(context)
        assert (result.fine, context.ledger.instances()) == (True, ())
        kinds = [entry.kind for entry in context.ledger.entries(result.nodes["one"].uuid)]
        assert kinds == ["reserved", "orphan"]


def test_given_an_expired_move_that_is_finished_meanwhile_when_refreshed_then_it_stays_finished(
    tmp_path: Path, fleet: Fleet
) -> None:
    instance, move = a_move("resize", ONE, TWO, LONG_AGO)
    go = interrupted(tmp_path, lambda ledger: finish(ledger, instance, move))
    with context_of(tmp_path, clock=Noon(), ledger=go) as context:
        put(context, instance, move)
        result = refresh(context)
        assert (result.expired, the_move(context).status, the_instance(context).node) == ([], "finished", "two")


@pytest.mark.parametrize(("allocations", "still_held"), [("own", {GUEST}), ("foreign", set())])
def test_given_an_expired_claim_when_given_back_then_the_scheduler_is_told_only_if_it_is_ours(
    tmp_path: Path, fleet: Fleet, allocations: str, still_held: set[str]
) -> None:
    with opened(tmp_path, allocations=allocations) as context:
        refresh(context)
        put(context, a_claim(LONG_AGO))
        # The pass is told to stop once the claim is settled: it reports nothing more.
        refresh(context, stop=lambda: not context.ledger.instances())
        assert context.ledger.work("alpha", ["one"], {})["one"].deleted_uuids == still_held
