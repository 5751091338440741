"""
Step 4, one reading of everything a libvirt host says of itself. Invariant: a sweep either gives the whole host or
fails.

It runs in the connection's worker thread. What libvirt tells the changes of is kept until it does, so that a steady
sweep is half a dozen calls, whatever the number of guests. Once in so many sweeps all is read anew and compared.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import libvirt

from stocktake.drivers.libvirt.capacity import disk_report, read_local_disk, read_memory, read_pool_disk
from stocktake.drivers.libvirt.connection import Domain, Hypervisor, is_local, message_of
from stocktake.drivers.libvirt.events import Events
from stocktake.drivers.libvirt.facts import HostFacts, Options
from stocktake.drivers.libvirt.guests import DefinitionCache, Disk, Kept, read_guests
from stocktake.drivers.libvirt.images import Image, ImageCache, growth_bytes, with_status_of
from stocktake.errors import InvalidData
from stocktake.model.hypervisor import Survey
from stocktake.model.problem import Problem


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
        disk = read_local_disk(path) if local else read_pool_disk(hypervisor, path)
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

    def _measure_local(self, domain: Domain, disk: Disk, kept: Kept) -> Image:
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


def _ask_once(domain: Domain, disk: Disk, kept: Kept) -> Image:
    """Ask libvirtd for a disk's size, unless it was asked since the guest was read."""
    if disk.path not in kept.asked:
        kept.asked[disk.path] = _measure_by_libvirt(domain, disk)
    return kept.asked[disk.path]


def _measure_by_libvirt(domain: Domain, disk: Disk) -> Image:
    """Ask libvirtd for a disk's size: 2 ms each, and a running guest's QEMU is asked in turn."""
    try:
        capacity, allocation, _physical = domain.blockInfo(disk.path)
    except libvirt.libvirtError as error:
        if error.get_error_domain() in (libvirt.VIR_FROM_RPC, libvirt.VIR_FROM_REMOTE):
            raise
        raise InvalidData(f"disk {disk.path}: {message_of(error)}") from error
    return Image(identity=disk.path, virtual=capacity, allocated=allocation)


def _stale(uuid: str, name: str) -> Problem:
    text = f"guest {name} had changed and libvirt had not told; its figures were those of before, and are right now"
    remedy = "libvirt tells nothing of vCPUs plugged in, external snapshots and edits of a guest that is off."
    return Problem(code="stale-definition", about=uuid, text=text, remedy=remedy)


def read_boot_time() -> datetime | None:
    """Read when this machine started, from /proc/stat, in UTC; None where there is no such file."""
    try:
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    seconds = next((line.split()[1] for line in lines if line.startswith("btime ")), None)
    return None if seconds is None else datetime.fromtimestamp(int(seconds), UTC)


def read_uptime_s() -> float | None:
    """Read for how many seconds this machine has been up, from /proc/uptime; None where there is no such file."""
    try:
        return float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except OSError:
        return None
