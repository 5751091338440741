"""The `openstack` command and openstacksdk, the real ones, against the real server: what they show is the ledger's."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stocktake.clock import RandomIds, SystemClock
from stocktake.drivers.fake.work import generate_work
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.model.books import ComputeNode
from stocktake.model.workload import Service
from stocktake.refresh.run import refresh
from tests.context import context_of
from tests.servers.clients import Clients, openstack_clients
from tests.servers.serve import Served, secret_of, served

HOST = "osc-1"
NODES = 3


@dataclass(frozen=True, slots=True)
class Cloud:
    """A server, its ledger, and clients that know it under several names."""

    clients: Clients
    server: Served
    ledger: DatabaseLedger
    node: ComputeNode

    def service(self) -> Service:
        """Read the service's row."""
        (found,) = self.ledger.services()
        return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, embedded_connection: str) -> Path:
    """A ledger in a file, whose host's refresh has told the embedded Placement what there is and who has it."""
    directory, clock = tmp_path_factory.mktemp("filled"), SystemClock()
    ledger = open_ledger(f"sqlite:///{directory / 'ledger.db'}", clock=clock, ids=RandomIds())
    work = generate_work(1, NODES, host=HOST, now=clock.now(), prefix=HOST)
    ledger.put_instances(work.instances)
    ledger.put_migrations(work.migrations)
    settings: dict[str, Any] = {
        "host": HOST,
        "fake": {"nodes": NODES, "seed": 1, "prefix": HOST},
        "placement": {"mode": "embedded", "connection": embedded_connection},
        "allocations": "own",
    }
    with context_of(directory, clock=clock, ledger=ledger, **settings) as context:
        result = refresh(context)
        assert result.fine, result
        ledger.heartbeat(HOST, version="1")
    return directory / "ledger.db"


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    with openstack_clients(tmp_path_factory.mktemp("clients")) as made:
        yield made


@pytest.fixture(scope="module")
def cloud(
    tmp_path_factory: pytest.TempPathFactory, filled: Path, clients: Clients, embedded_connection: str
) -> Iterator[Cloud]:
    directory = tmp_path_factory.mktemp("served")
    url = f"sqlite:///{shutil.copy(filled, directory / 'ledger.db')}"
    with served(directory, url, placement__mode="embedded", placement__connection=embedded_connection) as server:
        clients.clouds(clouds_of(server.url))
        ledger = open_ledger(url, clock=SystemClock(), ids=RandomIds())
        yield Cloud(clients, server, ledger, ledger.nodes()[0])
        ledger.close()


def clouds_of(url: str) -> dict[str, dict[str, Any]]:
    """Give clouds.yaml as docs/howto/openstack-clients.md shows it."""
    compute, placement = f"{url}/compute/v2.1", f"{url}/placement"
    basic = {"endpoint": placement, "username": "anybody"}
    return {
        "none": {"auth_type": "none", "compute_endpoint_override": compute},
        "token": {"auth_type": "admin_token", "auth": {"endpoint": compute, "token": secret_of("viewer")}},
        "bare": {
            "auth_type": "http_basic",
            "auth": {**basic, "password": secret_of("viewer")},
            "compute_endpoint_override": f"{url}/compute",
        },
        "operator": {
            "auth_type": "http_basic",
            "auth": {**basic, "password": secret_of("operator")},
            "compute_endpoint_override": compute,
        },
        "viewer": {
            "auth_type": "http_basic",
            "auth": {**basic, "password": secret_of("viewer")},
            "compute_endpoint_override": compute,
        },
        "wrong": {
            "auth_type": "http_basic",
            "auth": {**basic, "password": secret_of("wrong")},
            "compute_endpoint_override": compute,
        },
    }


def test_given_a_fleet_when_its_hypervisors_are_listed_then_figures_are_the_ledgers(cloud: Cloud) -> None:
    rows = cloud.clients.rows("operator", "hypervisor list --long")
    assert rows == [
        {
            "ID": node.uuid,
            "Hypervisor Hostname": node.hypervisor_hostname,
            "Hypervisor Type": node.hypervisor_type,
            "Host IP": node.host_ip,
            "State": "up",
            "vCPUs Used": node.vcpus_used,
            "vCPUs": node.vcpus,
            "Memory MB Used": node.memory_mb_used,
            "Memory MB": node.memory_mb,
        }
        for node in cloud.ledger.nodes()
    ]
    assert len(rows) == NODES
    # A page of one: three of them, and all that there is.
    paged = cloud.clients.rows("operator", "hypervisor list --limit 1")
    assert [row["ID"] for row in paged] == [row["ID"] for row in rows]
    matching = cloud.clients.rows("operator", f"hypervisor list --matching {HOST}-00001")
    assert [row["ID"] for row in matching] == [rows[1]["ID"]]


@pytest.mark.parametrize("by", ["hypervisor_hostname", "uuid"])
def test_given_a_hypervisor_when_shown_by_name_or_uuid_then_all_its_fields_are_the_ledgers(
    cloud: Cloud, by: str
) -> None:
    node = cloud.node
    shown = cloud.clients.rows("viewer", f"hypervisor show {getattr(node, by)}")
    same = (
        "hypervisor_hostname",
        "hypervisor_type",
        "hypervisor_version",
        "host_ip",
        "vcpus",
        "vcpus_used",
        "memory_mb",
        "memory_mb_used",
        "free_ram_mb",
        "local_gb",
        "local_gb_used",
        "free_disk_gb",
        "disk_available_least",
        "running_vms",
        "current_workload",
    )
    assert {name: shown[name] for name in same} == {name: getattr(node, name) for name in same}
    others = {
        "id": node.uuid,
        "state": "up",
        "status": "enabled",
        "service_host": HOST,
        "service_id": cloud.service().uuid,
        "cpu_info": json.loads(node.cpu_info),
        "aggregates": [],
    }
    assert {name: shown.get(name) for name in others} == others, shown


def test_given_a_fleet_when_added_up_then_sums_are_those_of_its_nodes(cloud: Cloud) -> None:
    nodes = cloud.ledger.nodes()
    shown = cloud.clients.rows("viewer", "hypervisor stats show")
    for name in ("vcpus", "vcpus_used", "memory_mb", "memory_mb_used", "local_gb_used", "running_vms"):
        assert shown[name] == sum(getattr(node, name) for node in nodes), name
    assert shown["count"] == NODES


def test_given_a_service_when_set_by_the_command_then_the_ledger_has_it_and_the_list_shows_it(cloud: Cloud) -> None:
    def listed() -> Any:
        (row,) = cloud.clients.rows("operator", f"compute service list --long --host {HOST} --service nova-compute")
        return row

    def set_(options: str) -> None:
        ran = cloud.clients.run("operator", f"compute service set {options} {HOST} nova-compute")
        assert ran.code == 0, ran

    row = listed()
    assert (row["ID"], row["Binary"], row["Host"]) == (cloud.service().uuid, "nova-compute", HOST)
    assert (row["Status"], row["State"], row["Forced Down"]) == ("enabled", "up", False)
    set_("--disable --disable-reason 'new memory'")
    assert (cloud.service().disabled, cloud.service().disabled_reason) == (True, "new memory")
    set_("--down")
    row = listed()
    assert (row["Status"], row["Disabled Reason"]) == ("disabled", "new memory")
    assert (row["State"], row["Forced Down"]) == ("down", True)
    assert {one["State"] for one in cloud.clients.rows("operator", "hypervisor list")} == {"down"}
    set_("--up")
    set_("--enable")
    assert (cloud.service().forced_down, cloud.service().disabled, cloud.service().disabled_reason) == (
        False,
        False,
        None,
    )
    refused = cloud.clients.run("viewer", f"compute service set --disable {HOST} nova-compute")
    assert (refused.code, cloud.service().disabled) == (1, False)


def test_given_hosts_and_aggregates_when_listed_then_the_old_commands_work_too(cloud: Cloud) -> None:
    assert cloud.clients.rows("viewer", "host list") == [{"Host Name": HOST, "Service": "compute", "Zone": "nova"}]
    lines = {row["Project"]: row for row in cloud.clients.rows("viewer", f"host show {HOST}")}
    assert lines["(total)"]["CPU"] == sum(node.vcpus for node in cloud.ledger.nodes())
    assert lines["(used_now)"]["Memory MB"] == sum(node.memory_mb_used for node in cloud.ledger.nodes())
    assert cloud.clients.rows("viewer", "aggregate list") == []


def test_given_openstacksdk_when_it_reads_hypervisors_then_they_have_their_figures(cloud: Cloud) -> None:
    found = cloud.clients.hypervisors("viewer", details=True, with_servers=True)
    assert [(one["name"], one["vcpus"], one["memory_size"], one["local_disk_free"]) for one in found] == [
        (node.hypervisor_hostname, node.vcpus, node.memory_mb, node.free_disk_gb) for node in cloud.ledger.nodes()
    ]
    on_them = [len(cloud.ledger.instances(host=HOST, node=node.hypervisor_hostname)) for node in cloud.ledger.nodes()]
    assert [len(one["servers"]) for one in found] == on_them
    assert sum(on_them) > 0


def test_given_the_embedded_placement_when_asked_by_its_command_then_it_says_what_the_refresh_told_it(
    cloud: Cloud,
) -> None:
    node = cloud.node
    providers = {row["uuid"]: row["name"] for row in cloud.clients.rows("viewer", "resource provider list")}
    nodes = {node.uuid: node.hypervisor_hostname for node in cloud.ledger.nodes()}
    assert {uuid: providers.get(uuid) for uuid in nodes} == nodes
    stock = cloud.clients.rows("viewer", f"resource provider inventory list {node.uuid}")
    assert {row["resource_class"]: row["total"] for row in stock}["MEMORY_MB"] == node.memory_mb
    used = {
        row["resource_class"]: row["usage"]
        for row in cloud.clients.rows("viewer", f"resource provider usage show {node.uuid}")
    }
    allocated = [entry for entry in cloud.ledger.entries(node.uuid) if entry.consumer is not None]
    assert used["MEMORY_MB"] == sum(entry.memory_mb for entry in allocated) > 0
    places = cloud.clients.rows("viewer", "allocation candidate list --resource VCPU=1")
    assert {row["resource provider"] for row in places} & nodes.keys()


def test_given_a_role_when_it_writes_to_placement_by_the_command_then_only_an_operator_may(cloud: Cloud) -> None:
    refused = cloud.clients.run("viewer", "resource provider create made-by-hand")
    assert (refused.code, "or operator" in refused.out + refused.err) == (1, True), refused
    made = cloud.clients.rows("operator", "resource provider create made-by-hand")
    assert made["name"] == "made-by-hand"
    gone = cloud.clients.run("operator", f"resource provider delete {made['uuid']}")
    assert gone.code == 0, gone
    unknown = cloud.clients.run("wrong", "resource provider list")
    assert (unknown.code, "unknown, expired or revoked" in unknown.out + unknown.err) == (1, True), unknown


@pytest.mark.parametrize("name", ["token", "bare"])
def test_given_a_token_in_clouds_yaml_when_listed_then_it_lets_in(cloud: Cloud, name: str) -> None:
    assert len(cloud.clients.rows(name, "hypervisor list")) == NODES


def test_given_tokens_in_the_ledger_when_asked_without_then_the_command_says_why_it_is_refused(cloud: Cloud) -> None:
    for name in ("none", "wrong"):
        ran = cloud.clients.run(name, "hypervisor list")
        assert (ran.code, "unknown, expired or revoked" in ran.out + ran.err) == (1, True), ran


def test_given_a_ledger_without_tokens_when_asked_on_its_machine_then_none_is_enough_to_read(
    tmp_path: Path, filled: Path, clients: Clients, embedded_connection: str
) -> None:
    url = f"sqlite:///{shutil.copy(filled, tmp_path / 'ledger.db')}"
    with served(
        tmp_path, url, tokens=False, placement__mode="embedded", placement__connection=embedded_connection
    ) as server:
        ran = clients.command("hypervisor", "list", OS_AUTH_TYPE="none", OS_ENDPOINT=f"{server.url}/compute/v2.1")
        assert (ran.code, f"{HOST}-00002" in ran.out) == (0, True), ran
        ran = clients.command(
            "resource", "provider", "list", OS_AUTH_TYPE="none", OS_ENDPOINT=f"{server.url}/placement"
        )
        assert (ran.code, f"{HOST}-00002" in ran.out) == (0, True), ran
