"""The files that the program keeps: made for it alone, through no planted link, whole after a kill, locked once."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stocktake.settings.state_files import (
    FileLock,
    exposure,
    make_directory,
    make_file,
    read_file,
    replaced,
    write_once,
)


@pytest.fixture(params=[0o000, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """A umask that takes nothing, what is usual, and everything."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("umask")
def test_given_any_umask_when_made_then_a_directory_is_0750_a_file_0640_and_an_export_0600(tmp_path: Path) -> None:
    state = tmp_path / "above" / "state"
    make_directory(state)
    make_directory(state)
    make_file(state / "a.db")
    write_once(state / "compute_id", "x\n")
    with replaced(state / "export") as out:
        out.write("all")
    with FileLock(state / "a.lock").hold(1):
        pass
    found = {path.name: mode(path) for path in (state, *state.iterdir())}
    assert found == {"state": 0o750, "a.db": 0o640, "compute_id": 0o640, "export": 0o600, "a.lock": 0o640}


def _lock(path: Path) -> None:
    with FileLock(path).hold(1):
        pass


def _read(path: Path) -> None:
    read_file(path)


def _write(path: Path) -> None:
    write_once(path, "ours")


@pytest.mark.parametrize("make", [make_file, _write, _read, _lock])
@pytest.mark.parametrize("victim", ["nothing", "file"])
def test_given_a_planted_link_when_a_file_is_made_then_it_is_refused_and_what_it_leads_to_is_as_it_was(
    tmp_path: Path, make: Callable[[Path], None], victim: str
) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    if victim == "file":
        target.write_text("theirs")
    link.symlink_to(target)
    if make is make_file and victim == "file":
        # An operator may keep a database on another disk: it is there, and is not made.
        make(link)
    else:
        with pytest.raises(OSError, match="it is a link") as raised:
            make(link)
        assert raised.value.errno == errno.ELOOP
    assert link.is_symlink()
    assert (target.read_text() if target.exists() else None) == ("theirs" if victim == "file" else None)


def test_given_something_that_is_no_file_when_read_then_it_is_refused_and_nobody_waits(tmp_path: Path) -> None:
    """A FIFO would be waited at for ever."""
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="it is no file"):
        read_file(tmp_path / "fifo")


def test_given_half_made_files_of_killed_processes_when_written_then_it_is_whole_and_they_are_gone(
    tmp_path: Path,
) -> None:
    """Also where one of them is a link that somebody planted: it is taken away, not followed."""
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "compute_id.abc.new").write_text("ha")
    (tmp_path / "compute_id.x.new").symlink_to(tmp_path / "theirs")
    assert write_once(tmp_path / "compute_id", "whole\n") == "whole\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["compute_id", "theirs"]
    assert (tmp_path / "theirs").read_text() == "theirs"


def test_given_a_file_that_is_there_when_written_once_then_what_it_holds_stays_and_is_given(tmp_path: Path) -> None:
    assert write_once(tmp_path / "id", "first") == "first"
    assert write_once(tmp_path / "id", "second") == "first"
    assert (tmp_path / "id").read_text() == "first"


_WRITER = """
import sys
from pathlib import Path
from stocktake.settings.state_files import write_once
print("ready", flush=True)
sys.stdin.readline()
print(write_once(Path(sys.argv[1]), sys.argv[2]), flush=True)
"""


def test_given_many_processes_that_write_at_once_when_done_then_all_were_given_the_same(tmp_path: Path) -> None:
    """An agent and a `refresh` by hand must not take two identities."""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path / "id"), f"{number:036}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(6)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    said = {child.communicate(timeout=150)[0].strip() for child in children}
    assert said == {(tmp_path / "id").read_text()}
    assert [path.name for path in tmp_path.iterdir()] == ["id"]


def test_given_an_error_in_the_middle_when_replaced_then_the_old_file_stays_and_no_half_one(tmp_path: Path) -> None:
    (tmp_path / "export").write_text("old")

    def fail() -> None:
        with replaced(tmp_path / "export") as out:
            out.write("new")
            raise OSError(errno.EIO, "the disk burns")

    with pytest.raises(OSError, match="burns"):
        fail()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"export": "old"}


_KEEPER = """
import sys
from pathlib import Path
from stocktake.settings.state_files import FileLock
with FileLock(Path(sys.argv[1])).hold(1):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_given_a_process_that_holds_the_lock_when_it_is_killed_then_the_next_one_has_it(tmp_path: Path) -> None:
    """Until then it is waited for, not longer than asked."""
    with subprocess.Popen(
        [sys.executable, "-c", _KEEPER, str(tmp_path / "lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == "held\n"
        with pytest.raises(TimeoutError, match="another process"), FileLock(tmp_path / "lock").hold(0.05):
            pass
        keeper.send_signal(signal.SIGKILL)
        keeper.wait(150)
    with FileLock(tmp_path / "lock").hold(1):
        pass


def test_given_a_lock_whose_directory_is_gone_when_held_then_it_is_an_error_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), FileLock(tmp_path / "gone" / "lock").hold(1):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("bits", "said"), [(0o750, None), (0o700, None), (0o755, "read"), (0o770, "change"), (0o777, "change")]
)
def test_given_a_directory_that_is_wider_when_looked_at_then_the_chmod_is_said(
    tmp_path: Path, bits: int, said: str | None
) -> None:
    tmp_path.chmod(bits)
    found = exposure(tmp_path)
    assert (found is None) == (said is None)
    if found is not None and said is not None:
        assert f"others may {said}" in found[0]
        assert found[1] == f"Run `chmod 0750 {tmp_path}`."


def test_given_a_directory_of_another_user_when_looked_at_then_the_chown_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless root looks, which may do everything anyway."""
    tmp_path.chmod(0o750)
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    found = exposure(tmp_path)
    assert found is not None
    assert "chown" in found[1]
    assert exposure(tmp_path / "gone") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_given_root_in_a_directory_of_a_service_when_files_are_made_then_they_are_the_services(tmp_path: Path) -> None:
    """Or a `stocktake nodes` by hand leaves a lock file that the agent can't open."""
    os.chown(tmp_path, 65534, 65534)
    make_file(tmp_path / "a.db")
    write_once(tmp_path / "id", "x")
    make_directory(tmp_path / "below")
    assert {path.stat().st_uid for path in tmp_path.iterdir()} == {65534}
