"""What an instance takes, and whether it counts."""

import pytest

from stocktake.accounting.instances import counts, disk_mb, of_instance
from stocktake.model.workload import Flavor
from tests.accounting.making import ELSEWHERE, a_host, an_instance, count, entries_of, floating, two_cells, work


@pytest.mark.parametrize(
    ("vm_state", "task_state", "counted"),
    [
        ("active", None, True),
        ("active", "powering-off", True),
        ("building", "spawning", True),
        ("building", "scheduling", True),
        ("stopped", None, True),
        ("paused", None, True),
        ("suspended", None, True),
        ("rescued", None, True),
        ("resized", None, True),
        ("error", None, True),
        ("soft-delete", None, True),
        ("shelved", None, True),
        (None, None, True),
        ("shelved_offloaded", None, False),
        ("shelved_offloaded", "unshelving", False),
        ("shelved_offloaded", "spawning", True),
        ("deleted", None, False),
        ("deleted", "spawning", False),
    ],
)
def test_given_states_when_asked_then_only_what_may_be_given_up_does_not_count(
    vm_state: str | None, task_state: str | None, *, counted: bool
) -> None:
    instance = an_instance(vm_state=vm_state, task_state=task_state)
    assert counts(instance) is counted
    books = count(promised=work([instance]))
    assert books.node.running_vms == int(counted)
    assert books.node.vcpus_used == (2 if counted else 0)


def test_given_a_deleted_record_when_asked_then_it_does_not_count() -> None:
    assert not counts(an_instance(deleted=True))


@pytest.mark.parametrize("place", [(ELSEWHERE[0], "cn-1.example.org"), ("cn-1", ELSEWHERE[1]), (None, None)])
def test_given_host_or_node_of_another_when_sorted_then_it_is_not_here(place: tuple[str | None, str | None]) -> None:
    instance = an_instance(host=place[0], node=place[1])
    assert work([instance]).instances == ()


@pytest.mark.parametrize(
    ("flavor", "volume_backed", "disk"),
    [
        (Flavor(vcpus=1, memory_mb=1, root_gb=20), False, 20480),
        (Flavor(vcpus=1, memory_mb=1, root_gb=20), True, 0),
        (Flavor(vcpus=1, memory_mb=1, root_gb=20, ephemeral_gb=5), False, 25600),
        (Flavor(vcpus=1, memory_mb=1, root_gb=20, ephemeral_gb=5, swap_mb=1536), True, 6656),
        (Flavor(vcpus=1, memory_mb=1, swap_mb=1), False, 1),
        (Flavor(vcpus=0, memory_mb=0), False, 0),
    ],
)
def test_given_a_flavor_when_its_disk_is_added_up_then_it_is_exact_in_mib(
    flavor: Flavor, *, volume_backed: bool, disk: int
) -> None:
    assert disk_mb(flavor, volume_backed=volume_backed) == disk
    entry = of_instance(an_instance(flavor=flavor, volume_backed=volume_backed))
    assert (entry.vcpus, entry.memory_mb, entry.disk_mb) == (flavor.vcpus, flavor.memory_mb, disk)


def test_given_an_instance_when_counted_then_the_entry_says_who_and_why() -> None:
    entry = of_instance(an_instance(vm_state="stopped", task_state="powering-on"))
    assert (entry.kind, entry.id, entry.name) == ("instance", an_instance().uuid, "vm-1")
    assert entry.why == "instance on this node (stopped, powering-on)"
    assert of_instance(an_instance()).why == "instance on this node (active)"


def test_given_an_instance_that_is_powered_off_when_counted_then_its_cells_count_too() -> None:
    instance = an_instance(vm_state="stopped", power_state=4, numa_topology=floating(2))
    books = count(a_host(numa_topology=two_cells()), work([instance]))
    (take,) = entries_of(books, "instance")[instance.uuid].cells
    assert (take.cell, take.vcpus, take.memory_mb) == (0, 2, 1024)
