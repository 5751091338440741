"""What the drivers of one machine read alike: CPU sets, the disk; the sets' rules are Nova's."""

from pathlib import Path

import pytest

from stocktake.drivers.machine import FileSystem, disk_report, read_file_system, split_cpus
from stocktake.errors import SettingsError

GIB = 1024**3
ONLINE = frozenset(range(7))


@pytest.mark.parametrize(
    ("shared", "dedicated", "expected_shared", "expected_dedicated"),
    [
        (None, None, {0, 1, 2, 3, 4, 5, 6}, set()),
        ("", "", {0, 1, 2, 3, 4, 5, 6}, set()),
        ("0-1", None, {0, 1}, set()),
        (None, "4-6,^5", set(), {4, 6}),
        ("0-1", "4-6", {0, 1}, {4, 5, 6}),
    ],
)
def test_the_sets_say_what_is_shared_and_dedicated_as_nova_reads_them(
    shared: str | None, dedicated: str | None, expected_shared: set[int], expected_dedicated: set[int]
) -> None:
    cpus = split_cpus(ONLINE, shared_spec=shared, dedicated_spec=dedicated)
    assert (set(cpus.shared), set(cpus.dedicated)) == (expected_shared, expected_dedicated)


@pytest.mark.parametrize(
    ("shared", "dedicated", "says"),
    [
        ("0,19-20", None, r"cpu_shared_set: CPU 19-20 is not on this host or offline \(online: 0-6\)"),
        (None, "7", "cpu_dedicated_set: CPU 7 is not on this host"),
        ("0-3", "2-5", "both name CPU 2-3"),
        ("0,^0", None, "'0,\\^0' names no CPU"),
        (None, "a-b", "cpu_dedicated_set: .*a-b"),
        ("3-1", None, "cpu_shared_set"),
    ],
)
def test_a_set_that_does_not_fit_the_host_is_named(shared: str | None, dedicated: str | None, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        split_cpus(ONLINE, shared_spec=shared, dedicated_spec=dedicated)


def test_a_path_that_is_not_there_yet_is_its_nearest_parent_s_disk(tmp_path: Path) -> None:
    there = read_file_system(tmp_path)
    assert there.total > 0
    assert read_file_system(tmp_path / "not" / "yet").total == there.total


@pytest.mark.parametrize(
    ("disk", "growth", "figures"),
    [
        (FileSystem(100 * GIB, 40 * GIB, 60 * GIB), 0, (100, 40, 60)),
        # Free is never overstated: totals are rounded down, used is rounded up.
        (FileSystem(100 * GIB + 1, 40 * GIB + 1, 60 * GIB - 1), 0, (100, 41, 59)),
        (FileSystem(100 * GIB, 40 * GIB, 60 * GIB), 1, (100, 40, 59)),
        (FileSystem(100 * GIB, 40 * GIB, 60 * GIB), 100 * GIB + 1, (100, 40, -41)),
        (FileSystem(GIB // 2, GIB // 2, 0), 0, (0, 0, 0)),
        (None, 5, (0, 0, None)),
    ],
)
def test_disk_figures_are_whole_gib(disk: FileSystem | None, growth: int, figures: tuple[int, int, int | None]) -> None:
    assert tuple(disk_report(disk, growth).values()) == figures
