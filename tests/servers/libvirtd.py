"""
A private libvirtd with real QEMU guests: own sockets, settings and state, and nothing of the machine's is touched.

It runs in libvirt's session mode, as `nobody` if root starts it. That also hides /dev/kvm where it exists but can't be
opened, which would make libvirt probe QEMU anew at every start of a guest (40 s instead of 0.3 s). Guests are 16 MiB,
emulated (TCG) and started paused, so that a hundred of them cost no CPU time.

Usable from pytest (`libvirtd`, a fixture) and from any script:

    with private_libvirtd(directory) as server:
        server.start(GuestSpec(name="a"))
        print(server.uri)
"""

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import libvirt
import pytest

START_TIMEOUT_S = 150.0
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestCellSpec:
    """One NUMA cell of a guest: its vCPUs as libvirt writes them, MiB, and the host cell that it is bound to."""

    vcpus: str
    memory_mib: int
    host_cell: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """
    A guest to define or start.

    Attributes:
        vcpus, vcpus_current: the most it may have, and how many are plugged in (all, if None).
        disks_gib: virtual sizes of its qcow2 disks; their files are made.
        raw_disks_mib: sizes of its sparse raw disks.
        pins: vCPU to host CPUs as libvirt writes them.
        huge_kib: the size of its huge pages.
        metadata: XML to put into <metadata>.
        devices: XML to put into <devices>.
        balloon: the model of its memory balloon; one that is there libvirt asks about memory.
    """

    name: str
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    vcpus: int = 1
    vcpus_current: int | None = None
    memory_mib: int = 16
    disks_gib: tuple[int, ...] = ()
    raw_disks_mib: tuple[int, ...] = ()
    cells: tuple[GuestCellSpec, ...] = ()
    pins: Mapping[int, str] = field(default_factory=dict)
    huge_kib: int | None = None
    metadata: str = ""
    devices: str = ""
    balloon: str = "none"


def guest_xml(spec: GuestSpec, disks: tuple[tuple[Path, str], ...] = ()) -> str:
    """Write the definition of a guest with these disks (file and format)."""
    current = "" if spec.vcpus_current is None else f" current='{spec.vcpus_current}'"
    pins = "".join(f"<vcpupin vcpu='{vcpu}' cpuset='{cpus}'/>" for vcpu, cpus in sorted(spec.pins.items()))
    huge = f"<memoryBacking><hugepages><page size='{spec.huge_kib}'/></hugepages></memoryBacking>"
    drives = "".join(
        f"<disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file={quoteattr(str(path))}/>"
        f"<target dev='vd{chr(ord('a') + number)}' bus='virtio'/></disk>"
        for number, (path, kind) in enumerate(disks)
    )
    return f"""
    <domain type='qemu'>
      <name>{escape(spec.name)}</name>
      <uuid>{spec.uuid}</uuid>
      <metadata>{spec.metadata}</metadata>
      <memory unit='MiB'>{spec.memory_mib}</memory>
      {huge if spec.huge_kib else ""}
      <vcpu{current}>{spec.vcpus}</vcpu>
      {f"<cputune>{pins}</cputune>" if pins else ""}
      {_numatune(spec)}
      <os><type arch='x86_64'>hvm</type></os>
      {_cpu(spec)}
      <devices>{drives}{spec.devices}<memballoon model='{spec.balloon}'/></devices>
    </domain>"""


def _cpu(spec: GuestSpec) -> str:
    cells = "".join(
        f"<cell id='{number}' cpus='{cell.vcpus}' memory='{cell.memory_mib}' unit='MiB'/>"
        for number, cell in enumerate(spec.cells)
    )
    return f"<cpu><numa>{cells}</numa></cpu>" if cells else ""


def _numatune(spec: GuestSpec) -> str:
    nodes = "".join(
        f"<memnode cellid='{number}' mode='strict' nodeset='{cell.host_cell}'/>"
        for number, cell in enumerate(spec.cells)
        if cell.host_cell is not None
    )
    return f"<numatune>{nodes}</numatune>" if nodes else ""


def qcow2_image(path: Path, size_bytes: int) -> None:
    """Make an empty qcow2 image (version 3) that QEMU opens: header, refcounts and an all-zero table; 256 KiB."""
    cluster = 65536
    l2_entries = cluster // 8
    l1_size = max(1, -(-size_bytes // (l2_entries * cluster)))
    assert l1_size * 8 <= cluster, "one cluster of L1 reaches to 4 TiB"
    words: list[tuple[int, int]] = [(3, 4), (0, 8), (0, 4), (16, 4), (size_bytes, 8), (0, 4), (l1_size, 4)]
    words += [(3 * cluster, 8), (cluster, 8), (1, 4), (0, 4), (0, 8), (0, 8), (0, 8), (0, 8), (4, 4), (104, 4)]
    header = b"QFI\xfb" + b"".join(value.to_bytes(width) for value, width in words)
    with path.open("wb") as image:
        image.write(header)
        image.seek(cluster)
        image.write((2 * cluster).to_bytes(8))
        image.seek(2 * cluster)
        image.write(b"\x00\x01" * 4)
        image.truncate(4 * cluster)


class PrivateLibvirtd:
    """A libvirtd of our own, in a directory of its own."""

    def __init__(self, directory: Path, *, tcp_port: int | None = None) -> None:
        self.directory = directory
        self._tcp_port = tcp_port
        self.images = directory / "images"
        self._socket = directory / "run" / "libvirt" / "libvirt-sock"
        self.uri = f"qemu+unix:///session?socket={self._socket}"
        self._account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        self._daemon: subprocess.Popen[bytes] | None = None
        self._connection: Any = None
        libvirt.registerErrorHandler(_say_nothing, None)

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        assert self._daemon is not None, "the daemon has not been started"
        return self._daemon.pid

    @property
    def connection(self) -> Any:
        """A connection of the tests' own, able to write; opened again after the daemon was started anew."""
        if self._connection is None or not self._connection.isAlive():
            self._connection = libvirt.open(self.uri)
        return self._connection

    def start_daemon(self) -> None:
        """Start the daemon and wait until it answers."""
        for name in ("run", "config/libvirt", "cache", "data", "images"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "run").chmod(0o700)
        # Without this every guest's console would need a virtlogd, which libvirt would start and leave behind.
        (self.directory / "config/libvirt/qemu.conf").write_text('stdio_handler = "file"\nsecurity_driver = "none"\n')
        settings = self.directory / "libvirtd.conf"
        settings.write_text('log_filters = ""\nlog_level = 3\nmax_clients = 200\n' + self._tcp_settings())
        self._give_away()
        environment = {
            "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"),
            "HOME": str(self.directory),
            "XDG_RUNTIME_DIR": str(self.directory / "run"),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_CACHE_HOME": str(self.directory / "cache"),
            "XDG_DATA_HOME": str(self.directory / "data"),
            "LC_ALL": "C",
        }
        program = shutil.which("libvirtd") or shutil.which("libvirtd", path="/usr/sbin")
        assert program is not None, "libvirtd is not installed: run `make test`, which installs it"
        listen = [] if self._tcp_port is None else ["--listen"]
        with (self.directory / "libvirtd.log").open("ab") as log:
            self._daemon = subprocess.Popen(
                [program, "--config", settings, "--pid-file", self.directory / "run/libvirtd.pid", *listen],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._account.pw_uid if self._account else None,
                group=self._account.pw_gid if self._account else None,
                extra_groups=[] if self._account else None,
            )
        self._wait_until_it_answers()

    @property
    def remote_uri(self) -> str:
        """A URI by which the daemon is another machine's, as far as a client can tell."""
        assert self._tcp_port is not None, "this daemon does not listen on TCP"
        return f"qemu+tcp://127.0.0.1:{self._tcp_port}/session"

    def _tcp_settings(self) -> str:
        if self._tcp_port is None:
            return ""
        port, address = f'tcp_port = "{self._tcp_port}"', 'listen_addr = "127.0.0.1"'
        return f'listen_tls = 0\nlisten_tcp = 1\nauth_tcp = "none"\n{port}\n{address}\n'

    def _give_away(self) -> None:
        if self._account is None:
            return
        for path in (self.directory, *self.directory.rglob("*")):
            os.chown(path, self._account.pw_uid, self._account.pw_gid, follow_symlinks=False)

    def _wait_until_it_answers(self) -> None:
        assert self._daemon is not None
        due_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._connection = libvirt.open(self.uri)
            except libvirt.libvirtError as error:
                if self._daemon.poll() is not None or time.monotonic() > due_s:
                    log = (self.directory / "libvirtd.log").read_text(errors="replace")
                    raise RuntimeError(f"libvirtd does not answer: {error}; {log}") from error
                # Nothing tells when a daemon's socket is ready; it takes some hundredths of a second.
                time.sleep(_POLL_S)
            else:
                # A libvirtd that starts for the first time asks every QEMU what it can, for a second or two.
                self._connection.getCapabilities()
                return

    def kill(self) -> None:
        """Kill the daemon (-9); its guests live on, as they do with any libvirtd."""
        self.signal(signal.SIGKILL)
        assert self._daemon is not None
        self._daemon.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the daemon a signal; SIGSTOP makes it hang until SIGCONT."""
        os.kill(self.pid, number)

    def define(self, spec: GuestSpec) -> str:
        """Define a guest with its disks, not running; gives its uuid."""
        self.connection.defineXML(guest_xml(spec, self._make_disks(spec)))
        return spec.uuid

    def start(self, spec: GuestSpec) -> str:
        """Define a guest with its disks and start it, paused; gives its uuid."""
        self.define(spec)
        self.boot(spec.name)
        return spec.uuid

    def boot(self, name: str) -> None:
        """Start a defined guest, paused: it has all that it will have, and takes no CPU time."""
        self.connection.lookupByName(name).createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def destroy(self, name: str) -> None:
        """Pull a guest's plug; it stays defined."""
        self.connection.lookupByName(name).destroy()

    def guest_pid(self, name: str) -> int:
        """Give the process id of a running guest's QEMU."""
        return int((self.directory / f"run/libvirt/qemu/run/{name}.pid").read_text())

    def undefine(self, name: str) -> None:
        """Forget a guest that doesn't run, and remove its disks."""
        self.connection.lookupByName(name).undefine()
        for path in self.images.glob(f"{name}-*"):
            path.unlink()

    def clear(self) -> None:
        """Kill and undefine every guest, and remove its disks."""
        self._kill_guests()
        due_s = time.monotonic() + START_TIMEOUT_S
        while self.connection.numOfDomains() and time.monotonic() < due_s:
            # libvirt sees the end of a guest's monitor by itself, within some hundredths of a second.
            time.sleep(_POLL_S)
        for domain in self.connection.listAllDomains():
            domain.undefine()
        for path in self.images.iterdir():
            path.unlink()

    def _kill_guests(self) -> None:
        """Kill the QEMU processes of this daemon, by their ids: libvirt itself takes two seconds for each."""
        # Only files beside a guest's status are guests': libvirtd keeps its own process id there too.
        for status in (self.directory / "run/libvirt/qemu/run").glob("*.xml"):
            with contextlib.suppress(ProcessLookupError, FileNotFoundError):
                os.kill(int(status.with_suffix(".pid").read_text()), signal.SIGKILL)

    def _make_disks(self, spec: GuestSpec) -> tuple[tuple[Path, str], ...]:
        disks: list[tuple[Path, str]] = []
        for number, gib in enumerate(spec.disks_gib):
            path = self.images / f"{spec.name}-{number}.qcow2"
            qcow2_image(path, gib * 1024**3)
            disks.append((path, "qcow2"))
        for number, mib in enumerate(spec.raw_disks_mib):
            path = self.images / f"{spec.name}-{number}.raw"
            with path.open("wb") as image:
                image.truncate(mib * 1024**2)
            disks.append((path, "raw"))
        self.give_away(*(path for path, _kind in disks))
        return tuple(disks)

    def give_away(self, *paths: Path) -> None:
        """Let the daemon's user have files."""
        if self._account is not None:
            for path in paths:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def stop(self) -> None:
        """End the guests and the daemon, by their process ids."""
        if self._daemon is not None and self._daemon.poll() is None:
            self.signal(signal.SIGCONT)
            with contextlib.suppress(libvirt.libvirtError):
                self.clear()
            with contextlib.suppress(libvirt.libvirtError):
                self.connection.close()
            self.signal(signal.SIGTERM)
            try:
                self._daemon.wait(timeout=150)
            except subprocess.TimeoutExpired:
                self.kill()
        # A killed daemon has left them behind.
        self._kill_guests()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _say_nothing(_context: object, _error: object) -> None:
    """Keep libvirt from printing what it also raises."""


@contextlib.contextmanager
def private_libvirtd(directory: Path | None = None, *, tcp: bool = False) -> Iterator[PrivateLibvirtd]:
    """
    Start a libvirtd of our own in `directory` (a new one in the system's temporary directory, if None).

    With `tcp` it listens on a free port of 127.0.0.1 too (`remote_uri`).
    The directory's path must be short (a socket's name has 108 bytes) and, if root starts it, open to `nobody`.
    """
    place = Path(tempfile.mkdtemp(prefix="stk-")) if directory is None else directory
    place.mkdir(parents=True, exist_ok=True)
    place.chmod(0o755)
    server = PrivateLibvirtd(place.resolve(), tcp_port=_free_port() if tcp else None)
    try:
        server.start_daemon()
        yield server
    finally:
        server.stop()
        if directory is None:
            shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def libvirtd_server() -> Iterator[PrivateLibvirtd]:
    """One private libvirtd for all tests of a pytest process (with xdist: one per worker)."""
    with private_libvirtd() as server:
        yield server


@pytest.fixture
def libvirtd(libvirtd_server: PrivateLibvirtd) -> Iterator[PrivateLibvirtd]:
    """The private libvirtd, without any guests before and after the test."""
    libvirtd_server.clear()
    yield libvirtd_server
    libvirtd_server.clear()
