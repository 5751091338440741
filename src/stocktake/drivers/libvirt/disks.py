"""
Step 4, the disks: how large an image may grow. Invariant: only the header and the file's status are read, never a
process.

The format is the one that the guest's definition states. It is never guessed: a guest may write another format's header
into its raw disk.
"""

import os
import stat
from collections.abc import Iterable

from stocktake.drivers.libvirt.connection import Hypervisor, StoragePool
from stocktake.drivers.libvirt.xml import read_xml, text_of
from stocktake.drivers.machine import FileSystem
from stocktake.errors import InvalidData
from stocktake.model.value import Value

_QCOW2_MAGIC = b"QFI\xfb"
# Magic, version, backing file (offset and length), cluster bits, then the virtual size, all big-endian.
_HEADER_BYTES = 32
_SIZE_AT = 24
_BLOCK_BYTES = 512
_SIZE_MAX = 2**63 - 1


class Image(Value, frozen=True, kw_only=True):
    """
    One disk image, sizes in bytes.

    Attributes:
        identity: device and inode, or whatever else makes two paths the same file.
        virtual: what the guest sees, and so what the image may grow to.
        allocated: what it takes of its file system now; its backing file doesn't count.
    """

    identity: tuple[int, int] | str
    virtual: int
    allocated: int


class ImageCache:
    """Images by path and format; a file is opened again only if its status is another."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], tuple[_Status, Image]] = {}
        self._seen: dict[tuple[str, str], tuple[_Status, Image]] = {}

    def read(self, path: str, image_format: str) -> Image:
        """
        Read one local image, as `read_image` does.

        Raises:
            InvalidData: as `read_image`.
        """
        key = path, image_format
        try:
            status = _status(os.stat(path))  # noqa: PTH116 (a pathlib.Path costs more than the call)
        except (OSError, ValueError):
            # It is told in one place what is wrong with a file.
            return read_image(path, image_format)
        kept = self._kept.get(key)
        if kept is None or kept[0] != status:
            kept = status, read_image(path, image_format)
        self._seen[key] = kept
        return kept[1]

    def turn(self) -> None:
        """Forget what was not read since the last turn."""
        self._kept, self._seen = self._seen, {}

    def clear(self) -> None:
        """Open every file again."""
        self._kept.clear()


# Whatever is written to a file, and by whomever, changes one of these; unlike the others ctime can't be set back.
_Status = tuple[int, int, int, int, int]


def _status(status: os.stat_result) -> _Status:
    return status.st_dev, status.st_ino, status.st_size, status.st_blocks, status.st_ctime_ns


def read_image(path: str, image_format: str) -> Image:
    """
    Read one local image.

    Args:
        path: the image's file.
        image_format: as the guest's definition states it; any but `qcow2` is as large as its file.

    Raises:
        InvalidData: the file isn't there, can't be read, isn't a regular file, or isn't what it is said to be.
    """
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its writer.
        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(opened)
            header = os.pread(opened, _HEADER_BYTES, 0) if image_format == "qcow2" else b""
        finally:
            os.close(opened)
    except (OSError, ValueError) as error:
        # ValueError: a NUL in the path.
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InvalidData(f"disk {path}: {reason}") from error
    if not stat.S_ISREG(status.st_mode):
        raise InvalidData(f"disk {path}: not a regular file")
    virtual = qcow2_virtual_size(header, where=path) if image_format == "qcow2" else status.st_size
    return Image(identity=(status.st_dev, status.st_ino), virtual=virtual, allocated=status.st_blocks * _BLOCK_BYTES)


def with_status_of(path: str, image: Image) -> Image:
    """Take an image's identity and what it allocates from its file's status, which may be readable where it is not."""
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError:
        return image
    identity = status.st_dev, status.st_ino
    return Image(identity=identity, virtual=image.virtual, allocated=status.st_blocks * _BLOCK_BYTES)


def qcow2_virtual_size(header: bytes, *, where: str) -> int:
    """
    Read the virtual size, in bytes, from the first 32 bytes of a qcow2 image (versions 2 and 3).

    Raises:
        InvalidData: not such a header.
    """
    if len(header) < _HEADER_BYTES or not header.startswith(_QCOW2_MAGIC):
        raise InvalidData(f"disk {where}: no qcow2 header")
    version = int.from_bytes(header[4:8])
    if version not in (2, 3):
        raise InvalidData(f"disk {where}: qcow2 version {version} is not supported")
    size = int.from_bytes(header[_SIZE_AT:_HEADER_BYTES])
    if size > _SIZE_MAX:
        raise InvalidData(f"disk {where}: a virtual size of {size} bytes is impossible")
    return size


def growth_bytes(images: Iterable[Image]) -> int:
    """
    Add up what thin images may still grow by, in bytes; an image that several guests share counts once.

    An image that takes more than its virtual size (qcow2's own tables, snapshots) grows by nothing.
    """
    distinct = {image.identity: image for image in images}
    return sum(max(0, image.virtual - image.allocated) for image in distinct.values())


def read_pool_disk(hypervisor: Hypervisor, path: str) -> FileSystem | None:
    """
    Read a remote host's disk from its storage pools: the one at `path`, else the one called `default`.

    None if it has neither; its disk is then unknown from here.
    """
    pools = hypervisor.listAllStoragePools()
    chosen = next((pool for pool in pools if _target_path(pool) == path.rstrip("/")), None)
    chosen = chosen or next((pool for pool in pools if pool.name() == "default"), None)
    if chosen is None:
        return None
    _state, total, used, free = chosen.info()
    return FileSystem(total=total, used=used, free=free)


def _target_path(pool: StoragePool) -> str:
    return text_of(read_xml(pool.XMLDesc(), where=f"storage pool {pool.name()}"), "./target/path").rstrip("/")
