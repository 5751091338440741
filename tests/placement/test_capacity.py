"""One capacity rule: what is shown of a node is what the embedded Placement lets be allocated of it."""

from typing import Any

from stocktake.accounting.capacity import resources_of
from stocktake.model.books import Entry
from stocktake.model.rules import Rules
from stocktake.model.topology import CellTake, HostCell, HostTopology, NodeCell, NodeTopology
from stocktake.placement.desired import desired
from stocktake.placement.overrides import NodeOverrides
from tests.placement.making import ROOT, host, tally
from tests.placement.schedulers import agreed, embedded_backend, some_name

SHARED, DEDICATED = frozenset(range(32)), frozenset(range(32, 64))
# 512 MiB for the host, ten floating vCPUs, and four that are pinned.
ENTRIES = (
    Entry(kind="reserved", id="host", why="kept", memory_mb=512),
    Entry(kind="instance", id="a", why="here", vcpus=10, cells=(CellTake(cell=0, vcpus=10, memory_mb=0),)),
    Entry(
        kind="instance",
        id="b",
        why="here",
        vcpus=4,
        cells=(CellTake(cell=0, vcpus=0, memory_mb=0, pinned_cpus=frozenset(range(32, 36))),),
    ),
)


def test_given_64_cpus_of_which_32_are_dedicated_when_reported_then_placement_has_the_capacity_that_is_shown(
    embedded_connection: str,
) -> None:
    name = some_name()
    cell = HostCell(id=0, cpuset=SHARED, pcpuset=DEDICATED, memory_mb=16384)
    kept = NodeCell(
        id=0,
        cpuset=SHARED,
        pcpuset=DEDICATED,
        memory_mb=16384,
        siblings=(),
        pages=(),
        socket=None,
        cpu_usage=10,
        memory_usage_mb=0,
        pinned_cpus=frozenset(range(32, 36)),
    )
    counted = tally(
        hypervisor_hostname=name, vcpus=64, vcpus_used=14, memory_mb_used=512, numa_topology=NodeTopology(cells=(kept,))
    )
    there = host(node=name, hypervisor_hostname=name, vcpus=64, numa_topology=HostTopology(cells=(cell,)))
    tree, problems = desired(
        there, counted, Rules(host="host-1", reserved_host_memory_mb=512), disabled=False, overrides=NodeOverrides()
    )
    assert problems == ()
    backend = embedded_backend(embedded_connection)
    scheduler = backend.open()
    agreed(scheduler.sync({name: tree})[name])
    consumers = ("aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002")
    backend.allocate(consumers[0], {ROOT: {"VCPU": 10}})
    backend.allocate(consumers[1], {ROOT: {"PCPU": 4}})

    # What Placement itself says, by its own API.
    inventories = backend.other.get(f"/resource_providers/{ROOT}/inventories").read(dict[str, Any])
    usages = backend.other.get(f"/resource_providers/{ROOT}/usages").read(dict[str, Any])["usages"]
    capacities = {
        kind: int((one["total"] - one["reserved"]) * one["allocation_ratio"])
        for kind, one in inventories["inventories"].items()
    }
    assert {kind: (capacities[kind], usages[kind]) for kind in ("VCPU", "PCPU")} == {"VCPU": (128, 10), "PCPU": (32, 4)}
    shown = {one.resource_class: one for one in resources_of(counted.node, ENTRIES)}
    assert {kind: shown[kind].capacity for kind in capacities} == capacities
    assert {kind: shown[kind].allocated for kind in usages} == usages
    assert (shown["VCPU"].free, shown["PCPU"].free) == (118, 28)
    scheduler.close()
    backend.other.close()
