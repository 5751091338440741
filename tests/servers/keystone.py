"""
A private Keystone: the real one, from the virtualenv that `tools/bootstrap test` makes, on a free loopback port.

    with private_cloud(directory) as cloud:
        auth = cloud.keystone.auth_of(SERVICE)
        print(cloud.placement.url, cloud.cafile)

Its database with the users, and its keys, are made once, kept in the virtualenv, and copied: its own API makes them, as
an operator does.
"""

import contextlib
import getpass
import grp
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
import trustme

from tests.servers.placement import free_port

HOME = Path(__file__).resolve().parents[2] / ".venv-nova"
START_TIMEOUT_S = 150.0
TIMEOUT_S = 150.0
REGION = "RegionOne"
_POLL_S = 0.02
_DOMAIN = "default"


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may sign in, and where his role is: in a project, or in the whole system if that is None."""

    name: str
    role: str
    project: str | None

    @property
    def password(self) -> str:
        """His password."""
        return f"{self.name}-password"


PROJECT = "service"
ADMIN = User("admin", "admin", "admin")
PLACEMENT = User("placement", "service", PROJECT)
SERVICE = User("stocktake", "service", PROJECT)
READER = User("reader", "reader", PROJECT)
SYSTEM_ADMIN = User("system-admin", "admin", None)
_USERS = (PLACEMENT, SERVICE, READER, SYSTEM_ADMIN)


@dataclass(frozen=True, slots=True)
class Tls:
    """Files in PEM: a server's certificate and key, and the authority that vouches for it."""

    certificate: Path
    key: Path
    authority: Path


@dataclass(slots=True)
class WsgiServer:
    """One of OpenStack's applications under gunicorn; `url` stays the same when it is stopped and started again."""

    application: str
    directory: Path
    port: int
    environment: Mapping[str, str]
    tls: Tls | None = None
    process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Its root."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it says."""
        return self.directory / f"{self.application.partition('.')[0]}.log"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        settings: dict[str, object] = {
            "wsgi_app": f"{self.application}:application",
            "bind": f"127.0.0.1:{self.port}",
            # One worker of one thread: an SQLite file has one writer.
            "workers": 1,
            "worker_tmp_dir": str(self.directory),
            "control_socket_disable": True,
        }
        if self.tls is not None:
            settings |= {"certfile": str(self.tls.certificate), "keyfile": str(self.tls.key)}
        # In a file, as Keystone takes the words on gunicorn's command line for its own.
        text = "".join(f"{name} = {value!r}\n" for name, value in settings.items())
        (self.directory / "gunicorn.conf.py").write_text(text)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(HOME / "bin" / "gunicorn")],
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": os.environ["PATH"], "HOME": str(self.directory), **self.environment},
                start_new_session=True,
            )
        limit_s = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > limit_s:
                self.stop()
                raise RuntimeError(self.log.read_text(errors="replace")[-4000:])
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Stop it, its worker too: the group is of our making, and holds nobody else."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=150)
        self.process = None

    def _answers(self) -> bool:
        verify = str(self.tls.authority) if self.tls else True
        with contextlib.suppress(requests.RequestException):
            return requests.get(self.url, timeout=TIMEOUT_S, verify=verify).status_code < 500
        return False


@dataclass(slots=True)
class KeystoneServer(WsgiServer):
    """A running Keystone, and its administrator's hands."""

    _tokens: dict[User, tuple[str, str]] = field(default_factory=dict)

    @property
    def auth_url(self) -> str:
        """Where one signs in."""
        return f"{self.url}/v3"

    def ask(self, method: str, path: str, body: object = None, *, user: User = ADMIN) -> Any:
        """Send one request as somebody, and insist that it works."""
        answer = self._send(method, path, body, {"X-Auth-Token": self._signed_in(user)[0]})
        return answer.json() if answer.content else None

    def publish(self, service: str, url: str, interfaces: tuple[str, ...] = ("public", "internal")) -> None:
        """Put a service into the catalogue."""
        made = self.ask("POST", "/services", {"service": {"type": service, "name": service}})["service"]["id"]
        for interface in interfaces:
            endpoint = {"service_id": made, "interface": interface, "url": url, "region_id": REGION}
            self.ask("POST", "/endpoints", {"endpoint": endpoint})

    def add_user(self, user: User) -> None:
        """Make a user with his role."""
        asked = {"name": user.name, "domain_id": _DOMAIN, "password": user.password}
        made = self.ask("POST", "/users", {"user": asked})["user"]["id"]
        (role,) = (one["id"] for one in self.ask("GET", f"/roles?name={user.role}")["roles"])
        where = "/system"
        if user.project is not None:
            (project,) = (one["id"] for one in self.ask("GET", f"/projects?name={user.project}")["projects"])
            where = f"/projects/{project}"
        self.ask("PUT", f"{where}/users/{made}/roles/{role}")

    def auth_of(self, user: User) -> dict[str, object]:
        """Give what a keystoneauth1 `password` plugin wants to know."""
        scope = (
            {"project_name": user.project, "project_domain_id": _DOMAIN} if user.project else {"system_scope": "all"}
        )
        who = {"username": user.name, "password": user.password, "user_domain_id": _DOMAIN}
        return {"auth_url": self.auth_url, **who, **scope}

    def application_credential_of(self, user: User) -> dict[str, object]:
        """Make an application credential, and give what `v3applicationcredential` wants to know."""
        _, user_id = self._signed_in(user)
        asked = {"application_credential": {"name": f"of-{user.name}"}}
        path = f"/users/{user_id}/application_credentials"
        made = self.ask("POST", path, asked, user=user)["application_credential"]
        return {
            "auth_url": self.auth_url,
            "application_credential_id": made["id"],
            "application_credential_secret": made["secret"],
        }

    def _signed_in(self, user: User) -> tuple[str, str]:
        """Give a token in the scope of his role, and his id."""
        if user not in self._tokens:
            scope: dict[str, object] = {"system": {"all": True}}
            if user.project is not None:
                scope = {"project": {"name": user.project, "domain": {"id": _DOMAIN}}}
            who = {"name": user.name, "domain": {"id": _DOMAIN}, "password": user.password}
            identity = {"methods": ["password"], "password": {"user": who}}
            answer = self._send("POST", "/auth/tokens", {"auth": {"identity": identity, "scope": scope}}, {})
            self._tokens[user] = answer.headers["X-Subject-Token"], answer.json()["token"]["user"]["id"]
        return self._tokens[user]

    def _send(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> requests.Response:
        verify = str(self.tls.authority) if self.tls else True
        answer = requests.request(
            method, self.auth_url + path, json=body, headers=dict(headers), timeout=TIMEOUT_S, verify=verify
        )
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer


@dataclass(frozen=True, slots=True)
class Cloud:
    """A Keystone, and a Placement in its catalogue that asks it who somebody is; TLS with an authority of its own."""

    keystone: KeystoneServer
    placement: WsgiServer
    cafile: Path


@contextlib.contextmanager
def private_cloud(directory: Path) -> Iterator[Cloud]:
    """Run both; their files are in `directory`."""
    tls = make_tls(directory)
    with (
        private_keystone(directory / "keystone", tls=tls) as keystone,
        keystone_placement(directory / "placement", keystone, tls=tls) as placement,
    ):
        yield Cloud(keystone, placement, tls.authority)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """One for all tests of this process; they use nodes of their own."""
    with private_cloud(tmp_path_factory.mktemp("cloud")) as running:
        yield running


def make_tls(directory: Path) -> Tls:
    """Make a certificate for this machine, and an authority that only it knows."""
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    tls = Tls(directory / "server.pem", directory / "server.key", directory / "ca.pem")
    authority.cert_pem.write_to_path(tls.authority)
    issued.private_key_pem.write_to_path(tls.key)
    for position, pem in enumerate(issued.cert_chain_pems):
        pem.write_to_path(tls.certificate, append=position > 0)
    return tls


@contextlib.contextmanager
def private_keystone(directory: Path, *, tls: Tls | None = None) -> Iterator[KeystoneServer]:
    """Run a Keystone that knows itself and the users above; its files are in `directory`."""
    shutil.copytree(_made(), directory, dirs_exist_ok=True)
    with _running(directory, tls) as server:
        server.publish("identity", server.auth_url)
        yield server


@contextlib.contextmanager
def keystone_placement(directory: Path, keystone: KeystoneServer, *, tls: Tls | None = None) -> Iterator[WsgiServer]:
    """Run a Placement that asks this Keystone who somebody is; it is put into the catalogue."""
    directory.mkdir(exist_ok=True)
    sections: dict[str, dict[str, object]] = {
        "api": {"auth_strategy": "keystone"},
        "placement_database": {"connection": f"sqlite:///{directory / 'placement.db'}", "sync_on_startup": "true"},
        "keystone_authtoken": {
            "auth_type": "password",
            "www_authenticate_uri": keystone.auth_url,
            **keystone.auth_of(PLACEMENT),
        },
    }
    if keystone.tls is not None:
        sections["keystone_authtoken"]["cafile"] = keystone.tls.authority
    write_settings(directory / "placement.conf", sections)
    environment = {"OS_PLACEMENT_CONFIG_DIR": str(directory)}
    server = WsgiServer("placement.wsgi.api", directory, free_port(), environment, tls)
    keystone.publish("placement", server.url)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def write_settings(file: Path, sections: Mapping[str, Mapping[str, object]]) -> None:
    """Write settings as oslo.config reads them."""
    file.write_text(
        "".join(
            f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in options.items())
            for name, options in sections.items()
        )
    )


def run(program: str, *words: str, **environment: str) -> str:
    """Run a program of the virtualenv, insist that it works, and give what it says."""
    done = subprocess.run(
        [str(HOME / "bin" / program), *words],
        env={"PATH": os.environ["PATH"], "HOME": str(HOME), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{program} {' '.join(words)}: {(done.stdout + done.stderr)[-4000:]}"
    return done.stdout


def made_of(name: str, *recipe: object) -> Path:
    """Say where something that takes long to make is kept, for these packages and this recipe."""
    if not (HOME / "stamp").is_file():
        pytest.fail("no Keystone and Nova: run `tools/bootstrap test` (`make test` does)")
    (HOME / "made").mkdir(exist_ok=True)
    text = repr((recipe, (HOME / "stamp").read_text())).encode()
    return HOME / "made" / f"{name}-{hashlib.sha256(text).hexdigest()[:12]}"


def _made() -> Path:
    """Give a folder with database and keys; made once."""
    made = made_of("keystone", _USERS, _settings(Path()))
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=made.parent) as half:
            folder = Path(half) / "keystone"
            folder.mkdir()
            write_settings(folder / "keystone.conf", _settings(folder))
            options = ("--config-file", str(folder / "keystone.conf"))
            owner = ("--keystone-user", getpass.getuser(), "--keystone-group", grp.getgrgid(os.getegid()).gr_name)
            run("keystone-manage", *options, "db_sync")
            run("keystone-manage", *options, "fernet_setup", *owner)
            run("keystone-manage", *options, "credential_setup", *owner)
            first = ("--bootstrap-password", ADMIN.password, "--bootstrap-region-id", REGION)
            run("keystone-manage", *options, "bootstrap", *first)
            with _running(folder, None) as server:
                server.ask("POST", "/projects", {"project": {"name": PROJECT, "domain_id": _DOMAIN}})
                for user in _USERS:
                    server.add_user(user)
            with contextlib.suppress(OSError):
                # Another test process may have been as quick.
                folder.rename(made)
    return made


@contextlib.contextmanager
def _running(directory: Path, tls: Tls | None) -> Iterator[KeystoneServer]:
    write_settings(directory / "keystone.conf", _settings(directory))
    environment = {"OS_KEYSTONE_CONFIG_DIR": str(directory), "OS_KEYSTONE_CONFIG_FILES": "keystone.conf"}
    server = KeystoneServer("keystone.wsgi.api", directory, free_port(), environment, tls)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def _settings(directory: Path) -> dict[str, dict[str, object]]:
    return {
        "database": {"connection": f"sqlite:///{directory / 'keystone.db'}"},
        "fernet_tokens": {"key_repository": directory / "fernet-keys"},
        "credential": {"key_repository": directory / "credential-keys"},
        # Tests sign in often, and nobody is to be kept from guessing.
        "identity": {"password_hash_rounds": 4},
        "cache": {"enabled": "false"},
    }
