"""
Step 4, libvirt: one connection, one node, its guests. Invariant: everything is read-only, and there is no process per
disk.

    driver       the node's name, surveys; memory; one reading of everything, put together as a report
    connection   open, keep alive, one sweep with a deadline
    events       what libvirt tells by itself
    facts        what stays as it is while libvirtd runs
    cpu          which CPUs are online, their model and traits, what the host can run
    numa         the host's cells, and where a guest sits: cells, pinned CPUs, pages
    devices      PCI devices
    guests       domain definitions
    disks        disk images, storage pools
    xml          hardened parsing
"""

from typing import TYPE_CHECKING

from stocktake.clock import Clock
from stocktake.errors import DriverError
from stocktake.settings import Settings

if TYPE_CHECKING:
    from stocktake.drivers.libvirt.driver import LibvirtDriver


def open_driver(settings: Settings, clock: Clock) -> "LibvirtDriver":
    """
    Make the driver; libvirtd is first asked by the first call.

    Raises:
        DriverError: libvirt's Python bindings aren't installed.
    """
    try:
        # Here, so that whoever has no libvirt can still list the drivers.
        from stocktake.drivers.libvirt.driver import LibvirtDriver
        from stocktake.drivers.libvirt.facts import Options
    except ModuleNotFoundError as error:
        raise DriverError(
            f"libvirt's Python bindings are not installed: {error}",
            where="driver libvirt",
            remedy="Install stocktake[libvirt]; it needs libvirt-dev, pkg-config and a C compiler.",
        ) from error
    reserved: dict[int, dict[int, int]] = {}
    for pages in settings.reserved_huge_pages:
        reserved.setdefault(pages.node, {})[pages.size_kb] = pages.count
    options = Options(
        instances_path=str(settings.libvirt.instances_path),
        cpu_shared_set=settings.cpu_shared_set,
        cpu_dedicated_set=settings.cpu_dedicated_set,
        reserved_pages=reserved,
        full_read_every=settings.libvirt.full_read_every,
    )
    return LibvirtDriver(settings.libvirt.connection_uri, options, clock=clock, deadline_s=settings.driver_timeout_s)
