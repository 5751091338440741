"""Every command on a fleet from afar: with `server.url` set it says and does what it does beside the database."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from stocktake.claims import Claimed, Refused, Request, building
from stocktake.client import Fleet, connected
from stocktake.clock import SystemClock
from stocktake.errors import NotFound, NotNow
from stocktake.model.fitting import Limits
from stocktake.model.value import replace
from stocktake.model.workload import Flavor
from tests.cli.program import HOST, Program
from tests.servers.serve import Served, secret_of, served

NODES = 3


@dataclass(frozen=True, slots=True)
class Stopped(SystemClock):
    """A clock that stands still, so that how long ago something was doesn't depend on who is asked first."""

    at: datetime

    def now(self) -> datetime:
        """Give the moment that it stopped at."""
        return self.at


@dataclass(frozen=True, slots=True)
class Sides:
    """The program beside the database, and the same from afar."""

    server: Served
    here: Program
    afar: Program

    def as_(self, token: str) -> Program:
        """Give the program from afar with another token."""
        settings = {**self.afar.settings, "server.token": secret_of(token)}
        return dataclasses.replace(self.afar, settings=settings)


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[Sides]:
    """Serve a fleet of which one pass was made."""
    with both_sides(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def quiet_sides(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sides]:
    """The same, where time stands still and nobody writes anything: one for all who only read."""
    with both_sides(tmp_path_factory.mktemp("quiet")) as made:
        clock = Stopped(datetime.now(UTC))
        made.here.clock = made.afar.clock = clock
        yield made


@contextmanager
def both_sides(directory: Path) -> Iterator[Sides]:
    """Serve a fleet, and give the programs."""
    for name in ("here", "afar", "served"):
        (directory / name).mkdir()
    here = Program(directory / "here", NODES)
    assert here.run("ledger", "init").code == 0
    here.promise(datetime.now(UTC))
    assert here.run("refresh").code == 0
    with served(directory / "served", f"sqlite:///{here.state / 'ledger.db'}") as server:
        settings = {"server.url": server.url, "server.token": secret_of("operator")}
        yield Sides(server, here, Program(directory / "afar", NODES, settings))


READING = (
    ("nodes",),
    ("nodes", "--state", "manual"),
    ("nodes", "--problem", "any"),
    ("show", "{node}"),
    ("explain", "{node}"),
    ("explain", "{node}", "vcpus_used"),
    ("history", "{node}"),
    ("instances",),
    ("instances", "--node", "{node}"),
    ("migrations", "--all"),
    ("services",),
    ("orphans",),
    ("fit", "--vcpus", "1", "--memory", "64"),
    ("watch", "--once"),
)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_given_a_command_that_reads_when_run_from_afar_then_it_says_the_same(
    quiet_sides: Sides, command: tuple[str, ...]
) -> None:
    beside, viewer = quiet_sides.here, quiet_sides.as_("viewer")
    node = beside.run("--json", "nodes").data[0]["hypervisor_hostname"]
    asked = [word.format(node=node) for word in command]
    here, afar = beside.run("--json", *asked), viewer.run("--json", *asked)
    assert (afar.code, afar.err) == (here.code, here.err)
    assert afar.data == here.data
    assert here.data
    text = viewer.run(*asked)
    assert (text.code, text.out.splitlines()[1:]) == (here.code, beside.run(*asked).out.splitlines()[1:])


def test_given_claims_when_made_and_settled_from_afar_then_the_ledger_has_them(sides: Sides) -> None:
    afar = sides.afar
    claimed = afar.run("--json", "claim", "vm", "--vcpus", "1", "--memory", "64", "--node", "auto")
    assert claimed.code == 0, claimed.err
    uuid = claimed.data["instance"]["uuid"]
    assert afar.run("keep", uuid).code == 0
    with sides.here.ledger() as ledger:
        (kept,) = ledger.instances(named=uuid)
        assert (kept.vm_state, kept.claim_expires_at, kept.name) == ("active", None, "vm")
    under = afar.run("claim", "two", "--vcpus", "1", "--memory", "64", "--node", "auto", "--", "true")
    assert under.code == 0, under.err
    assert afar.run("release", uuid).code == 0
    with sides.here.ledger() as ledger:
        assert ledger.instances(named=uuid) == ()
        assert [one.vm_state for one in ledger.instances(named="two")] == ["active"]
    full = afar.run("claim", "huge", "--vcpus", "1", "--memory", str(2**30), "--node", "auto")
    assert full.code == 1
    assert "memory" in full.err, full.err


def test_given_a_service_and_a_node_when_an_operator_acts_from_afar_then_it_is_done(sides: Sides) -> None:
    afar = sides.afar
    assert afar.run("services", "disable", HOST, "--reason", "broken fan").code == 0
    assert afar.run("--json", "services").data[0]["disabled_reason"] == "broken fan"
    assert afar.run("services", "enable", HOST).code == 0
    with sides.here.ledger() as ledger:
        node = ledger.nodes()[0]
        ledger.delete_instances([one.uuid for one in ledger.instances(node=node.hypervisor_hostname)])
    gone = afar.run("nodes", "--delete", node.hypervisor_hostname, "--yes", "--force")
    assert gone.code == 0, gone.err
    with sides.here.ledger() as ledger:
        assert node.uuid not in {one.uuid for one in ledger.nodes()}


@pytest.mark.parametrize(
    "command",
    [
        ("ledger", "export", "-"),
        ("ledger", "upgrade"),
        ("token", "list"),
        ("serve",),
    ],
    ids=" ".join,
)
def test_given_a_command_that_takes_the_database_when_run_from_afar_then_it_says_so(
    quiet_sides: Sides, command: tuple[str, ...]
) -> None:
    answer = quiet_sides.afar.run(*command)
    assert (answer.code, answer.out) == (2, "")
    assert quiet_sides.server.url in answer.err
    assert "this command needs its database" in answer.err


def test_given_a_viewers_token_when_writing_from_afar_then_it_is_refused(quiet_sides: Sides) -> None:
    viewer = quiet_sides.as_("viewer")
    for command in (
        ("claim", "vm", "--vcpus", "1", "--memory", "64", "--node", "auto"),
        ("services", "disable", HOST, "--reason", "x"),
        ("instances", "--delete", quiet_sides.here.run("--json", "instances").data[0]["uuid"]),
    ):
        answer = viewer.run(*command)
        assert answer.code == 2, answer.err
        assert "viewer" in answer.err


def test_given_doctor_when_run_on_a_host_behind_a_server_then_it_says_who_it_is_there(sides: Sides) -> None:
    state = sides.afar.state
    behind = {"ledger": sides.server.url, "server.token": secret_of("agent")}
    fine = Program(state, NODES, behind).run("doctor")
    assert f"signed in as agent of {HOST}" in fine.out, fine.out
    wrong = Program(state, NODES, {**behind, "server.token": secret_of("other")}).run("doctor")
    assert wrong.code == 1
    assert f"--role agent --host {HOST}" in wrong.out
    none = Program(state, NODES, {**behind, "server.token": "stk_nobody"}).run("doctor")
    assert none.code == 1
    assert "server.token" in none.out


@pytest.fixture
def fleet(sides: Sides) -> Iterator[Fleet]:
    with connected(sides.server.url, token=secret_of("operator")) as made:
        yield made


def test_given_the_python_client_when_asked_then_every_list_is_whole_and_every_answer_a_noun(
    sides: Sides, fleet: Fleet
) -> None:
    with sides.here.ledger() as ledger:
        nodes = ledger.nodes()
        assert [one.uuid for one in fleet.nodes(limit=2)] == [one.uuid for one in nodes]
        assert fleet.node(nodes[0].uuid).vcpus_used == nodes[0].vcpus_used
        assert fleet.explain(nodes[0].hypervisor_hostname, "vcpus_used")
        assert len(fleet.history(nodes[0].uuid)) == len(ledger.history(nodes[0].uuid, since_s=86_400))
        instances = ledger.instances()
        assert {one.uuid for one in fleet.instances(limit=1)} == {one.uuid for one in instances}
        assert fleet.instance(instances[0].uuid).uuid == instances[0].uuid
        assert [one.id for one in fleet.migrations(all=True)] == [one.id for one in ledger.migrations(all=True)]
        assert fleet.disable(HOST, "x").disabled
        assert not fleet.enable(HOST).disabled
        assert list(fleet.services())
        list(fleet.problems())
        list(fleet.orphans())
        assert fleet.fit(instances[0].flavor)
        assert fleet.who_am_i().role == "operator"


def test_given_a_machine_when_it_is_claimed_moved_and_let_go_from_afar_then_each_step_is_in_the_ledger(
    sides: Sides, fleet: Fleet
) -> None:
    claims, flavor = fleet.claims, Flavor(vcpus=1, memory_mb=64)
    first, second = (one.uuid for one in list(fleet.nodes())[:2])
    built = claims.build(first, Request(flavor=flavor))
    assert isinstance(built, Claimed)
    uuid = built.instance.uuid
    assert claims.renew(uuid, expires_s=50).instance.claim_expires_at is not None
    assert claims.keep(uuid).instance.vm_state == "active"
    assert isinstance(claims.move(uuid, "migration", second), Claimed)
    assert claims.abort(uuid).instance.node == built.instance.node
    assert isinstance(claims.move(uuid, "resize", second, flavor=replace(flavor, vcpus=2)), Claimed)
    assert claims.finish(uuid).instance.vm_state == "resized"
    assert claims.revert(uuid).instance.node == built.instance.node
    assert isinstance(claims.move(uuid, "migration", second, limits=Limits(vcpus=1e6)), Claimed)
    claims.finish(uuid)
    moved = claims.confirm(uuid).instance
    with sides.here.ledger() as ledger:
        (found,) = ledger.instances(named=uuid)
        assert (found.node, found.vm_state) == (moved.node, "active")
        assert moved.node == ledger.node(second).hypervisor_hostname
    refused = claims.move(uuid, "migration", first, limits=Limits(vcpus=0.0))
    assert isinstance(refused, Refused)
    assert refused.reasons
    with pytest.raises(NotNow):
        claims.confirm(uuid)
    with building(claims, first, Request(flavor=flavor)) as held:
        assert held.instance.claim_expires_at is not None
    with sides.here.ledger() as ledger:
        assert [one.vm_state for one in ledger.instances(named=held.instance.uuid)] == ["active"]
    claims.release(uuid)
    with pytest.raises(NotFound):
        fleet.instance(uuid)
