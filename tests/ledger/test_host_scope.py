"""An agent's token: its own host's rows, and no others, whatever it asks."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from stocktake.ledger.rpc import CALLS

from stocktake.client import RemoteLedger
from stocktake.errors import AccessDenied, NotFound, NotSignedIn, StocktakeError
from stocktake.ledger import DatabaseLedger, NodeSave
from stocktake.ledger.host_scope import HostLedger
from stocktake.model.books import ComputeNode, Tally
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration
from stocktake.refresh.claim_expiry import ClaimExpiry
from tests.ledger.behind import a_server, connected_to
from tests.ledger.conftest import DOORS, database_of
from tests.ledger.making import exported, instance, migration, node, saved
from tests.servers.serve import BAD, HOST, OTHER_HOST

AWAY = Problem(code="DriverUnreachable", about="x", text="no answer")


@dataclass(frozen=True, slots=True)
class Ours:
    """What two hosts have in one ledger, and the agent of one of them."""

    at: str
    ledger: DatabaseLedger
    agent: RemoteLedger
    mine: ComputeNode
    theirs: ComputeNode
    my_instance: Instance
    their_instance: Instance
    their_gone: Instance
    their_move: Migration


@pytest.fixture
def ours(url: str, tmp_path: Path) -> Iterator[Ours]:
    """Fill a ledger with two hosts' rows."""
    with two_hosts(url, tmp_path) as filled:
        yield filled


@pytest.fixture(scope="module", params=DOORS)
def untouched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ours]:
    """The same, of which nobody changes anything: one for all who are to be refused."""
    directory = tmp_path_factory.mktemp("untouched")
    with database_of(request, request.param, directory) as url, two_hosts(url, directory) as filled:
        yield filled


@contextmanager
def two_hosts(url: str, directory: Path) -> Iterator[Ours]:
    """Serve a ledger with two hosts' rows."""
    with a_server(url, directory) as (at, ledger), contextlib.closing(connected_to(at, "agent")) as agent:
        mine, theirs = saved(ledger, node("mine", HOST)), saved(ledger, node("theirs", OTHER_HOST))
        my_instance = instance(host=HOST, node="mine")
        their_instance = instance(host=OTHER_HOST, node="theirs")
        their_gone = instance(host=OTHER_HOST, node="theirs", deleted=True)
        their_move = migration(
            1,
            their_instance.uuid,
            source_compute=OTHER_HOST,
            source_node="theirs",
            dest_compute="third",
            dest_node="third",
        )
        ledger.put_instances([my_instance, their_instance, their_gone])
        ledger.put_migrations([their_move])
        ledger.register(OTHER_HOST, version="1")
        yield Ours(at, ledger, agent, mine, theirs, my_instance, their_instance, their_gone, their_move)


def a_save(record: ComputeNode, **tally: object) -> NodeSave:
    return NodeSave(
        tally=Tally(node=record, entries=(), **tally),  # type: ignore[arg-type]
        expected_generation=record.generation,
    )


# By the call: what is another host's. `set_service`, taking and giving are for operators whatever they are about.
FOREIGN: dict[str, Callable[[Ours], object]] = {
    "nodes": lambda it: it.agent.nodes(host=OTHER_HOST),
    "nodes_in_brief": lambda it: it.agent.nodes_in_brief(host=OTHER_HOST),
    "deleted_nodes": lambda it: it.agent.deleted_nodes(OTHER_HOST),
    "entries": lambda it: it.agent.entries(it.theirs.uuid),
    "all_entries": lambda it: it.agent.all_entries([it.mine.uuid, it.theirs.uuid]),
    "devices": lambda it: it.agent.devices([it.theirs.uuid]),
    "unmanaged": lambda it: it.agent.unmanaged([it.theirs.uuid]),
    "service": lambda it: it.agent.service(OTHER_HOST),
    "work": lambda it: it.agent.work(OTHER_HOST, ("theirs",), {}),
    "snapshot": lambda it: it.agent.snapshot(OTHER_HOST, ("theirs",), {}),
    "instances": lambda it: it.agent.instances(host=OTHER_HOST),
    "instances_page": lambda it: it.agent.instances_page(after=0, limit=5, host=OTHER_HOST),
    "migrations": lambda it: it.agent.migrations(host=OTHER_HOST),
    "history": lambda it: it.agent.history(it.theirs.uuid, since_s=60),
    "register": lambda it: it.agent.register(OTHER_HOST, version="1"),
    "heartbeat": lambda it: it.agent.heartbeat(OTHER_HOST, version="1"),
    "set_service": lambda it: it.agent.set_service(HOST, disabled=True, reason="x"),
    "save": lambda it: it.agent.save([a_save(it.mine), a_save(it.theirs)]),
    "save under its own name": lambda it: it.agent.save([a_save(replace(it.theirs, host=HOST))]),
    "save with a migration": lambda it: it.agent.save([a_save(it.mine, stale_migrations=(it.their_move.id,))]),
    "save with a release": lambda it: it.agent.save(
        [replace(a_save(it.mine), released=frozenset({it.their_gone.uuid}))]
    ),
    "note_failures": lambda it: it.agent.note_failures({it.mine.uuid: AWAY, it.theirs.uuid: AWAY}),
    "note_released": lambda it: it.agent.note_released([it.their_gone.uuid]),
    "delete_node": lambda it: it.agent.delete_node(it.theirs.uuid),
    "owners.join": lambda it: it.agent.join_pool(OTHER_HOST, {"pool": "x"}),
    "owners.take": lambda it: it.agent.take_nodes({it.theirs.uuid: OTHER_HOST}, HOST),
    "owners.give": lambda it: it.agent.give_nodes({it.mine.uuid: OTHER_HOST}, HOST),
    "put_instances": lambda it: it.agent.put_instances([instance(host=HOST), instance(host=OTHER_HOST)]),
    "put_instances nowhere": lambda it: it.agent.put_instances([instance(host=None)]),
    "change_instances": lambda it: it.agent.change_instances([replace(it.their_instance, vm_state="error")]),
    "change_instances to itself": lambda it: it.agent.change_instances([replace(it.their_instance, host=HOST)]),
    "change_instances away": lambda it: it.agent.change_instances([replace(it.my_instance, host=OTHER_HOST)]),
    "delete_instances": lambda it: it.agent.delete_instances([it.my_instance.uuid, it.their_instance.uuid]),
    "put_migrations": lambda it: it.agent.put_migrations(
        [migration(2, it.their_instance.uuid, source_compute=OTHER_HOST, dest_compute="third")]
    ),
    "thin_history": lambda it: it.agent.thin_history([it.theirs.uuid]),
    "held lapse": lambda it: it.agent.held(ClaimExpiry(host=OTHER_HOST, own=False)),
}


@pytest.mark.parametrize("what", FOREIGN)
def test_given_an_agent_when_it_asks_for_another_hosts_then_it_is_refused_and_nothing_changed(
    untouched: Ours, what: str
) -> None:
    before = exported(untouched.ledger)
    with pytest.raises(AccessDenied):
        FOREIGN[what](untouched)
    assert exported(untouched.ledger) == before


def test_given_the_calls_then_each_that_touches_rows_was_tried() -> None:
    """Two say nothing but that somebody is known, and others look among the host's own only."""
    tried = {what.partition(" ")[0] for what in FOREIGN}
    assert CALLS.keys() - tried == {"known_consumers", "owners.read", "node", "services", "note_provider_deleted"}
    assert {name for name in CALLS if "." not in name and not hasattr(HostLedger, name)} == {
        "set_service",
        "instances_page",
    }


def test_given_an_agent_when_it_asks_for_all_then_it_has_those_of_its_host(ours: Ours) -> None:
    agent = ours.agent
    agent.register(HOST, version="1")
    ours.ledger.put_migrations([migration(7, ours.my_instance.uuid, source_compute=HOST, dest_compute=OTHER_HOST)])
    assert [one.uuid for one in agent.nodes()] == [one.uuid for one in agent.nodes_in_brief()] == [ours.mine.uuid]
    assert [one.uuid for one in agent.instances()] == [ours.my_instance.uuid]
    assert [one.id for one in agent.migrations()] == [7]
    assert [one.host for one in agent.services()] == [HOST]


def test_given_a_node_that_another_host_deleted_when_its_provider_is_said_to_be_gone_then_it_is_refused(
    ours: Ours,
) -> None:
    ours.ledger.delete_node(ours.theirs.uuid)
    with pytest.raises(AccessDenied):
        ours.agent.note_provider_deleted([ours.theirs.uuid])
    assert [one.uuid for one in ours.ledger.deleted_nodes(OTHER_HOST)] == [ours.theirs.uuid]


def test_given_an_agent_when_it_looks_for_another_hosts_node_then_it_is_as_if_there_were_none(ours: Ours) -> None:
    assert ours.agent.node("mine") == ours.agent.node(ours.mine.uuid) == ours.mine
    for name in ("theirs", ours.theirs.uuid):
        with pytest.raises(NotFound) as caught:
            ours.agent.node(name)
        assert "theirs" not in str(caught.value).replace(repr(name), "")


def test_given_a_lapse_that_names_others_when_done_then_they_stay_as_they_are(ours: Ours) -> None:
    """Whose instance it is, is looked at where its row is held."""
    expired = replace(ours.their_instance, vm_state="building", claim_expires_at=ours.mine.created_at)
    ours.ledger.change_instances([expired])
    before = exported(ours.ledger)
    uuids = frozenset({expired.uuid})
    ours.agent.held(ClaimExpiry(host=HOST, running=uuids, stopped=uuids, late=uuids, moving=uuids, own=True))
    assert exported(ours.ledger) == before


def test_given_an_agent_when_it_keeps_its_own_books_then_all_is_well(ours: Ours) -> None:
    agent = ours.agent
    read = agent.snapshot(HOST, ("mine",), {"mine": frozenset()})
    assert read.works["mine"].record == ours.mine
    assert read.works["mine"].instances[0].uuid == ours.my_instance.uuid
    assert agent.owners([ours.theirs.uuid]) == {ours.theirs.uuid: OTHER_HOST}
    assert agent.known_consumers([ours.their_instance.uuid]) == {ours.their_instance.uuid}
    assert agent.save([a_save(replace(ours.mine, vcpus_used=3))]).saved[ours.mine.uuid].vcpus_used == 3
    assert agent.heartbeat(HOST, version="2").host == HOST
    agent.delete_instances([ours.my_instance.uuid])
    agent.delete_node(ours.mine.uuid)
    agent.note_provider_deleted([ours.mine.uuid])
    assert agent.deleted_nodes(HOST) == ()


def test_given_a_viewer_when_it_reads_then_it_may_and_when_it_writes_then_it_may_not(ours: Ours) -> None:
    with contextlib.closing(connected_to(ours.at, "viewer")) as viewer:
        assert len(viewer.nodes()) == 2
        for write in (
            lambda: viewer.save([a_save(ours.mine)]),
            lambda: viewer.heartbeat(HOST, version="1"),
            lambda: viewer.held(ClaimExpiry(host=HOST, own=False)),
        ):
            with pytest.raises(AccessDenied):
                write()


@pytest.mark.parametrize("token", BAD)
def test_given_a_token_that_is_no_good_when_anything_is_asked_then_it_is_refused(untouched: Ours, token: str) -> None:
    with contextlib.closing(connected_to(untouched.at, token)) as nobody:
        for ask in (lambda: nobody.nodes(host=HOST), lambda: nobody.heartbeat(HOST, version="1")):
            with pytest.raises(NotSignedIn) as caught:
                ask()
            assert isinstance(caught.value, StocktakeError)
            assert "server.token" in caught.value.remedy
