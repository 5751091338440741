"""Image headers and file stats, against images that qemu-img made and headers that nobody should have."""

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import cast

import libvirt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.drivers.libvirt.connection import Hypervisor
from stocktake.drivers.libvirt.disks import (
    Image,
    ImageCache,
    growth_bytes,
    qcow2_virtual_size,
    read_image,
    read_pool_disk,
    with_status_of,
)
from stocktake.drivers.machine import FileSystem
from stocktake.errors import InvalidData
from tests.servers.libvirtd import qcow2_image

# The host of libvirt's test driver, with two storage pools of ours.
NODE = """
<node>
  <pool type='dir'><name>default</name><target><path>/default</path></target></pool>
  <pool type='dir'><name>fast</name><target><path>/fast/images/</path></target></pool>
</node>"""

GIB = 1024**3


@pytest.mark.parametrize("version", ["0.10", "1.1"])
def test_a_qcow2_image_of_either_version_grows_to_its_virtual_size(tmp_path: Path, version: str) -> None:
    path = tmp_path / "a.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", f"compat={version}", path, "10G"], check=True)
    image = read_image(str(path), "qcow2")
    assert image.virtual == 10 * GIB
    assert image.allocated == path.stat().st_blocks * 512
    assert growth_bytes([image]) == 10 * GIB - image.allocated


def test_a_backing_file_does_not_count(tmp_path: Path) -> None:
    base, top = tmp_path / "base.raw", tmp_path / "top.qcow2"
    with base.open("wb") as file:
        file.truncate(5 * GIB)
    options = ["-f", "qcow2", "-F", "raw", "-b", str(base)]
    subprocess.run(["qemu-img", "create", "-q", *options, top, "7G"], check=True)
    assert read_image(str(top), "qcow2").virtual == 7 * GIB


def test_the_images_that_the_tests_make_are_what_qemu_takes_for_an_image(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    qcow2_image(path, 10 * GIB)
    subprocess.run(["qemu-img", "check", "-q", path], check=True)
    assert read_image(str(path), "qcow2").virtual == 10 * GIB


def test_a_raw_image_is_as_large_as_its_file_and_grows_by_its_holes(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    with path.open("wb") as file:
        file.write(b"x" * 8192)
        file.truncate(1024**2)
    image = read_image(str(path), "raw")
    assert (image.virtual, growth_bytes([image])) == (1024**2, 1024**2 - 8192)


def test_a_raw_disk_with_a_qcow2_header_written_by_its_guest_is_still_raw(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    qcow2_image(path, 4096 * GIB)
    assert read_image(str(path), "raw").virtual == path.stat().st_size


def test_an_image_that_two_guests_share_grows_once_and_a_full_one_not_at_all(tmp_path: Path) -> None:
    shared = Image(identity=(1, 2), virtual=100, allocated=40)
    full = Image(identity=(1, 3), virtual=100, allocated=130)
    assert growth_bytes([shared, full, shared]) == 60


def test_what_cannot_be_read_is_refused_with_its_path(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    empty = tmp_path / "empty.qcow2"
    empty.touch()
    for path, image_format, says in (
        (tmp_path / "gone", "qcow2", "No such file"),
        (tmp_path, "raw", "not a regular file"),
        (fifo, "qcow2", "not a regular file|Illegal seek"),
        (empty, "qcow2", "no qcow2 header"),
        (Path("a\0b"), "raw", "null"),
    ):
        with pytest.raises(InvalidData, match=says) as refusal:
            read_image(str(path), image_format)
        assert str(path) in refusal.value.what


def header(version: int, size: int) -> bytes:
    return b"QFI\xfb" + version.to_bytes(4) + b"\0" * 16 + size.to_bytes(8)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no qcow2 header"),
        (header(3, 5)[:31], "no qcow2 header"),
        (b"X" * 32, "no qcow2 header"),
        (header(1, 5), "version 1"),
        (header(4, 5), "version 4"),
        (header(3, 2**64 - 1), "is impossible"),
    ],
)
def test_a_header_that_is_none_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(InvalidData, match=says):
        qcow2_virtual_size(data, where="/a")


@given(st.sampled_from([2, 3]), st.integers(0, 2**63 - 1), st.binary(max_size=64))
def test_any_sound_header_gives_its_size_whatever_follows(version: int, size: int, rest: bytes) -> None:
    assert qcow2_virtual_size(header(version, size) + rest, where="/a") == size


@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda tail: b"QFI\xfb" + tail))
def test_any_bytes_are_a_size_or_refused(data: bytes) -> None:
    with suppress(InvalidData):
        assert 0 <= qcow2_virtual_size(data, where="/a") < 2**63


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were opened."""
    paths: list[str] = []
    really = os.open

    def noted(path: str, flags: int, *more: int) -> int:
        paths.append(path)
        return really(path, flags, *more)

    monkeypatch.setattr("stocktake.drivers.libvirt.disks.os.open", noted)
    return paths


def test_an_image_is_opened_again_only_once_it_was_written_to_or_is_another_file(
    tmp_path: Path, opened: list[str]
) -> None:
    path = tmp_path / "a.qcow2"
    qcow2_image(path, GIB)
    cache = ImageCache()

    def sizes() -> tuple[int, int]:
        """Read it, and count how often it was opened for that."""
        opened.clear()
        image = cache.read(str(path), "qcow2")
        cache.turn()
        return image.virtual // GIB, opened.count(str(path))

    assert sizes() == (1, 1)
    assert sizes() == (1, 0)
    # Grown, with its time set back, as only its content and its ctime tell.
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(24)
        file.write((2 * GIB).to_bytes(8))
    # A file system's clock ticks a few hundred times a second.
    while path.stat().st_ctime_ns == before.st_ctime_ns:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert sizes() == (2, 1)
    other = tmp_path / "other.qcow2"
    qcow2_image(other, 3 * GIB)
    other.replace(path)
    assert sizes() == (3, 1)
    assert sizes() == (3, 0)
    cache.clear()
    assert sizes() == (3, 1)
    # What was not read in a turn is forgotten.
    cache.turn()
    cache.turn()
    assert sizes() == (3, 1)
    path.unlink()
    with pytest.raises(InvalidData, match="No such file"):
        sizes()


def test_a_path_is_kept_by_the_format_that_it_was_read_as(tmp_path: Path) -> None:
    path = tmp_path / "a"
    qcow2_image(path, 5 * GIB)
    cache = ImageCache()
    assert cache.read(str(path), "qcow2").virtual == 5 * GIB
    assert cache.read(str(path), "raw").virtual == path.stat().st_size
    with pytest.raises(InvalidData):
        cache.read("a\0b", "raw")


def test_a_size_that_libvirtd_told_takes_allocation_and_identity_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.qcow2"
    qcow2_image(path, GIB)
    told = Image(identity=str(path), virtual=GIB, allocated=0)
    status = path.stat()
    assert with_status_of(str(path), told) == Image(
        identity=(status.st_dev, status.st_ino), virtual=GIB, allocated=status.st_blocks * 512
    )
    assert with_status_of(str(tmp_path / "nowhere"), told) == told


@pytest.mark.parametrize(("path", "pool"), [("/fast/images", "fast"), ("/default", "default"), ("/other", "default")])
def test_a_remote_disk_is_the_pool_of_that_path_or_the_default_one(tmp_path: Path, path: str, pool: str) -> None:
    document = tmp_path / "node.xml"
    document.write_text(NODE)
    connection = libvirt.open(f"test://{document}")
    _state, total, used, free = connection.storagePoolLookupByName(pool).info()
    assert read_pool_disk(cast(Hypervisor, connection), path) == FileSystem(total=total, used=used, free=free)
    connection.close()


def test_a_remote_host_without_pools_has_no_disk(tmp_path: Path) -> None:
    document = tmp_path / "node.xml"
    document.write_text("<node/>")
    connection = libvirt.open(f"test://{document}")
    assert read_pool_disk(cast(Hypervisor, connection), "/a") is None
    connection.close()
