"""The real program in processes of its own: a host with its settings file, its commands, and its agent."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import DatabaseLedger, open_ledger

T = TypeVar("T")

PROGRAM = str(Path(sys.executable).with_name("stocktake"))
COMMAND_TIMEOUT_S = 150
# Generous: what comes true ends the wait, and a machine may be slow.
WAIT_S = 150.0
# How often something is looked at that no log line tells of.
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """What `--json` is about."""
        return json.loads(self.out)["data"]

    @property
    def error(self) -> Any:
        """The error of `--json`."""
        return json.loads(self.out)["error"]


@dataclass
class Host:
    """
    One machine with the program on it.

    Attributes:
        state: its state path.
        settings: what its settings file says, by dotted name.
        prefix: what stands before each command, such as what limits it.
    """

    state: Path
    settings: dict[str, object] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.state.mkdir(parents=True, exist_ok=True)
        self.set()

    @property
    def file(self) -> Path:
        """Its settings file."""
        return self.state / "stocktake.toml"

    @property
    def ledger_url(self) -> str:
        """Where its ledger is."""
        return str(self.settings.get("database.connection", f"sqlite:///{self.state / 'ledger.db'}"))

    def set(self, **settings: object) -> None:
        """Write the settings file anew; in a name, `__` stands for the dot."""
        self.settings |= {name.replace("__", "."): value for name, value in settings.items()}
        fixed = {"my_ip": "192.0.2.7", "provider_config_location": str(self.state / "provider_config")}
        # One machine, many agents: only those that a test is about listen.
        fixed |= {"metrics.listen": ""}
        lines = [f"{name} = {_toml(value)}\n" for name, value in {**fixed, **self.settings}.items()]
        self.file.write_text("".join(lines))

    def run(self, *words: str) -> Result:
        """Run one command to its end."""
        done = subprocess.run(
            [*self._command, *words],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def ask(self, *words: str, code: int = 0) -> Any:
        """Run one command, insist on its exit code, and give the data of its JSON."""
        result = self.run(*words, "--json")
        assert result.code == code, result
        return result.data

    def dump(self) -> str:
        """Export the whole ledger."""
        lines: list[str] = []
        with self.ledger() as ledger:
            ledger.export(lines.append)
        return "".join(lines)

    @contextlib.contextmanager
    def ledger(self) -> Iterator[DatabaseLedger]:
        """Open the ledger beside the program."""
        ledger = open_ledger(self.ledger_url, clock=SystemClock(), ids=RandomIds())
        try:
            yield ledger
        finally:
            ledger.close()

    @contextlib.contextmanager
    def agent(self, *words: str, environ: Mapping[str, str] | None = None) -> Iterator["Agent"]:
        """Run the agent, with more in its environment if asked; at the end it is killed if it still runs."""
        agent = Agent([*self._command, "agent", *words], environ or {})
        try:
            yield agent
        finally:
            agent.kill()

    @property
    def _command(self) -> list[str]:
        return [
            *self.prefix,
            PROGRAM,
            "--config",
            str(self.file),
            "--state-path",
            str(self.settings.get("state_path", self.state)),
        ]


class Agent:
    """A running agent; its log is read as it is written."""

    def __init__(self, command: list[str], environ: Mapping[str, str]) -> None:
        self.lines: list[str] = []
        self.arrived_s: list[float] = []
        self._said = threading.Condition()
        self._child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**environment(), **environ})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def until(self, holds: Callable[[], T], *, timeout_s: float = WAIT_S) -> T:
        """Wait until something holds: it is looked at after every line of the log and every so often."""
        limit_s = time.monotonic() + timeout_s
        while not (answer := holds()):
            assert self._child.poll() is None, f"the agent ended with {self._child.returncode}: {self.text}"
            assert time.monotonic() < limit_s, f"that did not come true within {timeout_s} s: {self.text}"
            with self._said:
                self._said.wait(_LOOK_S)
        return answer

    def until_said(self, text: str, *, times: int = 1, timeout_s: float = WAIT_S) -> None:
        """Wait for a line of the log with this text, or for several."""
        self.until(lambda: self.count(text) >= times, timeout_s=timeout_s)

    def count(self, text: str) -> int:
        """Count the lines with this text."""
        return sum(text in line for line in list(self.lines))

    def times_s(self, text: str) -> list[float]:
        """Say when lines with this text came."""
        return [when for when, line in zip(list(self.arrived_s), list(self.lines), strict=False) if text in line]

    @property
    def text(self) -> str:
        """The log so far."""
        return "\n".join(list(self.lines))

    def cpu_s(self) -> float:
        """Give the CPU seconds that it has taken so far."""
        times = psutil.Process(self._child.pid).cpu_times()
        return float(times.user + times.system)

    @property
    def pid(self) -> int:
        """Its process's number."""
        return self._child.pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._child.send_signal(number)

    def end(self, *, timeout_s: float = WAIT_S) -> int:
        """Wait for its end; gives its exit code."""
        code = self._child.wait(timeout_s)
        self._reader.join()
        return code

    def kill(self) -> None:
        """Kill it as a power cut would (-9); fine if it has ended."""
        self._child.kill()
        self._child.wait()
        self._reader.join()
        assert self._child.stderr is not None
        self._child.stderr.close()

    def _read(self) -> None:
        assert self._child.stderr is not None
        for line in self._child.stderr:
            with self._said:
                self.arrived_s.append(time.monotonic())
                self.lines.append(line.rstrip("\n"))
                self._said.notify_all()


def environment() -> dict[str, str]:
    """The environment without anything that is about this program, terminals or colours."""
    ours = ("STOCKTAKE_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "XDG_", "NOTIFY_SOCKET", "WATCHDOG_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
