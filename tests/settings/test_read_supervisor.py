"""What systemd asks, read from the environment."""

import os

import pytest

from stocktake.settings import Supervisor, read_supervisor

SOCKET = "/run/systemd/notify"


@pytest.mark.parametrize(
    ("environ", "asked"),
    [
        ({}, Supervisor()),
        ({"NOTIFY_SOCKET": SOCKET}, Supervisor(SOCKET)),
        ({"NOTIFY_SOCKET": "@abstract"}, Supervisor("@abstract")),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, Supervisor()),
        ({"NOTIFY_SOCKET": SOCKET, "WATCHDOG_USEC": "300000000"}, Supervisor(SOCKET, 300.0)),
        ({"NOTIFY_SOCKET": SOCKET, "WATCHDOG_USEC": "300000000", "WATCHDOG_PID": "7"}, Supervisor(SOCKET, 300.0)),
        ({"NOTIFY_SOCKET": SOCKET, "WATCHDOG_USEC": "300000000", "WATCHDOG_PID": "8"}, Supervisor(SOCKET)),
        ({"NOTIFY_SOCKET": SOCKET, "WATCHDOG_USEC": "0"}, Supervisor(SOCKET)),
        ({"NOTIFY_SOCKET": SOCKET, "WATCHDOG_USEC": "soon"}, Supervisor(SOCKET)),
        ({"WATCHDOG_USEC": "300000000"}, Supervisor()),
    ],
)
def test_given_an_environment_when_read_then_it_says_what_is_asked_of_this_process(
    environ: dict[str, str], asked: Supervisor
) -> None:
    assert read_supervisor(environ, pid=7) == asked


def test_given_the_process_itself_when_read_then_its_own_environment_and_number_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", SOCKET)
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    assert read_supervisor() == Supervisor(SOCKET, 1.0)
