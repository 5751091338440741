"""
Kill (-9) an upgrade of a ledger of the first version at each of its statements, and see what the next program finds.

    python -m tests.ledger.killed_upgrades sqlite:////tmp/x.db

One process that forks, so that nothing has to be imported for each of them; prints how many statements there are.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
from sqlalchemy import Engine, event

from tests.ledger.making import opened
from tests.ledger.test_schema_0001 import check, make_0001


def kill_at(number: int) -> None:
    """Kill this process before its statement of that number."""
    left = [number]

    def count(*_: object) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(Engine, "before_cursor_execute", count)
    # What is sent is not yet committed.
    event.listen(Engine, "commit", count)


def forked(work: Callable[[], None]) -> int:
    """Do something in a process of its own; gives how it ended."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except Exception:  # noqa: BLE001 - the parent hears of it
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fresh(url: str, template: str) -> None:
    """Put the old ledger where the next process finds it."""
    if url.startswith("sqlite"):
        file = Path(url.removeprefix("sqlite:///"))
        for old in file.parent.glob(f"{file.name}*"):
            old.unlink()
        shutil.copy(template.removeprefix("sqlite:///"), file)
        return
    server, _, name = url.rpartition("/")
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template.rpartition('/')[2]}".encode())


def main(url: str) -> int:
    """Try every statement; gives how many there are."""
    place, _, name = url.rpartition("/")
    template = f"{place}/old_{name}"
    if not url.startswith("sqlite"):
        with psycopg.connect(f"{place}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE old_{name}".encode())
    assert forked(lambda: make_0001(template)) == 0

    def upgraded() -> None:
        ledger = opened(url)
        check(ledger)
        ledger.close()

    number = 0
    while True:
        number += 1
        fresh(url, template)

        def killed(at: int = number) -> None:
            kill_at(at)
            opened(url).close()

        ended = forked(killed)
        assert ended in {0, -signal.SIGKILL}, f"at statement {number}: {ended}"
        assert forked(upgraded) == 0, f"after a kill at statement {number}"
        if ended == 0:
            return number - 1


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1])}\n")
