"""
A host with twenty real guests, by the real program: what is started is what is counted, and what Placement has.

Everything is told twice: with all embedded, and with the ledger on PostgreSQL and a Placement across HTTP.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.servers.libvirtd import GuestCellSpec, GuestSpec, PrivateLibvirtd
from tests.servers.placement import PlacementServer
from tests.system.readback import Readback, read_back, remote
from tests.system.running import Host

pytestmark = pytest.mark.system

GIB = 1024**3
RESERVED_MB = 512
PINNED_CPU = max(os.sched_getaffinity(0))


def spec_of(number: int) -> GuestSpec:
    """Twenty guests, hardly two alike: thin and raw disks, none, several; some on a cell, one on a CPU of its own."""
    name, memory_mib = f"guest-{number:02}", 16 + number % 3
    if number in (3, 4):
        cell = GuestCellSpec(vcpus="0-1", memory_mib=memory_mib, host_cell=0)
        return GuestSpec(name=name, vcpus=2, memory_mib=memory_mib, cells=(cell,), disks_gib=(1,))
    if number == 5:
        return GuestSpec(name=name, memory_mib=memory_mib, pins={0: str(PINNED_CPU)})
    thin = (1 + number, 2) if number % 4 == 1 else (1 + number,) if number % 4 else ()
    raw = (700 + number,) if number % 5 == 0 else ()
    return GuestSpec(name=name, vcpus=1 + number % 3, memory_mib=memory_mib, disks_gib=thin, raw_disks_mib=raw)


SPECS = tuple(spec_of(number) for number in range(20))
LATE = GuestSpec(
    name="late",
    vcpus=2,
    memory_mib=20,
    disks_gib=(7,),
    cells=(GuestCellSpec(vcpus="0-1", memory_mib=20, host_cell=0),),
)


def disk_mb(spec: GuestSpec) -> int:
    return sum(spec.disks_gib) * 1024 + sum(spec.raw_disks_mib)


@pytest.fixture(scope="module")
def hypervisor(libvirtd_server: PrivateLibvirtd) -> Iterator[PrivateLibvirtd]:
    """The private libvirtd with the twenty guests; a test leaves them as they were."""
    libvirtd_server.clear()
    for spec in SPECS:
        libvirtd_server.start(spec)
    yield libvirtd_server
    libvirtd_server.clear()


@dataclass
class Scene:
    """The hypervisor, the program beside it, and the Placement that it reports to."""

    hypervisor: PrivateLibvirtd
    host: Host
    server: PlacementServer | None

    def refresh(self) -> Any:
        """Refresh, and give the one node's record."""
        (node,) = self.host.ask("refresh")["nodes"]
        return node


@pytest.fixture(params=["embedded on SQLite", "remote on PostgreSQL"])
def scene(request: pytest.FixtureRequest, hypervisor: PrivateLibvirtd, tmp_path: Path) -> Scene:
    settings: dict[str, object] = {
        "compute_driver": "libvirt",
        "libvirt.connection_uri": hypervisor.uri,
        "libvirt.instances_path": str(hypervisor.images),
        "reserved_host_memory_mb": RESERVED_MB,
    }
    server: PlacementServer | None = None
    if request.param == "remote on PostgreSQL":
        server = request.getfixturevalue("placement_server")
        assert server is not None
        Readback(server.url).clear()
        settings |= {f"placement.{name}": value for name, value in remote(server).items()}
        settings["database.connection"] = request.getfixturevalue("postgres_url")
    return Scene(hypervisor, Host(tmp_path / "state", settings), server)


def check_placement(scene: Scene, node: Any) -> None:
    """Read Placement back without the program, and compare it with the machine itself."""
    with ExitStack() as opened:
        there = Readback(scene.server.url) if scene.server else opened.enter_context(read_back(scene.host.state))
        (provider,) = there.providers().values()
        assert (provider["uuid"], provider["name"]) == (node["uuid"], node["hypervisor_hostname"])
        assert provider["parent_provider_uuid"] is None
        cpus, memory_mb, disk_gb = len(os.sched_getaffinity(0)), machine_memory_mb(), disk_total_gb(scene)
        shown = {
            name: (inventory["total"], inventory["reserved"], inventory["max_unit"], inventory["allocation_ratio"])
            for name, inventory in there.inventories(provider["name"]).items()
        }
        assert shown == {
            "VCPU": (cpus, 0, cpus, 4.0),
            "MEMORY_MB": (memory_mb, RESERVED_MB, memory_mb, 1.0),
            "DISK_GB": (disk_gb, 0, disk_gb, 1.0),
        }
        traits = there.traits(provider["name"])
        assert traits >= {"COMPUTE_NODE", "COMPUTE_ARCH_X86_64", "HW_ARCH_X86_64"}
        assert "COMPUTE_STATUS_DISABLED" not in traits
        assert there.consumers(provider["name"]) == frozenset()


def machine_memory_mb() -> int:
    found = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii"))
    assert found is not None
    return int(found[1]) // 1024


def disk_total_gb(scene: Scene) -> int:
    status = os.statvfs(scene.hypervisor.images)
    return status.f_blocks * status.f_frsize // GIB


def least_gb(scene: Scene, specs: Sequence[GuestSpec]) -> int:
    """Work out what is free once every thin disk is full; from the files themselves."""
    status = os.statvfs(scene.hypervisor.images)
    growth = 0
    for spec in specs:
        sizes = [gib * GIB for gib in spec.disks_gib] + [mib * 1024**2 for mib in spec.raw_disks_mib]
        kinds = ["qcow2"] * len(spec.disks_gib) + ["raw"] * len(spec.raw_disks_mib)
        numbers = [*range(len(spec.disks_gib)), *range(len(spec.raw_disks_mib))]
        for size, kind, number in zip(sizes, kinds, numbers, strict=True):
            file = scene.hypervisor.images / f"{spec.name}-{number}.{kind}"
            growth += size - file.stat().st_blocks * 512
    return (status.f_bavail * status.f_frsize - growth) // GIB


def check_record(scene: Scene, node: Any, running: Sequence[GuestSpec], defined: Sequence[GuestSpec] = ()) -> None:
    """Compare a record with what was started; `defined` guests have disks and do not run."""
    assert node["vcpus_used"] == sum(spec.vcpus for spec in running)
    assert node["memory_mb_used"] == RESERVED_MB + sum(spec.memory_mib for spec in running)
    assert node["local_gb_used"] == -(-sum(disk_mb(spec) for spec in running) // 1024)
    assert (node["vcpus"], node["memory_mb"]) == (len(os.sched_getaffinity(0)), machine_memory_mb())
    assert node["local_gb"] == disk_total_gb(scene)
    assert node["free_ram_mb"] == node["memory_mb"] - node["memory_mb_used"]
    assert node["free_disk_gb"] == node["local_gb"] - node["local_gb_used"]
    # Whatever else runs on this machine writes to the same file system, hence the two GiB.
    assert abs(node["disk_available_least"] - least_gb(scene, [*running, *defined])) <= 2
    check_cells(node, running)


def check_cells(node: Any, running: Sequence[GuestSpec]) -> None:
    on_cell = [spec for spec in running if spec.cells]
    pinned = [spec for spec in running if spec.pins]
    cells = node["numa_topology"]["cells"]
    home = next(cell for cell in cells if PINNED_CPU in {*cell["cpuset"], *cell["pcpuset"]})
    assert sum(cell["cpu_usage"] for cell in cells) == sum(spec.vcpus for spec in on_cell)
    assert cells[0]["cpu_usage"] == sum(spec.vcpus for spec in on_cell)
    memory_mb = sum(spec.memory_mib for spec in (*on_cell, *pinned))
    assert sum(cell["memory_usage"] for cell in cells) == memory_mb
    assert home["pinned_cpus"] == [PINNED_CPU] * len(pinned)


def check_explained(scene: Scene, node: Any) -> None:
    """Add up what `explain` says, by hand."""
    told = scene.host.ask("explain", node["hypervisor_hostname"])
    figures = {figure["field"]: figure for figure in told["figures"]}
    for field in ("vcpus_used", "memory_mb_used", "numa.0.memory_usage"):
        assert sum(part["amount"] for part in figures[field]["parts"]) == figures[field]["recorded"]
    assert figures["memory_mb_used"]["recorded"] == node["memory_mb_used"]
    disk = sum(part["amount"] for part in figures["local_gb_used"]["parts"])
    assert -(-disk // 1024) == node["local_gb_used"]
    assert told["agrees"] is True


def about_guests(node: Any) -> list[tuple[str, str]]:
    """Give the problems that are about a guest: a machine may have others of its own."""
    uuids = {spec.uuid for spec in (*SPECS, LATE)}
    return [(one["code"], one["about"]) for one in node["problems"] if one["about"] in uuids]


def orphans(scene: Scene, *, code: int = 1) -> dict[str, Any]:
    return {one["name"]: one for one in scene.host.ask("orphans", code=code)}


def test_given_twenty_guests_when_one_starts_and_stops_and_goes_then_every_figure_is_right_each_time(
    scene: Scene,
) -> None:
    node = scene.refresh()
    check_record(scene, node, SPECS)
    check_placement(scene, node)
    found = orphans(scene)
    assert {name: (one["id"], one["vcpus"], one["memory_mb"], one["disk_mb"]) for name, one in found.items()} == {
        spec.name: (spec.uuid, spec.vcpus, spec.memory_mib, disk_mb(spec)) for spec in SPECS
    }
    assert {one["kind"] for one in found.values()} == {"orphan"}

    scene.hypervisor.start(LATE)
    try:
        node = scene.refresh()
        check_record(scene, node, [*SPECS, LATE])
        check_explained(scene, node)
        assert orphans(scene)["late"]["cells"][0]["vcpus"] == 2
        scene.hypervisor.destroy("late")
        check_record(scene, scene.refresh(), SPECS, [LATE])
        assert orphans(scene)["late"]["active"] is False
    finally:
        scene.hypervisor.undefine("late")
    node = scene.refresh()
    check_record(scene, node, SPECS)
    assert orphans(scene).keys() == {spec.name for spec in SPECS}
    check_explained(scene, node)
    check_placement(scene, node)


def test_given_orphans_when_adopted_then_they_are_promised_what_they_take_and_stay_so_when_they_are_gone(
    scene: Scene,
) -> None:
    scene.refresh()
    first = SPECS[0]
    assert scene.host.ask("orphans", "adopt", first.uuid)["adopted"][0]["name"] == first.name
    assert orphans(scene).keys() == {spec.name for spec in SPECS} - {first.name}
    assert len(scene.host.ask("orphans", "adopt", "--all")["adopted"]) == len(SPECS) - 1
    assert scene.host.ask("orphans", "adopt", "--all")["adopted"] == []
    assert orphans(scene, code=0) == {}
    instances = {one["uuid"]: one for one in scene.host.ask("instances")}
    assert {uuid: one["flavor"]["vcpus"] for uuid, one in instances.items()} == {
        spec.uuid: spec.vcpus for spec in SPECS
    }
    node = scene.refresh()
    check_cells(node, SPECS)
    assert (node["running_vms"], node["vcpus_used"]) == (20, sum(spec.vcpus for spec in SPECS))
    # A flavor's disk is whole GiB.
    assert node["local_gb_used"] == sum(-(-disk_mb(spec) // 1024) for spec in SPECS)
    assert about_guests(node) == []
    check_explained(scene, node)

    again = scene.host.run("orphans", "adopt", first.uuid)
    assert again.code == 2
    assert "is an instance already" in again.err

    scene.hypervisor.start(LATE)
    scene.host.ask("orphans", "adopt", "late")
    scene.hypervisor.destroy("late")
    allocated = scene.refresh()
    assert (allocated["running_vms"], allocated["vcpus_used"]) == (21, node["vcpus_used"] + 2)
    scene.hypervisor.undefine("late")
    gone = scene.refresh()
    assert gone["vcpus_used"] == allocated["vcpus_used"]
    assert about_guests(gone) == [("instance-without-guest", LATE.uuid)]
    check_placement(scene, gone)
