"""A first registration of many nodes: shown at a terminal, interrupted, and gone on with."""

import os
import pty
import signal
import subprocess
from pathlib import Path

from tests.system.readback import read_back
from tests.system.running import PROGRAM, Host, environment

NODES = 100


def command(host: Host, *words: str) -> list[str]:
    """The program with a host's settings."""
    return [PROGRAM, "--config", str(host.file), "--state-path", str(host.state), *words]


def read_until(terminal: int, text: str) -> str:
    """Read what is shown at a terminal until some text is, or nobody writes any more."""
    seen = ""
    while text not in seen:
        try:
            part = os.read(terminal, 65536)
        except OSError:
            # The other end was closed.
            break
        if not part:
            break
        seen += part.decode(errors="replace")
    return seen


def test_given_many_new_nodes_when_the_refresh_is_interrupted_then_the_next_one_goes_on_where_it_ended(
    tmp_path: Path,
) -> None:
    host = Host(tmp_path)
    host.set(host="fleet", compute_driver="fake", fake={"nodes": NODES, "guests": False})
    ours, theirs = pty.openpty()
    running = subprocess.Popen(
        command(host, "refresh"), stdout=subprocess.PIPE, stderr=theirs, text=True, env=environment()
    )
    os.close(theirs)
    shown = read_until(ours, f"/{NODES}")
    running.send_signal(signal.SIGINT)
    assert running.stdout is not None
    said = running.stdout.read()
    assert running.wait(60) == 130
    running.stdout.close()
    os.close(ours)
    assert "Syncing with Placement" in shown
    assert f"of {NODES} nodes; the next refresh continues" in said
    assert len(host.ask("nodes")) == NODES
    with read_back(host.state) as there:
        known = len(there.providers())
    assert 0 < known < NODES
    second = host.run("refresh")
    assert (second.code, "Syncing with Placement" in second.err) == (0, False)
    with read_back(host.state) as there:
        assert len(there.providers()) == NODES
        assert all(there.inventories(name) for name in list(there.providers())[:: NODES // 5])
