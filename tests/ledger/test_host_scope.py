"""An agent's token: its own host's rows, and no others, whatever it asks."""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from stocktake.client import RemoteLedger
from stocktake.errors import AccessDenied, NotFound, NotSignedIn, StocktakeError
from stocktake.ledger import DatabaseLedger, NodeSave
from stocktake.ledger.calls import CALLS, LedgerCall
from stocktake.model.books import ComputeNode, Entry, Tally
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration
from stocktake.refresh.claim_expiry import ClaimExpiry, settle_expired
from stocktake.refresh.locked import count_locked
from tests.ledger.behind import a_server, connected_to
from tests.ledger.conftest import DATABASES, database_of
from tests.ledger.making import device, exported, instance, migration, node, saved
from tests.servers.serve import BAD, HOST, OTHER_HOST

# Their modules declare them.
JOBS = (count_locked, settle_expired)


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
    their_gone_node: ComputeNode
    their_move: Migration

    @property
    def mine_by_kind(self) -> dict[str, str | int]:
        """What is the agent's own."""
        uuids = {"node": self.mine.uuid, "instance": self.my_instance.uuid}
        return {"host": HOST, **uuids, "migration": 99, "deleted instance": "none", "deleted node": "none"}

    @property
    def theirs_by_kind(self) -> dict[str, str | int]:
        """What is the other host's."""
        return {
            "host": OTHER_HOST,
            "node": self.theirs.uuid,
            "instance": self.their_instance.uuid,
            "deleted instance": self.their_gone.uuid,
            "deleted node": self.their_gone_node.uuid,
            "migration": self.their_move.id,
        }


@pytest.fixture
def ours(url: str, tmp_path: Path) -> Iterator[Ours]:
    """Fill a ledger with two hosts' rows."""
    with two_hosts(url, tmp_path) as filled:
        yield filled


@pytest.fixture(scope="module", params=DATABASES)
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
        their_gone_node = saved(ledger, node("gone", OTHER_HOST))
        ledger.delete_node(their_gone_node.uuid)
        ledger.put_instances([my_instance, their_instance, their_gone])
        ledger.put_migrations([their_move])
        ledger.register(OTHER_HOST, version="1")
        yield Ours(
            at, ledger, agent, mine, theirs, my_instance, their_instance, their_gone, their_gone_node, their_move
        )


def a_save(record: ComputeNode, **tally: object) -> NodeSave:
    return NodeSave(
        tally=Tally(node=record, entries=(), **tally),  # type: ignore[arg-type]
        expected_generation=record.generation,
    )


# What a field names, by the end of its path; `{}` are the keys of a mapping, `[]` its values or the items of a list.
KINDS = {
    "host": r"\.(host|source_compute|dest_compute)$",
    "node": r"\.node_uuids?(\[\])?$|\.node\.uuid$|^delete_node\.uuid$|\.failures\{\}$|^count_locked\.uuids\[\]$",
    "instance": r"\.instances\[\]\.uuid$|\.instance_uuid$|^delete_instances\.uuids\[\]$"
    r"|^settle_expired\.expiry\.(late|moving|running|stopped)\[\]$",
    "deleted instance": r"\.released\[\]$",
    "deleted node": r"^note_provider_deleted\.uuids\[\]$",
    "migration": r"\.stale_migrations\[\]$|\.migrations\[\]\.id$",
}
# What may name anybody: by the end of its path, why.
OPEN = {
    r"^known_consumers\.uuids\[\]$": "an agent must not take another's allocation for one of nobody",
    r"^owners\.uuids\[\]$": "an agent must learn that what it takes for its identity is another's",
    r"^nodes_in_brief\.uuids\[\]$|^node\.name_or_uuid$": "it is looked for among the host's own",
    r"\.guests\[\](\[\]|\.uuid)$|\.unmanaged\[\]$": "a guest that runs on the host may be another's instance",
    r"\.entries\[\]\.(id|consumer)$": "an entry of the host's own node may be of another's guest, or of a move",
    r"\.migrations\[\]\.uuid$": "its own",
    r"^count_locked\.uuids\{\}$": "names of nodes, of which a host has its own",
}
# A field whose name is like this names somebody.
NAMES = re.compile(
    r"uuid|(host|compute|consumer|migrations\[\]\.id|entries\[\]\.id)$|\.failures\{\}$"
    r"|\.(released|stale_migrations|late|moving|running|stopped|unmanaged)\[\]$|guests\[\]\[\]$"
)
AGENTS_CALLS = {name: call for name, call in CALLS.items() if "agent" in call.roles}


@dataclass
class Sample:
    """
    Arguments made of a type, every field filled: what names somebody, names `values`.

    Attributes:
        values: by kind.
        at: the path of the field that gets the foreign value.
        paths: those of all fields, as they were filled.
    """

    values: Mapping[str, str | int]
    at: str = ""
    foreign: str | int = ""
    paths: list[str] = field(default_factory=list)

    def of(self, kind: inspect.Type, path: str) -> Any:
        """Fill one type."""
        match kind:
            case inspect.StructType(fields=fields):
                return {one.encode_name: self.of(one.type, f"{path}.{one.name}") for one in fields}
            case inspect.UnionType(types=types):
                return self.of(next(one for one in types if not isinstance(one, inspect.NoneType)), path)
            case inspect.DictType(key_type=key, value_type=value):
                return {self.of(key, f"{path}{{}}"): self.of(value, f"{path}[]")}
            case inspect.CollectionType(item_type=item):
                return [self.of(item, f"{path}[]")]
            case inspect.TupleType(item_types=items):
                return [self.of(item, f"{path}[]") for item in items]
            case _:
                return self._scalar(kind, path)

    def _scalar(self, kind: inspect.Type, path: str) -> Any:
        if isinstance(kind, inspect.StrType | inspect.IntType):
            return self._leaf(path, "x" if isinstance(kind, inspect.StrType) else 1)
        if isinstance(kind, inspect.LiteralType):
            return kind.values[0]
        plain = {inspect.BoolType: False, inspect.FloatType: 1.0, inspect.AnyType: None}
        return plain.get(type(kind), "2026-01-01T00:00:00Z")

    def _leaf(self, path: str, plain: str | int) -> str | int:
        self.paths.append(path)
        kind = kind_of(path)
        return self.foreign if path == self.at else self.values.get(kind, plain) if kind else plain


def kind_of(path: str) -> str | None:
    """Say what a field names."""
    return next((kind for kind, end in KINDS.items() if re.search(end, path)), None)


def paths_of(call: LedgerCall) -> list[str]:
    """List the paths of what a call takes."""
    sample = Sample({})
    sample.of(inspect.type_info(call.arguments), call.name)
    return sample.paths


def sent(agent: RemoteLedger, call: LedgerCall, sample: Sample) -> object:
    """Send a call's sample as it is."""
    return agent._transport.ask(
        "POST", call.path, sample.of(inspect.type_info(call.arguments), call.name), None, retryable=False
    )


FOREIGN = [(name, path) for name, call in AGENTS_CALLS.items() for path in paths_of(call) if kind_of(path)]


@pytest.mark.parametrize(("name", "path"), FOREIGN, ids=[path for _, path in FOREIGN])
def test_given_a_call_when_a_field_of_it_names_another_hosts_then_it_is_refused_and_nothing_changed(
    untouched: Ours, name: str, path: str
) -> None:
    kind = kind_of(path)
    assert kind is not None
    before = exported(untouched.ledger)
    with pytest.raises(AccessDenied):
        sent(untouched.agent, CALLS[name], Sample(untouched.mine_by_kind, path, untouched.theirs_by_kind[kind]))
    assert exported(untouched.ledger) == before


@pytest.mark.parametrize("name", AGENTS_CALLS)
def test_given_a_call_about_nothing_but_its_own_when_an_agent_makes_it_then_it_is_not_refused(
    ours: Ours, name: str
) -> None:
    """What a sample says need not make sense; whose it is, is looked at first."""
    try:
        sent(ours.agent, CALLS[name], Sample(ours.mine_by_kind))
    except AccessDenied:
        raise
    except StocktakeError:
        pass


def test_given_the_calls_then_of_every_field_that_names_somebody_is_said_what_it_names() -> None:
    paths = {path for call in AGENTS_CALLS.values() for path in paths_of(call)}
    named = {path for path in paths if NAMES.search(path)}
    assert {path for path in named if kind_of(path) is None and not any(re.search(end, path) for end in OPEN)} == set()
    assert {kind_of(path) for path in paths} == {*KINDS, None}


def test_given_the_calls_then_these_are_for_operators_or_readers_and_no_agent() -> None:
    assert CALLS.keys() - AGENTS_CALLS.keys() == {"set_service", "take_nodes", "give_nodes", "instances_page"}


@pytest.mark.parametrize("name", sorted(CALLS.keys() - AGENTS_CALLS.keys()))
def test_given_a_call_that_is_not_declared_for_agents_when_one_makes_it_about_itself_then_it_is_refused(
    untouched: Ours, name: str
) -> None:
    before = exported(untouched.ledger)
    call, sample = CALLS[name], Sample(untouched.mine_by_kind)
    with pytest.raises(AccessDenied):
        sent(untouched.agent, call, sample)
    arguments = msgspec.convert(sample.of(inspect.type_info(call.arguments), name), call.arguments)
    with pytest.raises(AccessDenied):
        untouched.ledger.carry(call, arguments, host=HOST)
    assert exported(untouched.ledger) == before


def test_given_a_function_that_is_no_declared_call_then_there_is_no_way_to_it(untouched: Ours) -> None:
    for name in ("transaction", "export", "import_", "change_stamps", "free_devices", "nonsense"):
        with pytest.raises(NotFound):
            untouched.agent._transport.ask("POST", f"/v1/ledger/{name}", {}, None, retryable=False)


@pytest.mark.parametrize(
    "what",
    [
        lambda it: it.agent.put_instances([instance(host=None)]),
        lambda it: it.agent.change_instances([replace(it.their_instance, host=HOST)]),
        lambda it: it.agent.save([a_save(it.mine), a_save(replace(it.theirs, host=HOST))]),
        lambda it: it.agent.put_migrations([migration(2, it.my_instance.uuid, source_compute=None, dest_compute=None)]),
    ],
    ids=["nowhere", "their instance, to itself", "their node, as its own", "a move from nowhere to nowhere"],
)
def test_given_an_agent_when_it_takes_what_is_not_its_own_then_it_is_refused(
    untouched: Ours, what: Callable[[Ours], object]
) -> None:
    before = exported(untouched.ledger)
    with pytest.raises(AccessDenied):
        what(untouched)
    assert exported(untouched.ledger) == before


@pytest.mark.parametrize("why", ["it comes here", "its guest runs here"])
def test_given_a_device_that_anothers_instance_holds_here_when_saved_then_it_is_not_refused(
    ours: Ours, why: str
) -> None:
    uuid = ours.their_instance.uuid
    if why == "it comes here":
        ours.ledger.put_migrations([migration(7, uuid, source_compute=OTHER_HOST, dest_compute=HOST)])
    entries = (Entry(kind="misplaced", id=uuid, why="x"),) if why == "its guest runs here" else ()
    held = device(status="allocated", instance_uuid=uuid)
    tally = Tally(node=ours.mine, entries=entries, pci_devices=(held,))
    outcome = ours.agent.save([NodeSave(tally=tally, expected_generation=ours.mine.generation)])
    assert outcome.saved.keys() == {ours.mine.uuid}
    assert ours.ledger.devices([ours.mine.uuid]) == {ours.mine.uuid: (held,)}


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
    assert ours.theirs.uuid in [one.uuid for one in ours.ledger.deleted_nodes(OTHER_HOST)]


def test_given_an_agent_when_it_looks_for_another_hosts_node_then_it_is_as_if_there_were_none(ours: Ours) -> None:
    assert ours.agent.node("mine") == ours.agent.node(ours.mine.uuid) == ours.mine
    for name in ("theirs", ours.theirs.uuid):
        with pytest.raises(NotFound) as caught:
            ours.agent.node(name)
        assert "theirs" not in str(caught.value).replace(repr(name), "")


def test_given_an_agent_when_it_keeps_its_own_books_then_all_is_well(ours: Ours) -> None:
    agent = ours.agent
    read = agent.snapshot(HOST, ("mine",), {"mine": frozenset()})
    assert read.works["mine"].record == ours.mine
    assert read.works["mine"].instances[0].uuid == ours.my_instance.uuid
    assert agent.owners([ours.theirs.uuid]) == {ours.theirs.uuid: OTHER_HOST}
    assert agent.known_consumers([ours.their_instance.uuid]) == {ours.their_instance.uuid}
    assert agent.save([a_save(replace(ours.mine, vcpus_used=3))]).saved[ours.mine.uuid].vcpus_used == 3
    assert agent.heartbeat(HOST, version="2").service.host == HOST
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
            lambda: settle_expired(viewer, ClaimExpiry(host=HOST, own=False)),
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
