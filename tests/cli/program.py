"""The program under test, in this process or in one of its own, on a ledger of its own and the fake driver."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from stocktake.cli.logs import StderrHandler
from stocktake.cli.main import main
from stocktake.cli.session import Session
from stocktake.clock import Clock, RandomIds, SystemClock
from stocktake.drivers.fake.work import generate_work
from stocktake.ledger import DatabaseLedger, open_ledger

HOST = "compute-1"
SEED = 1


@dataclass(frozen=True, slots=True)
class Result:
    """How a run ended, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        """The one object of `--json`."""
        return json.loads(self.out)

    @property
    def data(self) -> Any:
        """What `--json` is about."""
        return self.answer["data"]


@dataclass
class Program:
    """
    The program with the settings that all its runs share.

    Attributes:
        nodes: how many nodes the fake driver makes up.
    """

    state: Path
    nodes: int = 1
    settings: dict[str, str] = field(default_factory=dict)
    clock: Clock = field(default_factory=SystemClock)

    @property
    def options(self) -> list[str]:
        """The options of every run; no settings file of the machine counts."""
        given = {
            "host": HOST,
            "compute_driver": "fake",
            "fake.nodes": str(self.nodes),
            "fake.seed": str(SEED),
            "placement.mode": "none",
            "provider_config_location": str(self.state / "provider_config"),
            **self.settings,
        }
        empty = self.state / "stocktake.toml"
        if not empty.exists():
            empty.touch()
        pairs = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
        return ["--config", str(empty), "--state-path", str(self.state), *pairs]

    def run(self, *arguments: str, input_: str | bytes | None = None) -> Result:
        """Run in this process; an exception that the program did not catch fails the test."""
        return run([*self.options, *arguments], session=Session(self.clock, RandomIds()), input_=input_)

    def spawn(self, *arguments: str, input_: str | None = None, **environ: str) -> Result:
        """Run in a process of its own."""
        done = subprocess.run(
            [*self.command, *arguments],
            input=input_,
            capture_output=True,
            text=True,
            env={**clean_environ(), **environ},
            timeout=60,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    @property
    def command(self) -> list[str]:
        """What starts the program, with the options of every run."""
        return [sys.executable, "-c", "from stocktake.cli.main import main; main(prog_name='stocktake')", *self.options]

    @contextmanager
    def ledger(self) -> Iterator[DatabaseLedger]:
        """The ledger, opened beside the program."""
        ledger = open_ledger(f"sqlite:///{self.state / 'ledger.db'}", clock=self.clock, ids=RandomIds())
        try:
            yield ledger
        finally:
            ledger.close()

    def promise(self, now: datetime) -> None:
        """Put the generated fleet's instances and migrations into the ledger."""
        work = generate_work(SEED, self.nodes, host=HOST, now=now)
        with self.ledger() as ledger:
            ledger.put_instances(work.instances)
            ledger.put_migrations(work.migrations)


def run(arguments: list[str], *, session: Session | None = None, input_: str | bytes | None = None) -> Result:
    """Run the bare program in this process."""
    root = logging.getLogger()
    level = root.level
    try:
        done = CliRunner().invoke(main, arguments, input=input_, obj=session or Session(), prog_name="stocktake")
    finally:
        root.setLevel(level)
        for handler in [known for known in root.handlers if isinstance(known, StderrHandler)]:
            root.removeHandler(handler)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Result(done.exit_code, done.stdout, done.stderr)


def clean_environ() -> dict[str, str]:
    """The environment without anything that is about stocktake, terminals or colours."""
    ours = ("STOCKTAKE_", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "XDG_")
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}
