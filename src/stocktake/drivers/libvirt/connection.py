"""
Step 4, the way to libvirt: open, keep alive, one sweep with a deadline. Invariant: no caller ever waits longer than
that.

libvirt's calls block, and a daemon that hangs blocks them for as long as it hangs. So every sweep runs in one worker
thread. A sweep that is late is given up, not stopped (nothing can stop it): until it ends, later sweeps fail at once,
and there is never a second thread.
"""

# ruff: noqa: N802 (the methods of libvirt's objects have libvirt's names)

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import libvirt

from stocktake.clock import Clock
from stocktake.errors import DriverError, DriverUnreachable, StocktakeError, quoted

T = TypeVar("T")

# Every kind of event has arguments of its own.
Callback = Callable[..., None]
Register = Callable[[None, int, Callback, None], int]
Deregister = Callable[[int], object]

# A connection that says nothing for 15 s is closed by libvirt itself; a late sweep then ends with an error.
KEEPALIVE_INTERVAL_S = 5
KEEPALIVE_COUNT = 3

# libvirt gives these codes with these domains when the transport is gone.
_LOST_CODES = (libvirt.VIR_ERR_SYSTEM_ERROR, libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_ERR_INVALID_CONN)
_LOST_DOMAINS = (libvirt.VIR_FROM_REMOTE, libvirt.VIR_FROM_RPC)


class Domain(Protocol):
    """What we ask of a libvirt domain."""

    def name(self) -> str: ...
    def ID(self) -> int: ...
    def UUIDString(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...
    def state(self) -> list[int]: ...
    def blockInfo(self, path: str) -> list[int]: ...


class NodeDevice(Protocol):
    """What we ask of a host device."""

    def name(self) -> str: ...
    def XMLDesc(self, flags: int = 0) -> str: ...


class StoragePool(Protocol):
    """What we ask of a storage pool."""

    def name(self) -> str: ...
    def info(self) -> list[int]: ...
    def XMLDesc(self, flags: int = 0) -> str: ...


class Hypervisor(Protocol):
    """What we ask of a libvirt connection; a read-only one allows all of it."""

    def getHostname(self) -> str: ...
    def getURI(self) -> str: ...
    def getType(self) -> str: ...
    def getVersion(self) -> int: ...
    def getInfo(self) -> list[Any]: ...
    def getMemoryStats(self, cell: int) -> dict[str, int]: ...
    def getFreeMemory(self) -> int: ...
    def getCPUMap(self) -> tuple[int, list[bool], int]: ...
    def getCapabilities(self) -> str: ...
    def baselineCPU(self, cpus: list[str], flags: int) -> str: ...
    def listAllDomains(self, flags: int = 0) -> list[Domain]: ...
    def getAllDomainStats(self, stats: int, flags: int = 0) -> list[tuple[Domain, dict[str, int]]]: ...
    def listAllDevices(self, flags: int) -> list[NodeDevice]: ...
    def listAllStoragePools(self, flags: int = 0) -> list[StoragePool]: ...
    def isAlive(self) -> int: ...
    def setKeepAlive(self, interval: int, count: int) -> int: ...
    def domainEventRegisterAny(self, domain: None, kind: int, callback: Callback, opaque: None) -> int: ...
    def domainEventDeregisterAny(self, number: int) -> object: ...
    def nodeDeviceEventRegisterAny(self, device: None, kind: int, callback: Callback, opaque: None) -> int: ...
    def nodeDeviceEventDeregisterAny(self, number: int) -> object: ...
    def storagePoolEventRegisterAny(self, pool: None, kind: int, callback: Callback, opaque: None) -> int: ...
    def storagePoolEventDeregisterAny(self, number: int) -> object: ...
    def registerCloseCallback(self, callback: Callback, opaque: None) -> int: ...
    def unregisterCloseCallback(self) -> object: ...
    def close(self) -> int: ...


class _Job(Generic[T]):
    """One sweep on its way through the worker."""

    def __init__(self, work: Callable[[Hypervisor], T]) -> None:
        self.work = work
        self.done = threading.Event()
        self.given_up = False
        self.answer: T | None = None
        self.error: BaseException | None = None


class Connection:
    """
    One libvirt connection with one worker thread, opened by the first call and again after a loss.

    Args:
        uri: any libvirt URI.
        clock: what a deadline is measured by.
        deadline_s: how long a call may take, opening included.
        leaving: called in the worker thread before a connection is closed, lost or not.
    """

    def __init__(
        self, uri: str, *, clock: Clock, deadline_s: float, leaving: Callable[[], object] = lambda: None
    ) -> None:
        self.uri = uri
        self._clock = clock
        self._deadline_s = deadline_s
        self._leaving = leaving
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._late: _Job[Any] | None = None
        self._worker: threading.Thread | None = None
        self._guard = threading.Lock()
        self._closed = False
        self._hypervisor: Hypervisor | None = None
        self.opened = 0

    def call(self, work: Callable[[Hypervisor], T]) -> T:
        """
        Run `work` with the open connection in the worker thread.

        A connection that turns out to be lost is opened again and `work` run once more, so it must only read.

        Raises:
            DriverUnreachable: libvirtd can't be reached, or not within the deadline, or an earlier call still hangs.
            DriverError: libvirt answered with an error.
        """
        job = _Job(work)
        with self._guard:
            if self._closed:
                raise self._unreachable("this connection has been closed")
            if self._late is not None and not self._late.done.is_set():
                raise self._unreachable("libvirt still hangs in an earlier call")
            self._late = None
            if self._worker is None:
                self._worker = threading.Thread(target=self._serve, name="stocktake-libvirt", daemon=True)
                self._worker.start()
            self._jobs.put(job)
        if not self._clock.wait(job.done, self._deadline_s):
            with self._guard:
                job.given_up = True
                self._late = self._late or job
            raise self._unreachable(f"no answer from libvirt within {self._deadline_s:g} s")
        if job.error is not None:
            raise job.error
        return cast(T, job.answer)

    def close(self) -> None:
        """Let the worker close the connection and end; one that hangs is left behind, it is a daemon thread."""
        with self._guard:
            self._closed = True
            self._jobs.put(None)
        if self._worker is not None:
            self._worker.join(timeout=min(self._deadline_s, 1.0))

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.given_up:
                try:
                    job.answer = self._run(job.work)
                except BaseException as error:  # noqa: BLE001 (it is raised again in the caller's thread)
                    job.error = error
            job.done.set()
        self._drop()

    def _run(self, work: Callable[[Hypervisor], T]) -> T:
        reopened = self._hypervisor is None or not self._hypervisor.isAlive()
        hypervisor = self._open() if self._hypervisor is None or reopened else self._hypervisor
        try:
            return work(hypervisor)
        except libvirt.libvirtError as error:
            if not is_lost(error, hypervisor):
                raise driver_error(error, self.uri) from error
            self._drop()
            if reopened:
                raise self._unreachable(f"the connection was lost: {message_of(error)}") from error
        return self._run(work)

    def _open(self) -> Hypervisor:
        self._drop()
        silence_libvirt()
        start_event_loop()
        try:
            hypervisor = cast(Hypervisor, libvirt.openReadOnly(self.uri))
        except libvirt.libvirtError as error:
            raise self._unreachable(message_of(error)) from error
        try:
            hypervisor.setKeepAlive(KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            # The drivers inside the client library (test:///) have no transport to keep alive.
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                raise self._unreachable(message_of(error)) from error
        self._hypervisor = hypervisor
        self.opened += 1
        return hypervisor

    def _drop(self) -> None:
        hypervisor, self._hypervisor = self._hypervisor, None
        if hypervisor is not None:
            self._leaving()
            try:
                hypervisor.close()
            except libvirt.libvirtError:
                # Closing what is lost already says so; there is nothing left to close.
                return

    def _unreachable(self, what: str) -> DriverUnreachable:
        return DriverUnreachable(
            what,
            where=self.uri,
            remedy="Check that libvirtd runs and that this user may open its socket; the node keeps its last record.",
        )


def is_local(uri: str) -> bool:
    """Whether a libvirt URI (as `getURI` gives it) means this machine: it names no server."""
    parts = urlsplit(uri)
    return not parts.netloc and parts.scheme.partition("+")[2] in ("", "unix")


def message_of(error: Any) -> str:
    """libvirt's own words for an error, on one line."""
    return quoted(error.get_error_message() or error)


def driver_error(error: Any, uri: str) -> StocktakeError:
    """Turn a libvirt error into ours, with libvirt's code."""
    return DriverError(
        f"libvirt answered with error {error.get_error_code()}: {message_of(error)}",
        where=uri,
        remedy="The journal of libvirtd says more; the node keeps its last record.",
    )


def is_lost(error: Any, hypervisor: Hypervisor) -> bool:
    """Whether an error means that the connection is gone, and not that the call was refused."""
    if error.get_error_code() in _LOST_CODES and error.get_error_domain() in _LOST_DOMAINS:
        return True
    try:
        return not hypervisor.isAlive()
    except libvirt.libvirtError:
        return True


def _say_nothing(_context: object, _error: Sequence[object]) -> None:
    """Swallow what libvirt would print on stderr: every error reaches us as an exception as well."""


def silence_libvirt() -> None:
    """Keep libvirt from printing on stderr; for the whole process, any number of times."""
    libvirt.registerErrorHandler(_say_nothing, None)


_event_loop_guard = threading.Lock()
_event_loop: list[threading.Thread] = []


def start_event_loop() -> None:
    """
    Start libvirt's event loop in a thread of its own, once per process; keep-alive and events need it.

    It has to be there before a connection is opened, and can't be stopped again.
    """
    with _event_loop_guard:
        if _event_loop:
            return
        libvirt.virEventRegisterDefaultImpl()
        thread = threading.Thread(target=_run_events, name="stocktake-libvirt-events", daemon=True)
        _event_loop.append(thread)
        thread.start()


def _run_events() -> None:
    pause = threading.Event()
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            # Without this thread every connection would be taken for dead; and it must not spin.
            pause.wait(1.0)
