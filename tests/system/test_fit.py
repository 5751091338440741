"""Whether a machine fits, asked of our books and of a real Placement that holds the same."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from stocktake.accounting.fit.fit import ResourceFit, fit, limits_of, resource_fits
from stocktake.accounting.fit.placement import Placed
from stocktake.accounting.fit.request import wanted
from stocktake.model.books import ComputeNode, Tally
from stocktake.model.hypervisor import Host
from stocktake.model.provider import Inventory
from stocktake.model.rules import Rules
from stocktake.model.value import plain
from stocktake.model.workload import Flavor
from stocktake.placement.desired import desired
from stocktake.placement.overrides import NodeOverrides
from stocktake.report.save import carried
from tests.accounting.making import HOST, a_host, an_instance, count, work
from tests.placement.schedulers import Backend, embedded_backend

OURS = ("ratio_is_initial", "reserved_is_initial")
NOTHING = Flavor(vcpus=0, memory_mb=0)


@dataclass(frozen=True, slots=True)
class Case:
    """A node, what the scheduler is told of it, and a machine that would nearly fit or just does."""

    node: ComputeNode
    books: Tally
    inventories: Mapping[str, Inventory]
    asked: Flavor


FLAVORS = st.builds(
    Flavor,
    vcpus=st.integers(0, 6),
    memory_mb=st.integers(0, 3000),
    root_gb=st.integers(0, 20),
    swap_mb=st.sampled_from((0, 0, 1, 512, 1024)),
)
RATIOS = st.sampled_from((0.5, 0.57, 1.0, 1.1, 1.5, 4.0))
# How far what is asked is from what is free: just too much, just right, less, or none of it.
AROUND = st.sampled_from((1, 0, 0, 0, -1, None))


@st.composite
def nodes(draw: st.DrawFn) -> tuple[Host, Rules]:
    host = a_host(
        vcpus=draw(st.integers(0, 12)), memory_mb=draw(st.integers(0, 8000)), local_gb=draw(st.integers(0, 60))
    )
    rules = Rules(
        host=HOST,
        reserved_host_cpus=draw(st.integers(0, 3)),
        reserved_host_memory_mb=draw(st.integers(0, 1000)),
        reserved_host_disk_mb=draw(st.sampled_from((0, 100, 1024, 5000))),
        cpu_allocation_ratio=draw(RATIOS),
        ram_allocation_ratio=draw(RATIOS),
        disk_allocation_ratio=draw(RATIOS),
    )
    return host, rules


@st.composite
def cases(draw: st.DrawFn) -> Case:
    host, rules = draw(nodes())
    held = [an_instance(number, flavor=draw(FLAVORS)) for number in range(draw(st.integers(0, 3)))]
    books = count(host, work(held), rules)
    tree, _ = desired(host, books, rules, disabled=False, overrides=NodeOverrides())
    node = carried(books.node, tree, None)
    limits = limits_of(node, books.entries)
    free = {room.what: room for room in resource_fits(node, books.entries, wanted(NOTHING, ()), limits)}
    asked = Flavor(
        vcpus=near(free["VCPU"], draw(AROUND)),
        memory_mb=near(free["MEMORY_MB"], draw(AROUND)),
        root_gb=near(free["DISK_GB"], draw(AROUND)),
        swap_mb=draw(st.sampled_from((0, 0, 0, 1))),
    )
    return Case(node=node, books=books, inventories=tree.root.inventories, asked=asked)


def near(room: ResourceFit, offset: int | None) -> int:
    if offset is None or room.free is None:
        return 0
    return max(min(int(room.free), int(room.total)) + offset, 0)


@pytest.fixture(scope="module")
def backend(embedded_connection: str) -> Iterator[Backend]:
    made = embedded_backend(embedded_connection)
    yield made
    made.other.close()


def amounts(vcpus: int, memory_mb: int, disk_mb: int) -> dict[str, int]:
    """Give what is allocated for a holder: whole GiB, and nothing of what it has none of."""
    every = {"VCPU": vcpus, "MEMORY_MB": memory_mb, "DISK_GB": -(-disk_mb // 1024)}
    return {what: amount for what, amount in every.items() if amount}


def stock(backend: Backend, there: str, inventories: Mapping[str, Inventory], **more: float) -> None:
    told = {
        name: {key: value for key, value in plain(one).items() if key not in OURS} | more
        for name, one in inventories.items()
    }
    path = f"/resource_providers/{there}/inventories"
    backend.put(path, {"resource_provider_generation": backend.generation(there), "inventories": told})


def is_granted(backend: Backend, there: str, asked: Mapping[str, int]) -> bool:
    body = {
        "allocations": {there: {"resources": asked}},
        "project_id": "p",
        "user_id": "u",
        "consumer_generation": None,
        "consumer_type": "INSTANCE",
    }
    answer = backend.other.write("PUT", f"/allocations/{uuid.uuid4()}", body)
    assert answer.status in {204, 409}, answer
    return answer.fine


@pytest.mark.system
@settings(max_examples=60)
@given(case=cases())
def test_given_any_node_when_a_machine_is_asked_for_then_our_yes_is_placements(backend: Backend, case: Case) -> None:
    asked = amounts(case.asked.vcpus, case.asked.memory_mb, case.asked.root_gb * 1024 + case.asked.swap_mb)
    assume(asked)
    there = str(uuid.uuid4())
    assert backend.other.write("POST", "/resource_providers", {"name": there, "uuid": there}).fine
    # Others came in while there was room for everybody: some of it may have been taken away since.
    stock(backend, there, case.inventories, total=10**6, max_unit=10**6, reserved=0, allocation_ratio=1000)
    for entry in case.books.entries:
        held = amounts(entry.vcpus, entry.memory_mb, entry.disk_mb)
        known = {what: amount for what, amount in held.items() if what in case.inventories}
        if entry.kind == "instance" and known:
            backend.allocate(str(uuid.uuid4()), {there: known})
    stock(backend, there, case.inventories)
    entries = case.books.entries
    ours = fit(case.node, entries, wanted(case.asked, ()), table={}, limits=limits_of(case.node, entries))
    event(f"fits: {isinstance(ours, Placed)}")
    assert isinstance(ours, Placed) == is_granted(backend, there, asked), ours
