"""Who is who: a host under another's name or id changes nothing at all; a node that moves keeps all that is its own."""

import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from stocktake.errors import NotFound
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.context import Fleet, a_guest, an_instance, context_of
from tests.servers.placement import PlacementServer
from tests.system.readback import Readback, remote
from tests.system.running import Host

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
FOREIGN = "bbbbbbbb-0000-4000-8000-000000000002"
UUIDS = {f"bm{number}": f"aaaaaaaa-0000-4000-8000-00000000000{number}" for number in range(1, 5)}
DEVICE = {"address": "0000:10:00.0", "vendor_id": "10de", "product_id": "20b5", "dev_type": "type-PCI"}
CHILD = "bm1_0000:10:00.0"
PCI = {"device_spec": [{"vendor_id": "10de", "product_id": "20b5"}]}


# Whole programs: two hosts that share a ledger and a Placement.


@pytest.fixture
def hosts(tmp_path: Path, server: PlacementServer) -> Mapping[str, Host]:
    """Two hosts of one node each, both taken stock of."""
    made: dict[str, Host] = {}
    for name in ("alpha", "beta"):
        fleet = Fleet(tmp_path / f"{name}.json").has(f"{name}.example", guests=[a_guest(str(uuid.uuid4()))])
        settings: dict[str, object] = {"host": name, "compute_driver": "fake", "fake.fleet": str(fleet.path)}
        settings |= {"database.connection": f"sqlite:///{tmp_path}/ledger.db"}
        settings |= {f"placement.{key}": value for key, value in remote(server).items()}
        made[name] = Host(tmp_path / name, settings)
        made[name].ask("refresh")
    return made


def compute_id(host: Host) -> Path:
    return host.state / "compute_id"


def test_given_the_ids_of_two_hosts_swapped_when_either_runs_then_it_stops_and_nothing_at_all_changes(
    hosts: Mapping[str, Host], there: Readback
) -> None:
    ids = {name: compute_id(host).read_text() for name, host in hosts.items()}
    compute_id(hosts["alpha"]).write_text(ids["beta"])
    compute_id(hosts["beta"]).write_text(ids["alpha"])
    refuses_all(hosts["alpha"], there, "belongs to host 'beta'", agent=True)
    refuses_all(hosts["beta"], there, "belongs to host 'alpha'")
    for name, host in hosts.items():
        compute_id(host).write_text(ids[name])
        host.ask("refresh")


def refuses_all(host: Host, there: Readback, what: str, *, agent: bool = False) -> None:
    """Whatever would write ends with 2 and says why; ledger and Placement are byte for byte the same."""
    lines, before = host.dump(), there.everything()
    agents = (("agent",), ("agent", "--once")) if agent else ()
    for words in (("refresh", "--full"), ("orphans", "adopt", "--all"), *agents):
        result = host.run(*words)
        assert (result.code, what in result.err) == (2, True), (words, result)
        assert "Traceback" not in result.err
        assert host.dump() == lines, words
        assert there.everything() == before, words


def test_given_another_host_s_id_copied_when_it_runs_then_it_stops_and_nothing_at_all_changes(
    hosts: Mapping[str, Host], there: Readback
) -> None:
    own = compute_id(hosts["beta"]).read_text()
    compute_id(hosts["beta"]).write_text(compute_id(hosts["alpha"]).read_text())
    refuses_all(hosts["beta"], there, "belongs to host 'alpha'")
    # The remedy that it names: its row says who it is.
    compute_id(hosts["beta"]).unlink()
    hosts["beta"].ask("refresh")
    assert compute_id(hosts["beta"]).read_text() == own


def test_given_rubbish_for_an_id_when_it_runs_then_it_stops_and_nothing_at_all_changes(
    hosts: Mapping[str, Host], there: Readback
) -> None:
    lines, before = hosts["alpha"].dump(), there.everything()
    for rubbish in ("", "rubbish\n", "{}", f"{FOREIGN} {FOREIGN}", "\x00" * 40):
        compute_id(hosts["alpha"]).write_text(rubbish)
        result = hosts["alpha"].run("refresh")
        assert (result.code, "holds no UUID" in result.err) == (2, True), (rubbish, result)
        assert (hosts["alpha"].dump(), there.everything()) == (lines, before), rubbish


def test_given_an_id_that_nobody_has_when_it_runs_then_it_stops_and_nothing_at_all_changes(
    hosts: Mapping[str, Host], there: Readback
) -> None:
    compute_id(hosts["alpha"]).write_text(str(uuid.uuid4()))
    refuses_all(hosts["alpha"], there, "this host's id is")


def test_given_another_name_of_the_host_when_it_runs_then_it_stops_and_nothing_at_all_changes(
    hosts: Mapping[str, Host], there: Readback
) -> None:
    hosts["alpha"].set(host="omega")
    refuses_all(hosts["alpha"], there, 'set `host = "alpha"`', agent=True)
    hosts["alpha"].set(host="alpha")
    hosts["alpha"].ask("refresh")


def test_given_another_name_of_the_hypervisor_when_it_runs_then_it_stops_and_nothing_at_all_changes(
    tmp_path: Path, hosts: Mapping[str, Host], there: Readback
) -> None:
    Fleet(tmp_path / "alpha.json").has("omega.example", guests=[a_guest(GUEST)])
    refuses_all(hosts["alpha"], there, "now calls itself 'omega.example'")


def test_given_the_name_of_a_living_host_when_it_runs_then_it_stops_and_nothing_at_all_changes(
    hosts: Mapping[str, Host], there: Readback
) -> None:
    hosts["beta"].set(host="alpha")
    refuses_all(hosts["beta"], there, "belongs to host 'beta'")


# Many nodes through one service: they move between services, and they vanish.


@pytest.fixture
def fleets(tmp_path: Path) -> tuple[Fleet, Fleet]:
    for name in ("alpha", "beta"):
        (tmp_path / name).mkdir()
    return Fleet(tmp_path / "alpha" / "fleet.json"), Fleet(tmp_path / "beta" / "fleet.json")


@pytest.fixture
def pair(tmp_path: Path, fleets: tuple[Fleet, Fleet], server: PlacementServer) -> Iterator[tuple[Context, Context]]:
    """Two services over one ledger: the first has four bare-metal nodes, the second none yet."""
    has_all(fleets[0])
    fleets[1].write()
    shared: Any = {
        "database": {"connection": f"sqlite:///{tmp_path}/ledger.db"},
        "placement": remote(server),
        "pci": PCI,
    }
    with ExitStack() as opened:
        alpha = opened.enter_context(context_of(tmp_path / "alpha", host="alpha", **shared))
        beta = opened.enter_context(context_of(tmp_path / "beta", host="beta", **shared))
        assert refresh(alpha).fine
        yield alpha, beta


def has_all(fleet: Fleet, **special: object) -> None:
    for name, known in UUIDS.items():
        devices = [DEVICE] if name == "bm1" else []
        fleet.has(name, report={"uuid": known, "pci_passthrough_devices": devices}, **special)


def test_given_a_node_that_moves_to_another_service_when_both_refresh_then_all_that_is_its_own_survives(
    fleets: tuple[Fleet, Fleet], pair: tuple[Context, Context], there: Readback
) -> None:
    alpha, beta = pair
    there.allocate(FOREIGN, {"bm1": {"VCPU": 3}, CHILD: {"CUSTOM_PCI_10DE_20B5": 1}})
    before = there.providers()
    node = fleets[0].nodes["bm1"]
    # The old service may see it go before the new one sees it come, or after.
    fleets[0].nodes["bm1"] = {**node, "listed": False}
    fleets[0].write()
    assert "it still exists" in refresh(alpha).kept["bm1"]
    assert there.consumers("bm1") == {FOREIGN}
    fleets[1].nodes["bm1"] = node
    fleets[1].write()
    assert refresh(beta).moved == {"bm1": "alpha"}
    fleets[0].loses("bm1")
    result = refresh(alpha)
    assert (result.deleted, result.kept, result.fine) == ([], {}, True)
    row = beta.ledger.node("bm1")
    assert (row.host, row.uuid, row.failure) == ("beta", UUIDS["bm1"], None)
    assert {name: one["uuid"] for name, one in there.providers().items()} == {
        name: one["uuid"] for name, one in before.items()
    }
    assert there.consumers("bm1") == there.consumers(CHILD) == {FOREIGN}
    assert refresh(beta).writes == 0


def test_given_a_node_that_vanishes_when_refreshed_then_its_row_provider_children_and_allocations_go(
    fleets: tuple[Fleet, Fleet], pair: tuple[Context, Context], there: Readback
) -> None:
    alpha, _ = pair
    assert there.providers().keys() == {*UUIDS, CHILD}
    # What the ledger knew, deleted as it is.
    alpha.ledger.put_instances([an_instance(FOREIGN, host="alpha", node="bm1")])
    alpha.ledger.delete_instances([FOREIGN])
    there.allocate(FOREIGN, {"bm1": {"VCPU": 3}, CHILD: {"CUSTOM_PCI_10DE_20B5": 1}, "bm2": {"VCPU": 1}})
    fleets[0].loses("bm1")
    assert refresh(alpha).deleted == ["bm1"]
    assert there.providers().keys() == {"bm2", "bm3", "bm4"}
    assert there.consumers("bm2") == {FOREIGN}
    with pytest.raises(NotFound):
        alpha.ledger.node("bm1")
    assert alpha.ledger.deleted_nodes("alpha") == ()
    has_all(fleets[0])
    assert refresh(alpha).fine
    assert there.inventories("bm1").keys() == {"VCPU", "MEMORY_MB", "DISK_GB"}
    assert there.providers().keys() == {*UUIDS, CHILD}


def test_given_a_service_whose_only_node_was_not_there_for_a_pass_when_it_moves_then_neither_service_stops(
    fleets: tuple[Fleet, Fleet], pair: tuple[Context, Context]
) -> None:
    """An id of the service was once made of a node that has an id of its own, and which then belonged to another."""
    alpha, beta = pair
    node = fleets[0].nodes["bm1"]
    fleets[0].loses("bm1")
    fleets[1].nodes["bm1"] = node
    fleets[1].write()
    assert refresh(beta).moved == {"bm1": "alpha"}
    for fault in ({"fault": {"raise": "DriverError"}}, {"listed": False}):
        fleets[1].nodes["bm1"] = {**node, **fault}
        fleets[1].write()
        refresh(beta)
    fleets[1].loses("bm1")
    fleets[0].nodes["bm1"] = node
    fleets[0].write()
    assert refresh(alpha).moved == {"bm1": "beta"}
    assert refresh(beta).fine


def test_given_a_vanished_node_that_others_hold_something_of_when_refreshed_then_only_its_row_goes(
    fleets: tuple[Fleet, Fleet], pair: tuple[Context, Context], there: Readback
) -> None:
    alpha, _ = pair
    there.allocate(FOREIGN, {CHILD: {"CUSTOM_PCI_10DE_20B5": 1}})
    before = json.loads(there.everything())
    fleets[0].loses("bm1")
    result = refresh(alpha)
    assert (result.deleted, result.fine) == (["bm1"], True)
    assert FOREIGN in result.left["bm1"]
    assert json.loads(there.everything()) == before
    # It is not tried again.
    assert alpha.ledger.deleted_nodes("alpha") == ()
    assert refresh(alpha).left == {}
    assert json.loads(there.everything()) == before


@pytest.mark.parametrize("why", ["instances", "still there", "many"])
def test_given_nodes_that_vanish_and_may_not_go_when_refreshed_then_nothing_of_theirs_changes(
    fleets: tuple[Fleet, Fleet], pair: tuple[Context, Context], there: Readback, why: str
) -> None:
    alpha, _ = pair
    alpha.ledger.put_instances([an_instance(FOREIGN, host="alpha", node="bm1")])
    alpha.ledger.delete_instances([FOREIGN])
    there.allocate(FOREIGN, {"bm1": {"VCPU": 3}, CHILD: {"CUSTOM_PCI_10DE_20B5": 1}})
    before = json.loads(there.everything())
    if why == "instances":
        alpha.ledger.put_instances([an_instance(GUEST, host="alpha", node="bm1")])
        fleets[0].loses("bm1")
    elif why == "still there":
        has_all(fleets[0], listed=False)
    else:
        fleets[0].loses("bm1", "bm2", "bm3")
    result = refresh(alpha)
    assert result.deleted == []
    assert "bm1" in result.kept
    assert json.loads(there.everything()) == before
    if why == "many":
        assert sorted(refresh(alpha).deleted) == ["bm1", "bm2", "bm3"]
        assert there.providers().keys() == {"bm4"}
        return
    for _ in range(2):
        assert refresh(alpha).deleted == []
    assert json.loads(there.everything()) == before
    alpha.ledger.delete_instances([GUEST] if why == "instances" else [])
    fleets[0].loses(*fleets[0].nodes)
    has_all(fleets[0])
    fleets[0].loses("bm1")
    assert refresh(alpha).deleted == ["bm1"]


def test_given_a_vanished_node_whose_provider_can_not_go_when_refreshed_again_then_it_goes(
    fleets: tuple[Fleet, Fleet], pair: tuple[Context, Context], server: PlacementServer, there: Readback
) -> None:
    alpha, _ = pair
    server.misbehave("DELETE", "/resource_providers/", status=500)
    fleets[0].loses("bm1")
    result = refresh(alpha)
    assert result.deleted == ["bm1"]
    assert result.unsynced.keys() == {"bm1"}
    assert [row.hypervisor_hostname for row in alpha.ledger.deleted_nodes("alpha")] == ["bm1"]
    assert refresh(alpha).unsynced.keys() == {"bm1"}
    server.behave()
    assert refresh(alpha).fine
    assert there.providers().keys() == {"bm2", "bm3", "bm4"}
    assert alpha.ledger.deleted_nodes("alpha") == ()
