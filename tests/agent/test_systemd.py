"""What systemd is told, over a real socket."""

import contextlib
import socket
from pathlib import Path

import pytest

from stocktake.agent.health import Notifier
from tests.servers.systemd import listening


@pytest.mark.parametrize("abstract", [False, True])
def test_given_a_socket_when_told_then_it_is_one_datagram_of_lines(tmp_path: Path, abstract: bool) -> None:  # noqa: FBT001
    with listening(tmp_path, abstract=abstract) as systemd:
        Notifier(systemd.address).tell("READY=1", status="all is\nwell")
        assert systemd.next() == ["READY=1", "STATUS=all is well"]


def test_given_a_long_status_when_told_then_it_is_cut(tmp_path: Path) -> None:
    with listening(tmp_path) as systemd:
        Notifier(systemd.address).tell(status="x" * 100_000)
        assert systemd.next() == ["STATUS=" + "x" * 500]


@pytest.mark.parametrize("address", ["", "/nowhere/notify", "@nobody-listens-here"])
def test_given_nobody_who_listens_when_told_then_nothing_happens(address: str) -> None:
    Notifier(address).tell("READY=1")


def test_given_a_socket_whose_queue_is_full_when_told_then_it_gives_up_within_seconds(tmp_path: Path) -> None:
    with listening(tmp_path) as systemd:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                while True:
                    sender.sendto(b"x", systemd.address)
        Notifier(systemd.address).tell("WATCHDOG=1")
        assert ["WATCHDOG=1"] not in systemd.drain()
