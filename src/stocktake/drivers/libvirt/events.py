"""
Step 4, libvirt's events. Invariant: an event says what to read again; nothing else of it is believed.

libvirt calls back in its one event thread. A callback does two things, neither of which waits: it notes what was
touched, and it wakes whoever watches. Whatever takes an answer of libvirt's is asked by the next sweep.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import libvirt

from stocktake.drivers.libvirt.connection import Callback, Deregister, Hypervisor, Register, is_lost, message_of

LOG = logging.getLogger(__name__)

# Hypervisors that were seen to tell of what these kinds are about (docs/decisions/0015): of others all is read anew.
_TELLING = ("QEMU", "TEST")

# All kinds that may change what is counted of a guest; without one of them nothing that was read of guests is kept.
GUEST_KINDS = (
    libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED,
    libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
    libvirt.VIR_DOMAIN_EVENT_ID_BALLOON_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
    libvirt.VIR_DOMAIN_EVENT_ID_DISK_CHANGE,
    # CPU pins.
    libvirt.VIR_DOMAIN_EVENT_ID_TUNABLE,
    # A disk that goes over to another file.
    libvirt.VIR_DOMAIN_EVENT_ID_BLOCK_JOB_2,
)
DEVICE_KINDS = (libvirt.VIR_NODE_DEVICE_EVENT_ID_LIFECYCLE, libvirt.VIR_NODE_DEVICE_EVENT_ID_UPDATE)
POOL_KINDS = (libvirt.VIR_STORAGE_POOL_EVENT_ID_LIFECYCLE, libvirt.VIR_STORAGE_POOL_EVENT_ID_REFRESH)

# A libvirtd that has just started still finds guests dead while it answers, and tells nobody: so after a connection is
# made, it is looked at again after each of these.
LOOKS_AGAIN_MS = (1_000, 3_000, 11_000)


class Touched(NamedTuple):
    """
    What may have changed since it was last asked for.

    Attributes:
        guests: uuids.
        devices: some of the host's devices.
        everything: it is unknown what, as the connection is a new one.
    """

    guests: frozenset[str]
    devices: bool
    everything: bool


class Events:
    """
    The subscriptions on one connection at a time.

    `watch` is for any thread, the rest for the one that uses the connection.

    Attributes:
        tells_guests: what changes of a guest is told, as far as libvirt ever tells it.
        tells_devices: the same of the host's devices.
    """

    def __init__(self) -> None:
        self.tells_guests = False
        self.tells_devices = False
        self._wake: Callable[[], None] | None = None
        self._joined: Hypervisor | None = None
        self._undo: list[Callable[[], object]] = []
        self._guard = threading.Lock()
        self._guests: set[str] = set()
        self._devices = False
        self._everything = True

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake`, which must not wait, for every event; the next sweep subscribes."""
        self._wake = wake

    def join(self, hypervisor: Hypervisor) -> None:
        """
        Subscribe, if somebody watches and it is not done yet; before anything is read that may be kept.

        What a hypervisor does not tell of is passed over: it is then read anew by every sweep.

        Raises:
            libvirtError: the connection was lost.
        """
        if self._wake is None or self._joined is hypervisor:
            return
        self.leave()
        self._joined = hypervisor
        ways: tuple[Register, Deregister]
        ways = (hypervisor.domainEventRegisterAny, hypervisor.domainEventDeregisterAny)
        guests = self._subscribe(hypervisor, ways, GUEST_KINDS, self._on_guest)
        self.tells_guests = guests and hypervisor.getType() in _TELLING
        ways = (hypervisor.nodeDeviceEventRegisterAny, hypervisor.nodeDeviceEventDeregisterAny)
        self.tells_devices = self._subscribe(hypervisor, ways, DEVICE_KINDS, self._on_device)
        ways = (hypervisor.storagePoolEventRegisterAny, hypervisor.storagePoolEventDeregisterAny)
        self._subscribe(hypervisor, ways, POOL_KINDS, self._on_pool)
        looks = iter(LOOKS_AGAIN_MS)
        timer = libvirt.virEventAddTimeout(next(looks), self._on_time, looks)
        self._undo.append(partial(libvirt.virEventRemoveTimeout, timer))
        # libvirt's test driver has no connection to lose.
        with contextlib.suppress(libvirt.libvirtError):
            hypervisor.registerCloseCallback(self._on_close, None)
            self._undo.append(hypervisor.unregisterCloseCallback)

    def leave(self) -> None:
        """Unsubscribe: libvirt keeps a connection open for as long as anybody is subscribed on it."""
        for undo in self._undo:
            # On a lost connection libvirt forgets the callback and then fails to tell the other side; and a timer may
            # have ended by itself.
            with contextlib.suppress(libvirt.libvirtError):
                undo()
        self._undo.clear()
        self._joined = None
        self.tells_guests = self.tells_devices = False
        with self._guard:
            self._everything = True

    def taken(self) -> Touched:
        """Give what was touched since the last time; what comes from now on is for the next time."""
        with self._guard:
            touched = Touched(frozenset(self._guests), self._devices, self._everything)
            self._guests.clear()
            self._devices = self._everything = False
        return touched

    def _subscribe(
        self, hypervisor: Hypervisor, ways: tuple[Register, Deregister], kinds: tuple[int, ...], callback: Callback
    ) -> bool:
        """Subscribe to the kinds that there are; say whether these are all."""
        register, deregister = ways
        complete = True
        for kind in kinds:
            try:
                number = register(None, kind, callback, None)
            except libvirt.libvirtError as error:
                if is_lost(error, hypervisor):
                    raise
                LOG.info("libvirt has no events of kind %d: %s", kind, message_of(error))
                complete = False
            else:
                self._undo.append(partial(deregister, number))
        return complete

    # The callbacks: every kind of event has arguments of its own, of which none is believed.

    def _on_guest(self, _connection: object, domain: Any, *_about: object) -> None:
        with self._guard:
            self._guests.add(domain.UUIDString())
        self._call()

    def _on_device(self, *_about: object) -> None:
        with self._guard:
            self._devices = True
        self._call()

    def _on_pool(self, *_about: object) -> None:
        self._call()

    def _on_time(self, timer: int, looks: Iterator[int]) -> None:
        self._call()
        pause_ms = next(looks, None)
        if pause_ms is not None:
            libvirt.virEventUpdateTimeout(timer, pause_ms)
            return
        with contextlib.suppress(libvirt.libvirtError):
            libvirt.virEventRemoveTimeout(timer)

    def _on_close(self, *_about: object) -> None:
        with self._guard:
            self._everything = True
        self._call()

    def _call(self) -> None:
        if self._wake is not None:
            self._wake()
