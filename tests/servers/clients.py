"""
OpenStack's own clients, the real ones, from a virtualenv of their own that `tools/bootstrap test` makes.

    with openstack_clients(directory) as clients:
        clients.clouds({"here": {"auth_type": "none", "compute_endpoint_override": url}})
        rows = clients.rows("here", "hypervisor list --long")

A command takes a second to start and next to nothing to run. So a process imports the program once, and each command is
the whole of it in a fork of that process. `clients.command` is the program itself.
"""

import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOME = Path(__file__).resolve().parents[2] / ".venv-openstack"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Clients:
    """A process whose forks run commands, and where its clouds.yaml is."""

    directory: Path
    process: "subprocess.Popen[str]"

    def clouds(self, clouds: Mapping[str, Mapping[str, object]]) -> None:
        """Write clouds.yaml (JSON is YAML)."""
        (self.directory / "clouds.yaml").write_text(json.dumps({"clouds": clouds}))

    def run(self, cloud: str, command: str) -> Ran:
        """Run a command of `openstack`."""
        said = self._ask({"words": ["--os-cloud", cloud, *shlex.split(command)]})
        return Ran(said["code"], said["out"], said["err"])

    def rows(self, cloud: str, command: str) -> Any:
        """Run a command that must work, and give what it shows: rows, or the fields of one thing."""
        ran = self.run(cloud, f"{command} -f json")
        assert ran.code == 0, f"{command}: {ran.out}{ran.err}"
        return json.loads(ran.out)

    def hypervisors(self, cloud: str, **asked: object) -> list[dict[str, Any]]:
        """Ask openstacksdk for `conn.compute.hypervisors`."""
        found: list[dict[str, Any]] = self._ask({"sdk": cloud, "asked": asked})["hypervisors"]
        return found

    def command(self, *words: str, **environ: str) -> Ran:
        """Run the program itself, in a process of its own."""
        done = subprocess.run(
            [str(HOME / "bin" / "openstack"), *words],
            cwd=self.directory,
            env={**environ_of(self.directory), **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def _ask(self, question: object) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, (self.directory / "clients.log").read_text()[-4000:]
        return json.loads(line)


def environ_of(directory: Path) -> dict[str, str]:
    """Give an environment in which nobody's own clouds.yaml is found."""
    return {"PATH": os.environ["PATH"], "HOME": str(directory), "OS_PLACEMENT_API_VERSION": "1.39"}


@contextlib.contextmanager
def openstack_clients(directory: Path) -> Iterator[Clients]:
    """Start a process for commands; its files are in `directory`."""
    assert (HOME / "stamp").is_file(), "run `tools/bootstrap test`: it makes .venv-openstack"
    with (directory / "clients.log").open("w") as log:
        process = subprocess.Popen(
            [str(HOME / "bin" / "python"), __file__],
            cwd=directory,
            env=environ_of(directory),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    with process:
        yield Clients(directory, process)
        assert process.stdin is not None
        # It ends when there is nothing more to read.
        process.stdin.close()
        process.wait(timeout=150)


# What follows runs in that process, in the other virtualenv.


def _answer(question: Any) -> dict[str, Any]:
    if "sdk" in question:
        import openstack  # type: ignore[import-not-found]

        with openstack.connect(cloud=question["sdk"]) as connection:
            return {"hypervisors": [one.to_dict() for one in connection.compute.hypervisors(**question["asked"])]}
    from openstackclient import shell  # type: ignore[import-not-found]

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = shell.main(question["words"])
        except SystemExit as end:
            code = end.code
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def _serve() -> None:
    import openstack  # noqa: F401
    from openstackclient import shell  # noqa: F401

    for line in sys.stdin:
        # The program keeps clients in its classes: one command would see the other's cloud.
        child = os.fork()
        if child == 0:
            os.write(1, (json.dumps(_answer(json.loads(line)), default=str) + "\n").encode())
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    # The folder of this script would hide a package behind the name of a file here.
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]
    _serve()
