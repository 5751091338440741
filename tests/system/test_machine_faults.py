"""A full disk, a damaged file: named with the file, the disk and what to do, never a traceback."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.context import Fleet, a_guest
from tests.servers.small_disk import small_disk
from tests.system.running import Host, Result

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"


def host_of(tmp_path: Path, fleet: Fleet, state: Path, *prefix: str, **more: object) -> Host:
    """One machine with one node whose state is in `state`."""
    fleet.has("one", guests=[a_guest(GUEST)])
    settings: dict[str, object] = {"host": "alpha", "compute_driver": "fake", "fake.fleet": str(fleet.path)}
    settings |= {"state_path": str(state), "provider_config_location": str(tmp_path / "none")}
    return Host(tmp_path / "settings", settings | more, prefix=prefix)


def said(result: Result, *words: str, codes: tuple[int, ...] = (3,)) -> None:
    """Hold a failure to what each has to be."""
    assert result.code in codes, result
    assert "Traceback" not in result.err + result.out, result
    for word in words:
        assert word in result.err + result.out, result


def test_given_a_full_disk_when_the_first_refresh_runs_then_the_disk_is_named_and_it_works_once_there_is_room(
    tmp_path: Path, fleet: Fleet
) -> None:
    with small_disk(tmp_path / "disk", size_kb=8192) as disk:
        host = host_of(tmp_path, fleet, disk.path / "state", *disk.prefix)
        disk.fill()
        said(host.run("refresh"), str(disk.path), "0 of 8 MiB free")
        disk.free()
        assert host.run("refresh").code == 0


def test_given_a_disk_that_fills_up_when_commands_run_then_the_disk_is_named_and_the_books_are_whole_afterwards(
    tmp_path: Path, fleet: Fleet
) -> None:
    with small_disk(tmp_path / "disk", size_kb=8192) as disk:
        host = host_of(tmp_path, fleet, disk.path / "state", *disk.prefix)
        assert host.run("refresh").code == 0
        before = host.ask("show", "one")
        disk.fill()
        # More than the pages that the log of the ledger still has room for.
        fleet.has("one", report={"vcpus": 99}, guests=[a_guest(f"{GUEST[:-4]}{number:04}") for number in range(3000)])
        said(host.run("refresh"), str(disk.path), "0 of 8 MiB free")
        said(host.run("refresh", "--json"), "0 of 8 MiB free")
        said(host.run("ledger", "export", str(disk.path / "export")), "0 of 8 MiB free", codes=(2, 3))
        doctor = host.run("doctor")
        assert "Traceback" not in doctor.err + doctor.out, doctor
        disk.free()
        assert host.ask("show", "one")["memory_mb"] == before["memory_mb"]
        fleet.has("one", report={"vcpus": 99}, guests=[a_guest(GUEST)])
        assert host.run("refresh").code == 0
        assert host.ask("nodes")[0]["vcpus"] == 99


def test_given_a_disk_that_fills_up_when_the_agent_runs_then_it_says_so_and_goes_on_once_there_is_room(
    tmp_path: Path, fleet: Fleet
) -> None:
    with small_disk(tmp_path / "disk", size_kb=8192) as disk:
        host = host_of(tmp_path, fleet, disk.path / "state", *disk.prefix, update_resources_interval=1)
        with host.agent("-vv") as agent:
            agent.until_said("passed")
            disk.fill()
            fleet.has("one", guests=[a_guest(f"{GUEST[:-4]}{number:04}") for number in range(3000)])
            agent.until_said("0 of 8 MiB free")
            disk.free()
            fleet.has("one", report={"vcpus": 99}, guests=[a_guest(GUEST)])
            agent.until(lambda: host.ask("nodes")[0]["vcpus"] == 99)
            assert agent.count("Traceback") == 0, agent.text


def test_given_output_to_a_full_disk_when_written_then_it_is_said(tmp_path: Path, fleet: Fleet) -> None:
    """What a shell's `>` leads to is no file that the program knows by name."""
    host = host_of(tmp_path, fleet, tmp_path / "state", "sh", "-c", 'exec "$0" "$@" >/dev/full')
    said(host.run("config", "show"), "No space left on device", "what the output goes to")


def rubbish(file: Path) -> None:
    file.write_bytes(random.Random(7).randbytes(50_000))


@pytest.mark.parametrize("damage", [rubbish])
def test_given_a_damaged_placement_when_refreshed_then_the_file_and_what_to_do_are_said_and_the_books_kept(
    tmp_path: Path, fleet: Fleet, damage: Callable[[Path], None]
) -> None:
    """The remedy is tried: once the file is moved away, Placement has everything again."""
    host = host_of(tmp_path, fleet, tmp_path / "state")
    host.ask("refresh")
    file = tmp_path / "state" / "placement.db"
    damage(file)
    fleet.has("one", report={"vcpus": 99}, guests=[a_guest(GUEST)])
    said(host.run("refresh"), str(file), "move it away", codes=(1, 3))
    assert host.ask("nodes")[0]["vcpus"] == 99
    said(host.run("doctor"), str(file), "move it away", codes=(1, 3))
    file.unlink()
    assert host.run("refresh").code == 0
    assert host.run("doctor").code in {0, 1}
