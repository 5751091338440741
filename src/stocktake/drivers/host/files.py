"""
Step 4, small files of /proc and /sys. Invariant: a file that isn't there is an answer, one that can't be read an error.
"""

from pathlib import Path

from stocktake.model.topology import parse_cpu_set


def read_text(path: Path) -> str | None:
    """
    Read a file, without white space round it; None if it isn't there.

    Raises:
        OSError: it is there and can't be read.
    """
    try:
        # The kernel bounds what these files hold; asked for many bytes at once it may refuse for want of memory.
        return path.read_bytes().decode(errors="replace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None


def read_number(path: Path, *, base: int = 10) -> int | None:
    """
    Read a file that holds one number; None if it isn't there or is empty.

    Raises:
        OSError: it can't be read.
        ValueError: it holds something else.
    """
    text = read_text(path)
    return int(text, base) if text else None


def read_cpus(path: Path) -> frozenset[int]:
    """
    Read a file that holds a list of CPUs; empty if it isn't there.

    Raises:
        OSError: it can't be read.
        InvalidData: it holds something else.
    """
    return parse_cpu_set(read_text(path) or "")


def read_sizes_kb(path: Path) -> dict[str, int]:
    """
    Read a file such as /proc/meminfo: names to KiB; lines without a number are left out.

    Raises:
        OSError: it can't be read.
    """
    sizes: dict[str, int] = {}
    for line in (read_text(path) or "").splitlines():
        name, _colon, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdecimal():
            # A node's own meminfo has `Node 0 MemTotal:`.
            sizes[name.split()[-1]] = int(words[0])
    return sizes


def numbered(folder: Path, prefix: str) -> dict[int, Path]:
    """
    List the entries of a folder that are a prefix and a number, by number; empty without the folder.

    Raises:
        OSError: the folder can't be read.
    """
    try:
        entries = list(folder.iterdir())
    except FileNotFoundError:
        return {}
    found = {entry.name.removeprefix(prefix): entry for entry in entries if entry.name.startswith(prefix)}
    return {int(number): found[number] for number in sorted(found, key=_by_number) if number.isdecimal()}


def _by_number(text: str) -> tuple[int, str]:
    return (int(text), text) if text.isdecimal() else (-1, text)
