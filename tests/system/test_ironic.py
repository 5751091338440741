"""The driver `ironic` on a real Ironic: every state is driven there, and seen in the ledger and in a real Placement."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stocktake.errors import DriverError
from stocktake.model.workload import Flavor, Instance
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.servers.ironic import PROPERTIES, IronicServer, ironic
from tests.system.metal import HOST, Seen, look, metal_context
from tests.system.readback import Readback, remote

__all__ = ["ironic"]

INSTANCE = "11111111-1111-4111-8111-111111111111"


@dataclass(frozen=True, slots=True)
class Metal:
    """A host, its Ironic and its Placement."""

    state: Path
    ironic: IronicServer
    there: Readback
    context: Context

    def seen(self, uuid: str) -> Seen:
        """Take stock, and look at a node."""
        result = refresh(self.context)
        assert result.fine, (result.failed, result.unsynced)
        return look(self.state, self.there, uuid)


@pytest.fixture
def metal(tmp_path: Path, ironic: IronicServer, server: Any, there: Readback) -> Iterator[Metal]:
    """A host that has taken stock of nothing yet; what a test enrols is gone after it."""
    with metal_context(tmp_path, ironic.url, placement=remote(server)) as context:
        yield Metal(tmp_path, ironic, there, context)
    for node in ironic.ask("GET", "/v1/nodes")["nodes"]:
        ironic.maintain(node["uuid"], "the test is over")
        ironic.set(node["uuid"], instance_uuid=None)
        ironic.delete(node["uuid"])


def test_given_a_node_when_enrolled_then_it_is_in_the_ledger_and_sold_as_one_machine(metal: Metal) -> None:
    uuid = metal.ironic.enrol("bm-1", resource_class="gold plus", traits=("CUSTOM_FAST", "HW_CPU_X86_VMX"))
    seen = metal.seen(uuid)
    assert seen.ledger is not None
    told = {key: seen.ledger[key] for key in ("host", "hypervisor_hostname", "hypervisor_type", "hypervisor_version")}
    assert told == {"host": HOST, "hypervisor_hostname": uuid, "hypervisor_type": "ironic", "hypervisor_version": 1}
    sizes = [seen.ledger[key] for key in ("vcpus", "memory_mb", "local_gb", "free_ram_mb", "free_disk_gb")]
    assert sizes == [32, 131072, 894, 131072, 894]
    assert seen.stats == {"provision_state": "available", "power_state": "power off", "resource_class": "gold plus"}
    assert seen.inventory == {"CUSTOM_GOLD_PLUS": (1, 0)}
    assert seen.traits == frozenset({"COMPUTE_NODE", "CUSTOM_FAST", "HW_CPU_X86_VMX"})
    assert seen.problems == []


def test_given_a_node_when_deployed_rescued_and_released_then_each_state_is_seen(metal: Metal) -> None:
    """The promise is in the ledger all the while: what it takes is counted, and the machine is not to be had."""
    ironic, uuid = metal.ironic, metal.ironic.enrol("bm-1")
    flavor = Flavor(vcpus=32, memory_mb=131072, root_gb=894)
    metal.context.ledger.put_instances(
        [Instance(uuid=INSTANCE, host=HOST, node=uuid, vm_state="active", task_state="spawning", flavor=flavor)]
    )
    assert metal.seen(uuid).inventory == {"CUSTOM_GOLD": (1, 0)}
    metal.there.allocate(INSTANCE, {uuid: {"CUSTOM_GOLD": 1}})
    ironic.set(uuid, instance_uuid=INSTANCE)
    reserved = {"CUSTOM_GOLD": (1, 1)}
    seen = metal.seen(uuid)
    assert (seen.stats["provision_state"], seen.stats["instance_uuid"]) == ("available", INSTANCE)
    assert seen.inventory == reserved
    ironic.provision(uuid, "active", until="active")
    seen = metal.seen(uuid)
    assert (seen.stats["provision_state"], seen.inventory) == ("active", reserved)
    assert metal.there.consumers(uuid) == {INSTANCE}
    assert seen.ledger is not None
    assert [seen.ledger[key] for key in ("vcpus_used", "free_ram_mb", "free_disk_gb", "running_vms")] == [32, 0, 0, 1]
    ironic.provision(uuid, "rescue", until="rescue", rescue_password="secret")
    assert metal.seen(uuid).stats["provision_state"] == "rescue"
    ironic.provision(uuid, "unrescue", until="active")
    ironic.undeploy(uuid)
    metal.context.ledger.delete_instances([INSTANCE])
    metal.there.write("DELETE", f"/allocations/{INSTANCE}")
    seen = metal.seen(uuid)
    assert (seen.stats["provision_state"], seen.stats.get("instance_uuid")) == ("available", None)
    assert seen.inventory == {"CUSTOM_GOLD": (1, 0)}
    assert seen.ledger is not None
    assert seen.ledger["vcpus_used"] == 0


def test_given_allocations_of_our_own_when_a_node_is_promised_then_its_instance_holds_the_whole_machine(
    metal: Metal, tmp_path: Path, server: Any
) -> None:
    uuid = metal.ironic.enrol("bm-1")
    flavor = Flavor(vcpus=32, memory_mb=131072, root_gb=894)
    with metal_context(tmp_path, metal.ironic.url, placement=remote(server), allocations="own") as context:
        context.ledger.put_instances([Instance(uuid=INSTANCE, host=HOST, node=uuid, vm_state="active", flavor=flavor)])
        assert refresh(context).fine
        held = metal.there.get(f"/resource_providers/{uuid}/allocations")["allocations"]
        assert {who: one["resources"] for who, one in held.items()} == {INSTANCE: {"CUSTOM_GOLD": 1}}
        metal.ironic.deploy(uuid, INSTANCE)
        assert refresh(context, full=True).fine
        seen = look(tmp_path, metal.there, uuid)
        assert (seen.inventory, seen.problems) == ({"CUSTOM_GOLD": (1, 1)}, [])
        assert metal.there.consumers(uuid) == {INSTANCE}
        metal.ironic.undeploy(uuid)
        context.ledger.delete_instances([INSTANCE])
        assert refresh(context).fine
        assert metal.there.consumers(uuid) == frozenset()


def test_given_a_node_in_use_when_the_workaround_is_set_then_only_its_state_reserves_it(
    metal: Metal, tmp_path: Path, server: Any
) -> None:
    uuid = metal.ironic.enrol("bm-1")
    metal.ironic.set(uuid, instance_uuid=INSTANCE)
    assert metal.seen(uuid).inventory == {"CUSTOM_GOLD": (1, 1)}
    ironic = {"skip_reserve_in_use_ironic_nodes": True}
    with metal_context(tmp_path, metal.ironic.url, placement=remote(server), ironic=ironic) as context:
        assert refresh(context).fine
        assert look(tmp_path, metal.there, uuid).inventory == {"CUSTOM_GOLD": (1, 0)}
        metal.ironic.provision(uuid, "active", until="active")
        assert refresh(context).fine
        assert look(tmp_path, metal.there, uuid).inventory == {"CUSTOM_GOLD": (1, 1)}


def test_given_a_node_when_maintained_switched_and_taken_out_then_it_is_kept_back_each_time(metal: Metal) -> None:
    ironic, uuid = metal.ironic, metal.ironic.enrol("bm-1", power=None)
    seen = metal.seen(uuid)
    assert (seen.inventory, seen.problems) == ({"CUSTOM_GOLD": (1, 1)}, ["power-unknown"])
    ironic.power(uuid, "power on")
    seen = metal.seen(uuid)
    assert (seen.stats["power_state"], seen.inventory, seen.problems) == ("power on", {"CUSTOM_GOLD": (1, 0)}, [])
    ironic.maintain(uuid, "disk")
    seen = metal.seen(uuid)
    assert (seen.stats["maintenance"], seen.stats["provision_state"]) == (True, "available")
    assert seen.inventory == {"CUSTOM_GOLD": (1, 1)}
    ironic.maintain(uuid, None)
    ironic.provision(uuid, "manage", until="manageable")
    seen = metal.seen(uuid)
    assert ("maintenance" in seen.stats, seen.stats["provision_state"]) == (False, "manageable")
    assert seen.inventory == {"CUSTOM_GOLD": (1, 1)}
    ironic.provision(uuid, "provide", until="available")
    assert metal.seen(uuid).inventory == {"CUSTOM_GOLD": (1, 0)}


def test_given_a_node_when_it_is_cleaned_well_or_not_then_it_is_kept_back_until_it_is_available(metal: Metal) -> None:
    ironic, uuid = metal.ironic, metal.ironic.enrol("bm-1")
    ironic.provision(uuid, "manage", until="manageable")
    ironic.provision(uuid, "clean", until="cleaning", clean_steps=[{"interface": "bios", "step": "factory_reset"}])
    seen = metal.seen(uuid)
    assert (seen.stats["provision_state"], seen.inventory) == ("cleaning", {"CUSTOM_GOLD": (1, 1)})
    ironic.until(uuid, provision_state="manageable")
    steps = [{"interface": "deploy", "step": "no_such_step"}]
    ironic.provision(uuid, "clean", until="clean failed", clean_steps=steps)
    seen = metal.seen(uuid)
    assert (seen.stats["provision_state"], seen.inventory) == ("clean failed", {"CUSTOM_GOLD": (1, 1)})
    assert seen.problems == ["provision-failed"]
    assert seen.ledger is not None
    assert "does not support this clean step" in seen.ledger["problems"]
    ironic.maintain(uuid, None)
    ironic.provision(uuid, "manage", until="manageable")
    ironic.provision(uuid, "provide", until="available")
    seen = metal.seen(uuid)
    assert (seen.inventory, seen.problems) == ({"CUSTOM_GOLD": (1, 0)}, [])


def test_given_a_node_when_what_it_is_changes_then_the_scheduler_has_the_new_class_and_traits(metal: Metal) -> None:
    uuid = metal.ironic.enrol("bm-1", resource_class="gold", traits=("CUSTOM_OLD",))
    metal.seen(uuid)
    metal.there.write("PUT", "/traits/CUSTOM_OF_OTHERS")
    provider = metal.there.providers()[uuid]
    body = {"traits": ["CUSTOM_OF_OTHERS", "COMPUTE_NODE", "CUSTOM_OLD"]}
    body["resource_provider_generation"] = provider["generation"]
    metal.there.write("PUT", f"/resource_providers/{uuid}/traits", body)
    metal.ironic.set(uuid, resource_class="silver", properties={**PROPERTIES, "cpus": "abc", "memory_mb": 65536})
    metal.ironic.ask("PUT", f"/v1/nodes/{uuid}/traits", {"traits": ["CUSTOM_NEW"]})
    seen = metal.seen(uuid)
    assert seen.inventory == {"CUSTOM_SILVER": (1, 0)}
    assert seen.traits == frozenset({"COMPUTE_NODE", "CUSTOM_NEW", "CUSTOM_OF_OTHERS"})
    assert seen.ledger is not None
    assert (seen.ledger["vcpus"], seen.ledger["memory_mb"], seen.problems) == (0, 65536, ["property-unreadable"])


def test_given_a_node_without_a_class_when_there_then_it_alone_sells_nothing(metal: Metal) -> None:
    bare, fine = metal.ironic.enrol("bm-1", resource_class=None), metal.ironic.enrol("bm-2")
    seen = metal.seen(bare)
    assert (seen.inventory, seen.problems) == ({}, ["no-resource-class"])
    assert look(metal.state, metal.there, fine).inventory == {"CUSTOM_GOLD": (1, 0)}


def test_given_a_node_when_deleted_and_enrolled_anew_then_it_goes_and_comes_with_its_provider(metal: Metal) -> None:
    uuid, other = metal.ironic.enrol("bm-1"), metal.ironic.enrol("bm-2")
    metal.seen(uuid)
    metal.ironic.delete(uuid)
    result = refresh(metal.context)
    assert result.deleted == [uuid]
    assert look(metal.state, metal.there, uuid) == Seen(None, None, None)
    assert look(metal.state, metal.there, other).inventory == {"CUSTOM_GOLD": (1, 0)}
    again = metal.ironic.ask(
        "POST",
        "/v1/nodes",
        {"uuid": uuid, "name": "bm-1", "driver": "fake-hardware", "resource_class": "gold", "properties": PROPERTIES},
    )
    assert again["uuid"] == uuid
    seen = metal.seen(uuid)
    assert (seen.stats["provision_state"], seen.inventory) == ("enroll", {"CUSTOM_GOLD": (1, 1)})
    metal.ironic.provision(uuid, "manage", until="manageable")
    metal.ironic.provision(uuid, "provide", until="available")
    metal.ironic.power(uuid, "power off")
    assert metal.seen(uuid).inventory == {"CUSTOM_GOLD": (1, 0)}


def test_given_a_node_with_an_instance_when_deleted_then_it_is_kept_and_told(metal: Metal) -> None:
    uuid = metal.ironic.enrol("bm-1")
    metal.seen(uuid)
    flavor = Flavor(vcpus=1, memory_mb=1)
    metal.context.ledger.put_instances(
        [Instance(uuid=INSTANCE, host=HOST, node=uuid, vm_state="active", flavor=flavor)]
    )
    metal.ironic.delete(uuid)
    result = refresh(metal.context)
    assert (result.deleted, "1 instances" in result.kept[uuid]) == ([], True)
    assert look(metal.state, metal.there, uuid).problems == ["orphan-node"]


def test_given_a_shard_and_a_group_when_listed_then_only_their_nodes_are(metal: Metal, tmp_path: Path) -> None:
    ours = metal.ironic.enrol("bm-1", shard="s1", conductor_group="")
    other = metal.ironic.enrol("bm-2", shard="s2")
    bare = metal.ironic.enrol("bm-3")
    none = {"mode": "none"}
    for filters, names in (
        ({"shard": "s1"}, {ours}),
        ({"shard": "s9"}, set()),
        ({"conductor_group": ""}, {ours, other, bare}),
        ({"conductor_group": "rack-7"}, set()),
        ({"conductor_group": "", "shard": "s2"}, {other}),
        ({}, {ours, other, bare}),
    ):
        with metal_context(tmp_path / "x", metal.ironic.url, placement=none, ironic=dict(filters)) as context:
            assert set(context.driver.node_names()) == names


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"endpoint_override": "http://127.0.0.1:{port}/nowhere"}, "Check that this URL is Ironic's"),
        ({"auth_type": "http_basic", "auth": {"username": "u", "password": "p"}}, ""),
    ],
)
def test_given_other_ways_in_when_listed_then_it_works_or_says_why(
    metal: Metal, tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    metal.ironic.enrol("bm-1")
    change = {**change}
    if "endpoint_override" in change:
        change["endpoint_override"] = change["endpoint_override"].format(port=metal.ironic.port)
    with metal_context(tmp_path / "x", metal.ironic.url, placement={"mode": "none"}, ironic=change) as context:
        if said:
            with pytest.raises(DriverError) as caught:
                context.driver.node_names()
            assert said in str(caught.value)
        else:
            assert len(context.driver.node_names()) == 1
