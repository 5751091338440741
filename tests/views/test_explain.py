"""The arithmetic behind every number."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from stocktake.model.books import ComputeNode, Entry
from stocktake.model.pci import PciPool, PciRecord
from stocktake.model.topology import CellTake, NodeCell, NodePages, NodeTopology, PagesTaken
from stocktake.model.value import replace
from stocktake.views.explain import Figure, figures
from tests.views.test_nodes import NODE

HOST = Entry(kind="reserved", id="host", why="kept", memory_mb=512, vcpus=1)
WEB = Entry(
    kind="instance",
    id="00000000-0000-4000-8000-00000000000a",
    name="web",
    why="instance on this node (active)",
    vcpus=2,
    memory_mb=256,
    disk_mb=1536,
    cells=(
        CellTake(
            cell=0, vcpus=1, memory_mb=256, pinned_cpus=frozenset({2, 3}), pages=(PagesTaken(size_kb=2048, count=128),)
        ),
    ),
    pci=("0000:00:01.0",),
)
CELL = NodeCell(
    id=0,
    cpuset=frozenset({0, 1}),
    pcpuset=frozenset({2, 3}),
    memory_mb=1024,
    siblings=(),
    pages=(NodePages(size_kb=2048, total=256, reserved=0, used=128),),
    socket=0,
    cpu_usage=1,
    memory_usage_mb=256,
    pinned_cpus=frozenset({2, 3}),
)
DEVICES = tuple(
    PciRecord(address=f"0000:00:0{number}.0", vendor_id="8086", product_id="1572", dev_type="type-PCI")
    for number in range(4)
)
HELD = (
    DEVICES[0],
    replace(DEVICES[1], status="allocated", instance_uuid=WEB.id),
    replace(DEVICES[2], status="unavailable"),
    replace(DEVICES[3], status="removed", instance_uuid="gone"),
)
RECORD = replace(
    NODE,
    vcpus_used=3,
    memory_mb_used=768,
    free_ram_mb=256,
    local_gb_used=2,
    free_disk_gb=8,
    running_vms=1,
    numa_topology=NodeTopology(cells=(CELL,)),
    pci_device_pools=(PciPool(vendor_id="8086", product_id="1572", numa_node=None, count=1, tags={}),),
)


def explained(
    node: ComputeNode = RECORD, entries: Sequence[Entry] = (HOST, WEB), devices: Sequence[PciRecord] = HELD
) -> dict[str, Figure]:
    return dict(figures(node, entries, devices))


def test_given_a_record_that_is_the_sum_of_its_entries_when_explained_then_every_figure_agrees() -> None:
    known = explained()
    assert list(known) == [
        "vcpus_used",
        "memory_mb_used",
        "local_gb_used",
        "free_ram_mb",
        "free_disk_gb",
        "running_vms",
        "numa.0.cpu_usage",
        "numa.0.memory_usage",
        "numa.0.pinned_cpus",
        "numa.0.pages.2048",
        "pci.8086_1572",
    ]
    assert [figure.field for figure in known.values() if not figure.agrees] == []


def test_given_disk_that_is_no_whole_gb_when_explained_then_the_rounding_is_shown() -> None:
    figure = explained()["local_gb_used"]
    assert (figure.sum, figure.whole_unit, figure.unit) == (2, "GB", "MiB")
    assert figure.steps == ("1,536 MiB / 1,024 = 2 GB, rounded up",)


def test_given_free_figures_when_explained_then_the_subtraction_is_shown() -> None:
    known = explained()
    assert known["free_ram_mb"].steps == ("memory_mb 1,024 - used 768 = 256",)
    assert known["free_disk_gb"].steps[-1] == "local_gb 10 - used 2 = 8"


def test_given_pinned_cpus_when_explained_then_each_holder_shows_his() -> None:
    figure = explained()["numa.0.pinned_cpus"]
    assert [(part.name, part.amount) for part in figure.parts] == [("web", "2-3")]


def test_given_devices_when_explained_then_those_held_and_shut_out_are_named() -> None:
    figure = explained()["pci.8086_1572"]
    assert figure.steps == ("4 devices - 1 held - 2 shut out = 1 free",)
    assert [part.why for part in figure.parts][1:] == ["unavailable: a VF of it is in use", "removed, by gone"]


def test_given_an_entry_that_is_missing_when_explained_then_the_figures_it_made_do_not_agree() -> None:
    wrong = {figure.field for figure in explained(entries=(HOST,)).values() if not figure.agrees}
    assert wrong >= {"vcpus_used", "memory_mb_used", "local_gb_used", "running_vms", "numa.0.pinned_cpus"}


@given(st.lists(st.tuples(*[st.integers(0, 5000)] * 3), max_size=6))
def test_given_any_entries_when_the_record_is_their_sum_then_all_agree(takes: list[tuple[int, int, int]]) -> None:
    entries = [
        Entry(kind="instance", id=str(i), why="", vcpus=vcpus, memory_mb=memory_mb, disk_mb=disk_mb)
        for i, (vcpus, memory_mb, disk_mb) in enumerate(takes)
    ]
    disk_gb = -(-sum(entry.disk_mb for entry in entries) // 1024)
    memory_mb = sum(entry.memory_mb for entry in entries)
    node = replace(
        NODE,
        vcpus_used=sum(entry.vcpus for entry in entries),
        memory_mb_used=memory_mb,
        free_ram_mb=NODE.memory_mb - memory_mb,
        local_gb_used=disk_gb,
        free_disk_gb=NODE.local_gb - disk_gb,
        running_vms=len(entries),
    )
    assert all(figure.agrees for figure in explained(node, entries, ()).values())
