"""
The files that the program keeps. Invariant: each is made by us and for us, and a link planted in its place is never
followed.

A directory is 0750 and a file 0640 whatever the umask. What root makes belongs to the directory's owner, so that a
command run by hand as root leaves nothing that the service can't open.
"""

import errno
import fcntl
import glob
import os
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkstemp
from typing import Final, Literal, TextIO

from stocktake.clock import SystemClock
from stocktake.errors import IdentityError
from stocktake.model.value import UUID

COMPUTE_ID: Final = "compute_id"
DIRECTORY_MODE: Final = 0o750
FILE_MODE: Final = 0o640
PRIVATE_MODE: Final = 0o600
# What others may not have: the group's leave to write, and everybody's any.
_TOO_WIDE: Final = 0o027
_LOOK_S: Final = 0.005
_HALF: Final = ".new"
_LINK_REMEDY: Final = "Something else is there than this program made: look at it, and remove it."

FileId = tuple[int, int]


def make_directory(path: Path) -> None:
    """
    Make a directory of ours and those above it, unless it is there.

    Raises:
        OSError: it can't be made, or is something else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=DIRECTORY_MODE)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    path.chmod(DIRECTORY_MODE)
    _give_to_owner(path, path.parent)


def make_file(path: Path) -> None:
    """
    Make an empty file of ours, unless there is one.

    Raises:
        OSError: it can't be made, or is a link to nothing.
    """
    try:
        _settle(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE), path)
    except FileExistsError:
        if not path.exists():
            raise OSError(errno.ELOOP, f"it is a link to nothing. {_LINK_REMEDY}", str(path)) from None


def write_once(path: Path, text: str) -> str:
    """
    Keep text in a file that is not there yet, whole or not at all, and on the disk when this returns.

    Returns:
        What the file holds: another process's text if that one was faster.

    Raises:
        OSError: it can't be made, or what is there can't be read.
    """
    with _half_made(path, FILE_MODE) as (out, half):
        out.write(text)
        _sync(out)
        # Unlike a rename it takes nothing's place. Who was faster may have removed ours as an old one.
        with suppress(FileExistsError, FileNotFoundError):
            path.hardlink_to(half)
    kept = read_file(path)
    sync_directory(path.parent)
    return kept


@contextmanager
def replaced(path: Path) -> Iterator[TextIO]:
    """
    Give a file to write to that takes this one's place at the end, whole; nothing changes if anything is raised.

    It is for its owner alone, as exports hold everything, and on the disk at the end.

    Raises:
        OSError: it can't be made.
    """
    with _half_made(path, PRIVATE_MODE) as (out, half):
        yield out
        _sync(out)
        half.replace(path)
    sync_directory(path.parent)


@contextmanager
def _half_made(path: Path, mode: int) -> Iterator[tuple[TextIO, Path]]:
    """Give a file beside this one, of a name that nobody can know before; those of killed processes are removed."""
    opened, name = mkstemp(prefix=f"{path.name}.", suffix=_HALF, dir=path.parent)
    half = Path(name)
    try:
        with os.fdopen(opened, "w", encoding="utf-8") as out:
            os.fchmod(opened, mode)
            _give_to_owner(opened, path.parent)
            yield out, half
        for old in path.parent.glob(f"{glob.escape(path.name)}.*{_HALF}"):
            old.unlink(missing_ok=True)
    finally:
        half.unlink(missing_ok=True)


def _sync(out: TextIO) -> None:
    out.flush()
    os.fsync(out.fileno())


def read_file(path: Path, bytes_max: int = 4096) -> str:
    """
    Read a small text file of ours.

    Raises:
        OSError: it can't be read, is a link or no file.
        UnicodeDecodeError: it is no text.
    """
    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _without_links(error, path) from error
    try:
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, f"it is no file. {_LINK_REMEDY}", str(path))
        return os.read(opened, bytes_max).decode("ascii")
    finally:
        os.close(opened)


def sync_directory(path: Path) -> None:
    """Put a directory's names on the disk."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class ComputeIdFile:
    """
    The file of the state path that holds this host's id.

    Attributes:
        path: where it is.
    """

    def __init__(self, state_path: Path) -> None:
        self.path = state_path / COMPUTE_ID

    def read(self) -> str | None:
        """
        Read this host's id; None if it has none yet.

        Raises:
            IdentityError: the file can't be read or holds no UUID.
        """
        where = str(self.path)
        try:
            text = read_file(self.path).strip().lower()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError as error:
            raise IdentityError(f"can't be read: {error}", where=where) from error
        except OSError as error:
            raise IdentityError(f"can't be read: {error.strerror}", where=where) from error
        if not UUID.fullmatch(text):
            remedy = (
                "Put back the uuid of this host's compute node (`stocktake nodes`), or delete the file if it has none."
            )
            raise IdentityError(f"holds no UUID but {text[:60]!r}", where=where, remedy=remedy)
        return text

    def write(self, compute_id: str) -> None:
        """
        Keep this host's id; the file is there whole or not at all, and survives a power cut. One that is there stays.

        Raises:
            IdentityError: the state path can't be written.
        """
        try:
            make_directory(self.path.parent)
            write_once(self.path, compute_id + "\n")
        except OSError as error:
            what = f"can't be written: {error.strerror} (disk {disk_of(self.path)})"
            raise IdentityError(what, where=str(self.path)) from error


class FileLock:
    """
    A lock between processes that ends with the process; one thread of a process at a time may take it.

    The file stays, so that two never lock two files of one name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._clock = SystemClock()
        self._never = threading.Event()

    @contextmanager
    def hold(self, wait_s: float) -> Iterator[None]:
        """
        Hold the lock.

        Raises:
            TimeoutError: another process has it for `wait_s` seconds.
            OSError: the file can't be made or opened, or is a link.
        """
        opened = self._opened()
        try:
            until_s = self._clock.monotonic_s() + wait_s
            while not _taken(opened):
                if self._clock.monotonic_s() >= until_s:
                    raise TimeoutError(errno.ETIMEDOUT, f"another process has it for {wait_s:g} s", str(self.path))
                self._never.wait(_LOOK_S)
            yield
        finally:
            # Which lets go of it.
            os.close(opened)

    def _opened(self) -> int:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            if not os.path.lexists(self.path):
                make_file(self.path)
            return os.open(self.path, flags)
        except OSError as error:
            raise _without_links(error, self.path) from error


def file_id(path: Path) -> FileId | None:
    """Say which file a name leads to; None if there is none."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def exposure(directory: Path) -> tuple[str, str] | None:
    """Say what is wrong with who may get at a directory of ours, and the command that cures it; None if nothing."""
    try:
        found = directory.stat()
    except OSError:
        return None
    me = os.geteuid()
    if found.st_uid != me and me:
        return f"{directory} belongs to user {found.st_uid}, not to this one ({me})", f"Run `chown {me} {directory}`."
    mode = stat.S_IMODE(found.st_mode)
    if mode & _TOO_WIDE:
        may = "change" if mode & 0o022 else "read"
        return f"others may {may} what is in {directory} (mode {mode:04o})", f"Run `chmod 0750 {directory}`."
    return None


def disk_of(path: Path) -> str:
    """Say which disk a file is on and what is free there: `/var: 12 of 1,024 MiB free`."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    mount = there.resolve()
    while not mount.is_mount():
        mount = mount.parent
    found = os.statvfs(there)
    free_mb, total_mb = (blocks * found.f_frsize // 2**20 for blocks in (found.f_bavail, found.f_blocks))
    return f"{mount}: {free_mb:,} of {total_mb:,} MiB free"


@dataclass(frozen=True, slots=True)
class SqliteFault:
    """What one of SQLite's errors means: `away` if it may pass by itself, and what to do, which may be nothing."""

    away: bool
    remedy: str


_AWAY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR})
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def sqlite_fault(error: sqlite3.Error, file: Path | None, kind: Literal["ledger", "placement"]) -> SqliteFault:
    """
    Say what an error of SQLite means for a file of ours, with the disk where that is to blame.

    Args:
        kind: what is in the file, which decides how it is brought back.
    """
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    disk = f" (disk {disk_of(file)})" if file is not None else ""
    remedy = ""
    if code == sqlite3.SQLITE_FULL:
        remedy = f"Free some space on its disk{disk}; nothing was saved."
    elif code == sqlite3.SQLITE_IOERR:
        remedy = f"Look at its disk{disk}: full, failing or gone; nothing was saved, trying again is safe."
    elif code == sqlite3.SQLITE_READONLY:
        remedy = f"Give this user write permission on the file and its directory{disk}."
    elif code in _DAMAGED and kind == "ledger":
        remedy = (
            "The file is damaged, or no ledger. If database.connection names the right one, stop what has it open, "
            "move it away with its -wal and -shm, and bring an export back: `stocktake ledger import FILE`."
        )
    elif code in _DAMAGED:
        remedy = (
            "The file is damaged, or not Placement's. Stop what has it open and move it away: the next refresh makes "
            'it anew and reports every node, and allocations with `allocations = "own"`.'
        )
    return SqliteFault(code in _AWAY, remedy)


def _without_links(error: OSError, path: Path) -> OSError:
    """Say what is meant where a link was met: the system speaks of too many levels of them."""
    if error.errno != errno.ELOOP:
        return error
    return OSError(errno.ELOOP, f"it is a link. {_LINK_REMEDY}", str(path))


def _taken(opened: int) -> bool:
    try:
        fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    return True


def _settle(opened: int, path: Path) -> None:
    """Give a file just made its mode and owner, and close it."""
    try:
        os.fchmod(opened, FILE_MODE)
        _give_to_owner(opened, path.parent)
    finally:
        os.close(opened)


def _give_to_owner(what: int | Path, directory: Path) -> None:
    """Let what root made belong to whom the directory belongs to."""
    owner = directory.stat()
    if os.geteuid() == 0 and owner.st_uid:
        os.chown(what, owner.st_uid, owner.st_gid)
