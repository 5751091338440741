"""
A disk of a few MiB, which can be filled: a tmpfs in a mount namespace of its own. The machine's mounts stay so.

    with small_disk(tmp_path / "disk", size_kb=4096) as disk:
        host = Host(tmp_path / "host", settings, prefix=disk.prefix)
        disk.fill()

Who is not root takes a user namespace, in which he is.
"""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SmallDisk:
    """
    The disk while it is there.

    Attributes:
        path: where it is, for who runs behind `prefix`.
        prefix: puts a command into the namespace.
        seen: where it is for everybody else.
    """

    path: Path
    prefix: tuple[str, ...]
    seen: Path

    def fill(self) -> None:
        """Fill it to the last byte."""
        with (self.seen / "full").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (65536, 512, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def free(self) -> None:
        """Take away what fills it."""
        (self.seen / "full").unlink()


@contextlib.contextmanager
def small_disk(path: Path, *, size_kb: int) -> Iterator[SmallDisk]:
    """Mount a disk at a path, which is made."""
    path.mkdir(parents=True)
    as_root, into = ([], []) if os.geteuid() == 0 else (["--map-root-user"], ["--user", "--preserve-credentials"])
    script = 'mount -t tmpfs -o "size=$2k,mode=750" tmpfs "$1" && echo ready && exec cat'
    command = ["unshare", *as_root, "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(path)]
    keeper = subprocess.Popen([*command, str(size_kb)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "ready\n", "no leave to mount in a namespace of our own"
        prefix = ("nsenter", "--target", str(keeper.pid), *into, "--mount")
        yield SmallDisk(path, prefix, Path(f"/proc/{keeper.pid}/root{path}"))
    finally:
        # The end of its input ends it, and with it the namespace and the disk.
        keeper.communicate()
