"""
Step 4, the driver over one libvirt connection. Invariant: a sweep either gives the whole host or fails.

A sweep runs in the connection's worker thread. What libvirt tells the changes of is kept until it does, so that a
steady sweep is half a dozen calls, whatever the number of guests. Once in so many sweeps all is read anew and compared.
A wrong answer is an error of the nodes asked for; no answer is raised.

Memory has Nova's form (release 34, nova/virt/libvirt/driver.py: `get_available_resource`); where its figures can lie
(memory from two sources, see docs), ours come from one reading.
"""

from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import libvirt

from stocktake.clock import Clock
from stocktake.drivers.libvirt.connection import Connection, Domain, Hypervisor, is_local, message_of
from stocktake.drivers.libvirt.disks import Image, ImageCache, growth_bytes, read_pool_disk, with_status_of
from stocktake.drivers.libvirt.events import Events
from stocktake.drivers.libvirt.facts import HostFacts, Options
from stocktake.drivers.libvirt.guests import DefinitionCache, GuestDisk, Kept, read_guests
from stocktake.drivers.machine import disk_report, read_boot_time, read_file_system, read_uptime_s
from stocktake.errors import DriverUnreachable, InvalidData, NodeNotFound, StocktakeError
from stocktake.model.hypervisor import Survey
from stocktake.model.problem import Problem


class HostMemory(NamedTuple):
    """Host memory in MiB: total rounded down, used rounded up."""

    total_mb: int
    used_mb: int


def read_memory(hypervisor: Hypervisor) -> HostMemory:
    """
    Read the host's memory; used is what is neither free nor in buffers nor in the page cache.

    `getMemoryStats` gives all four in one reading. A hypervisor without it (libvirt's test driver, some remote ones)
    tells its total and its free memory in two calls; if those contradict each other, nothing is taken for used.
    """
    try:
        stats = hypervisor.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
    except libvirt.libvirtError as error:
        if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
            raise
        total_mb = int(hypervisor.getInfo()[1])
        return HostMemory(total_mb, max(0, total_mb - hypervisor.getFreeMemory() // 1024**2))
    unused_kb = stats["free"] + stats.get("buffers", 0) + stats.get("cached", 0)
    total_mb = stats["total"] // 1024
    return HostMemory(total_mb, total_mb - unused_kb // 1024)


class _Look(NamedTuple):
    """What a sweep reads anew: all, or at least the guests' documents."""

    full: bool
    guests: bool


class Sweeper:
    """
    Reads one host again and again.

    Attributes:
        stale: how many guests were found changed without an event, ever.
        checks: how often what is kept was compared with what is so, ever.
        starting: how many guests were just starting when they were read last.
    """

    def __init__(self, options: Options, events: Events) -> None:
        self._options = options
        self._events = events
        self._facts = HostFacts(options)
        self._definitions = DefinitionCache()
        self._images = ImageCache()
        self._since_full = 0
        self._problems: tuple[Problem, ...] = ()
        self._booted_at: datetime | None = None
        self.stale = 0
        self.checks = 0
        self.starting = 0

    def sweep(self, hypervisor: Hypervisor) -> tuple[str, Survey]:
        """
        Read the whole host: its name and what it says.

        Raises:
            InvalidData: a document of the host (not of a guest) can't be read.
            SettingsError: a CPU set doesn't fit the host.
        """
        self._events.join(hypervisor)
        look = self._look()
        name = hypervisor.getHostname()
        local = is_local(hypervisor.getURI())
        facts = self._facts.read(hypervisor, local=local)
        measure = self._measure_local if local else _ask_once
        reading = read_guests(hypervisor, self._definitions, facts.layout, measure, anew=look.guests)
        self.starting = reading.starting
        self._images.turn()
        memory = read_memory(hypervisor)
        path = self._options.instances_path
        disk = read_file_system(Path(path)) if local else read_pool_disk(hypervisor, path)
        report = {
            **facts.report,
            **disk_report(disk, growth_bytes(reading.images)),
            "hypervisor_hostname": name,
            "uuid": None,
            "memory_mb": memory.total_mb,
            "memory_mb_used": memory.used_mb,
            # Nova's meaning: what the running guests have, pinned or not.
            "vcpus_used": sum(guest.vcpus for guest in reading.guests if guest.active),
            "pci_passthrough_devices": self._facts.devices(hypervisor),
            "stats": {},
            "booted_at": self._boot_time() if local else None,
        }
        self._since_full = 0 if look.full else self._since_full + 1
        return name, Survey(report=report, guests=reading.guests, problems=self._problems)

    def _look(self) -> _Look:
        """Let go of what was touched, and say what has to be read anew."""
        touched = self._events.taken()
        if touched.everything:
            self._definitions.clear()
            self._problems = ()
        self._judge(touched.guests)
        self._definitions.drop(touched.guests)
        full = touched.everything or self._since_full + 1 >= self._options.full_read_every
        if full or not self._events.tells_guests:
            self._facts.clear()
            self._images.clear()
        elif touched.devices or not self._events.tells_devices:
            self._facts.clear_devices()
        return _Look(full=full, guests=full or not self._events.tells_guests)

    def _judge(self, touched: frozenset[str]) -> None:
        """
        Settle what the full reading before this sweep found to differ: by now its event would have come.

        The problem stays until the next full reading.
        """
        if self._since_full != 0 or not self._events.tells_guests:
            self._definitions.differing.clear()
            return
        untold = {uuid: name for uuid, name in self._definitions.differing.items() if uuid not in touched}
        self._definitions.differing.clear()
        self.stale += len(untold)
        self.checks += 1
        self._problems = tuple(_stale(uuid, name) for uuid, name in sorted(untold.items()))

    def _measure_local(self, domain: Domain, disk: GuestDisk, kept: Kept) -> Image:
        """Read a disk's file, or ask libvirtd where this user may not (QEMU's images are often its own user's only)."""
        try:
            return self._images.read(disk.path, disk.image_format)
        except InvalidData as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
        return with_status_of(disk.path, _ask_once(domain, disk, kept))

    def _boot_time(self) -> str | None:
        """Read when this machine started, once: a clock that is set later would move it."""
        if self._booted_at is None:
            self._booted_at = read_boot_time()
        return None if self._booted_at is None else self._booted_at.isoformat()


def _ask_once(domain: Domain, disk: GuestDisk, kept: Kept) -> Image:
    """Ask libvirtd for a disk's size, unless it was asked since the guest was read."""
    if disk.path not in kept.asked:
        kept.asked[disk.path] = _measure_by_libvirt(domain, disk)
    return kept.asked[disk.path]


def _measure_by_libvirt(domain: Domain, disk: GuestDisk) -> Image:
    """Ask libvirtd for a disk's size: 2 ms each, and a running guest's QEMU is asked in turn."""
    try:
        capacity, allocation, _physical = domain.blockInfo(disk.path)
    except libvirt.libvirtError as error:
        if error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
            raise
        raise InvalidData(f"disk {disk.path}: {message_of(error)}") from error
    return Image(identity=disk.path, virtual=capacity, allocated=allocation)


def _stale(uuid: str, name: str) -> Problem:
    text = f"guest {name} had changed and libvirt sent no event; its figures were out of date, and are right now"
    remedy = "libvirt sends no event for vCPUs plugged in, external snapshots and edits of a guest that is off."
    return Problem(code="stale-definition", about=uuid, text=text, remedy=remedy)


class LibvirtDriver:
    """
    One libvirt host as one node, called by the host name that libvirt gives.

    Args:
        uri: any libvirt URI; it is opened read-only, at the first call.
        deadline_s: how long one call may take.
    """

    name = "libvirt"

    def __init__(self, uri: str, options: Options, *, clock: Clock, deadline_s: float) -> None:
        self._events = Events()
        self._connection = Connection(uri, clock=clock, deadline_s=deadline_s, leaving=self._events.leave)
        self._sweeper = Sweeper(options, self._events)

    @property
    def cache_checks(self) -> int:
        """How often what is kept was compared with what is so, ever."""
        return self._sweeper.checks

    @property
    def cache_lies(self) -> int:
        """How many guests were found to have changed without libvirt telling, ever."""
        return self._sweeper.stale

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` whenever libvirt tells that something changed, or that the connection is lost."""
        self._events.watch(wake)

    def settling(self) -> bool:
        """Whether guests were starting when they were last read."""
        return self._sweeper.starting > 0

    def node_names(self) -> tuple[str, ...]:
        """
        Give the one node's name.

        Raises:
            DriverUnreachable: libvirtd doesn't answer, or not in time.
            DriverError: it answered with an error.
        """
        return (self._connection.call(lambda hypervisor: hypervisor.getHostname()),)

    def survey(self, nodes: Collection[str]) -> dict[str, Survey | StocktakeError]:
        """
        Read the host in one sweep; every asked node gets its survey, or the error that kept it from one.

        Raises:
            DriverUnreachable: libvirtd doesn't answer, or not in time.
        """
        if not nodes:
            return {}
        try:
            name, survey = self._connection.call(self._sweeper.sweep)
        except DriverUnreachable:
            raise
        except StocktakeError as error:
            return dict.fromkeys(nodes, error)
        return {node: survey if node == name else self._not_found(node, name) for node in nodes}

    def _not_found(self, node: str, name: str) -> NodeNotFound:
        return NodeNotFound(
            f"libvirt has no node {node}; its host is called {name}",
            where=self._connection.uri,
            remedy="If the host was renamed on purpose, move its records to the new name; else give it its old one.",
        )

    def node_exists(self, node: str) -> bool:
        """
        Whether libvirt's host is called `node`.

        Raises:
            DriverUnreachable, DriverError: as `node_names`.
        """
        return node in self.node_names()

    def uptime_s(self) -> float | None:
        """Seconds since this machine started; None if the URI means another one."""
        return read_uptime_s() if is_local(self._connection.uri) else None

    def close(self) -> None:
        """Close the connection; the driver can't be used afterwards."""
        self._connection.close()
