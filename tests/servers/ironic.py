"""
A private Ironic: the real one, from a virtualenv of its own, with hardware that it makes up (`fake-hardware`).

API and conductor are one process and a worker, on a free loopback port, with an SQLite file of their own. Nothing of
the machine's is touched. `make test` (tools/bootstrap) makes the virtualenv.

    with private_ironic(directory, nodes=1000) as server:
        uuid = server.enrol("bm-0001", resource_class="gold")
        server.deploy(uuid, instance)

What is asked of it here is plain HTTP, as an operator's scripts send it; nothing of the program is used. With SQLite
one writes at a time: the tests do.
"""

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.servers.placement import free_port

HOME = Path(__file__).resolve().parents[2] / ".venv-ironic"
START_TIMEOUT_S = 150.0
STATE_TIMEOUT_S = 150.0
TIMEOUT_S = 150.0
VERSION = {"X-OpenStack-Ironic-API-Version": "1.82"}
# Up to this version a new node is born `available`.
_AVAILABLE_AT_ONCE = {"X-OpenStack-Ironic-API-Version": "1.10"}
_POLL_S = 0.02
_BIOS_S = 3
_MAKER = Path(__file__).with_name("ironic_nodes.py")
_FAKE = ("bios", "boot", "console", "deploy", "firmware", "inspect", "management", "power", "raid", "rescue", "vendor")
PROPERTIES = {
    "cpus": 32,
    "memory_mb": 131072,
    "local_gb": 894,
    "cpu_arch": "x86_64",
    "capabilities": "boot_mode:uefi,rack:r7",
}


@dataclass(slots=True)
class IronicServer:
    """A running server; `url` stays the same when it is stopped and started again."""

    directory: Path
    port: int
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its root."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers and its conductor takes work."""
        with (self.directory / "server.log").open("ab") as log:
            command = [str(HOME / "bin" / "ironic"), "--config-file", str(self.directory / "ironic.conf")]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        limit_s = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready():
            if self.process.poll() is not None or time.monotonic() > limit_s:
                self.stop()
                raise RuntimeError((self.directory / "server.log").read_text(errors="replace")[-4000:])
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Stop it, its worker too: the group is of our making, and holds nobody else."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=150)
        self.process = None

    def ask(self, method: str, path: str, body: object = None, *, version: Mapping[str, str] = VERSION) -> Any:
        """Send one request, and insist that it works."""
        answer = requests.request(method, self.url + path, json=body, headers=dict(version), timeout=TIMEOUT_S)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def node(self, uuid: str) -> Any:
        """Read one node."""
        return self.ask("GET", f"/v1/nodes/{uuid}")

    def enrol(self, name: str, *, power: str | None = "power off", traits: tuple[str, ...] = (), **fields: Any) -> str:
        """Make a node that is available, and give its uuid; a `resource_class` of None leaves it without one."""
        born = {"name": name, "driver": "fake-hardware", "properties": fields.pop("properties", PROPERTIES)}
        uuid: str = self.ask("POST", "/v1/nodes", born, version=_AVAILABLE_AT_ONCE)["uuid"]
        fields = {key: value for key, value in {"resource_class": "gold", **fields}.items() if value is not None}
        if fields:
            self.set(uuid, **fields)
        if traits:
            self.ask("PUT", f"/v1/nodes/{uuid}/traits", {"traits": traits})
        if power is not None:
            self.power(uuid, power)
        return uuid

    def set(self, uuid: str, **fields: object) -> None:
        """Change a node's fields; None takes one away."""
        steps = [
            {"op": "remove", "path": f"/{key}"} if value is None else {"op": "add", "path": f"/{key}", "value": value}
            for key, value in fields.items()
        ]
        self.ask("PATCH", f"/v1/nodes/{uuid}", steps)

    def power(self, uuid: str, target: str) -> None:
        """Switch a node on or off, and wait until it is."""
        self.ask("PUT", f"/v1/nodes/{uuid}/states/power", {"target": target})
        self.until(uuid, power_state=target)

    def provision(self, uuid: str, target: str, until: str, **more: object) -> None:
        """Ask for a state, and wait until the node is in another."""
        self.ask("PUT", f"/v1/nodes/{uuid}/states/provision", {"target": target, **more})
        self.until(uuid, provision_state=until)

    def until(self, uuid: str, **fields: object) -> None:
        """Wait until a node's fields are these."""
        limit_s = time.monotonic() + STATE_TIMEOUT_S
        while {key: (node := self.node(uuid))[key] for key in fields} != fields:
            assert time.monotonic() < limit_s, f"{uuid} is {node['provision_state']}, {node['last_error']}"
            time.sleep(_POLL_S)

    def deploy(self, uuid: str, instance_uuid: str) -> None:
        """Put an instance on a node, and wait until it runs."""
        self.set(uuid, instance_uuid=instance_uuid)
        self.provision(uuid, "active", until="active")

    def undeploy(self, uuid: str) -> None:
        """Take the instance away, and wait until the node is clean."""
        self.provision(uuid, "deleted", until="available")

    def maintain(self, uuid: str, reason: str | None) -> None:
        """Begin maintenance; a reason of None ends it."""
        if reason is None:
            self.ask("DELETE", f"/v1/nodes/{uuid}/maintenance")
        else:
            self.ask("PUT", f"/v1/nodes/{uuid}/maintenance", {"reason": reason})

    def delete(self, uuid: str) -> None:
        """Delete a node."""
        self.ask("DELETE", f"/v1/nodes/{uuid}")

    def _is_ready(self) -> bool:
        try:
            drivers = requests.get(f"{self.url}/v1/drivers", headers=VERSION, timeout=TIMEOUT_S).json()["drivers"]
        except (requests.RequestException, KeyError):
            return False
        return bool(drivers)


@contextlib.contextmanager
def private_ironic(directory: Path, *, nodes: int = 0, shards: int = 0, page: int = 1000) -> Iterator[IronicServer]:
    """
    Run a server on a free loopback port; its files are in `directory`.

    Args:
        nodes: how many it has from the start, all available.
        shards: into how many shards (`s0`, `s1`, ...) these are divided; 0 for none.
        page: how many nodes it gives at a time, whatever is asked for.
    """
    if not (HOME / "bin" / "ironic").exists():
        pytest.fail("no Ironic: run `tools/bootstrap test` (`make test` does)")
    (directory / "state" / "tmp").mkdir(parents=True)
    server = IronicServer(directory=directory, port=free_port())
    (directory / "ironic.conf").write_text(_settings(directory, server.port, page))
    shutil.copy(_made(nodes, shards), directory / "state" / "ironic.sqlite")
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _made(nodes: int, shards: int) -> Path:
    """Give a database with so many nodes; made once, then kept in the virtualenv."""
    made = HOME / "made" / f"{nodes}-{shards}-{_stamp()}.sqlite"
    if not made.exists():
        made.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as half:
            (Path(half) / "state").mkdir()
            conf = Path(half) / "ironic.conf"
            conf.write_text(_settings(Path(half), 1, 1))
            command = [str(HOME / "bin" / "python"), "-P", "-W", "ignore", str(_MAKER), str(conf)]
            done = subprocess.run([*command, str(nodes), str(shards)], capture_output=True, text=True, check=False)
            assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
            (Path(half) / "state" / "ironic.sqlite").replace(made)
    return made


def _stamp() -> str:
    """Tell databases of other versions apart."""
    text = (HOME / "stamp").read_bytes() if (HOME / "stamp").exists() else b""
    return hashlib.sha256(text + _MAKER.read_bytes()).hexdigest()[:12]


def _settings(directory: Path, port: int, page: int) -> str:
    url = f"http://127.0.0.1:{port}"
    lines: dict[str, dict[str, object]] = {
        "DEFAULT": {
            "auth_strategy": "noauth",
            "host": "testhost",
            "my_ip": "127.0.0.1",
            "rpc_transport": "none",
            "enabled_hardware_types": "fake-hardware",
            **{f"enabled_{kind}_interfaces": "fake" for kind in _FAKE},
            "enabled_network_interfaces": "noop",
            "enabled_storage_interfaces": "noop",
            "default_network_interface": "noop",
            "default_deploy_interface": "fake",
            "state_path": directory / "state",
            "tempdir": directory / "state" / "tmp",
        },
        "api": {"host_ip": "127.0.0.1", "port": port, "max_limit": page, "api_workers": 1},
        "conductor": {"api_url": url, "automated_clean": "false"},
        "database": {"connection": f"sqlite:///{directory / 'state' / 'ironic.sqlite'}"},
        "oslo_messaging_notifications": {"driver": "noop"},
        "service_catalog": {"auth_type": "none", "endpoint_override": url},
        # Steps of cleaning that are the BIOS's take a moment, so that a node can be seen while it is cleaned.
        "fake": {"bios_delay": _BIOS_S},
    }
    return "".join(
        f"[{section}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
        for section, options in lines.items()
    )


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IronicServer]:
    """A server of the module's own, without nodes."""
    with private_ironic(tmp_path_factory.mktemp("ironic")) as server:
        yield server
