"""
Step 4, the protocol of drivers, and how one is found. Invariant: a driver reports facts, it never decides.

Third parties add drivers through the entry point group `stocktake.drivers`: a name and a function
`open_driver(settings: Settings, clock: Clock) -> Driver`.
"""

import importlib.util
import logging
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import EntryPoint
from typing import Protocol, runtime_checkable

from stocktake import plugins
from stocktake.clock import Clock
from stocktake.errors import DriverError, DriverUnreachable, StocktakeError
from stocktake.model.hypervisor import Candidate, Survey
from stocktake.settings import Settings

GROUP = "stocktake.drivers"

log = logging.getLogger(__name__)


@runtime_checkable
class Driver(Protocol):
    """What knows the nodes. Only one thread calls it at a time."""

    name: str

    def node_names(self) -> tuple[str, ...]:
        """
        List the nodes that are this service's to report, never a part of them.

        Raises:
            DriverUnreachable: no answer; nothing may be concluded about any node.
            DriverError: the answer was an error.
        """
        ...

    def survey(self, nodes: Collection[str]) -> dict[str, Survey | StocktakeError]:
        """
        Ask about all these nodes in one sweep; every one is answered for, and one node's trouble is its own value.

        Raises:
            DriverUnreachable: no answer for any of them.
        """
        ...

    def node_exists(self, node: str) -> bool:
        """Say whether the hypervisor still has this node, though it may not be this service's to report."""
        ...

    def uptime_s(self) -> float | None:
        """Give the host's uptime in seconds; None if the driver does not know or has many hosts."""
        ...

    def close(self) -> None:
        """Let go of the connection; a closed driver is not used again."""
        ...


@runtime_checkable
class Watching(Protocol):
    """What some drivers can do besides: tell when something happens. Of others the agent asks at its interval."""

    def watch(self, wake: Callable[[], None]) -> None:
        """
        Call `wake` soon after a node may have changed, from whatever thread, until the driver is closed.

        It never waits and never raises. To call it once too often costs a pass, to forget it costs nothing but time:
        the periodic pass is the guarantee. Called at most once, before the first survey or after it.
        """
        ...

    def settling(self) -> bool:
        """
        Say whether the last survey saw something begin whose end will be told, such as a guest that starts.

        What has begun is counted already. So wakes are answered a little later, and together: many guests that start
        one after the other are not worth a pass each. Asked after every pass; never waits.
        """
        ...


@runtime_checkable
class Remembering(Protocol):
    """What a driver tells that keeps what it read and now and then compares; both numbers only grow."""

    @property
    def cache_checks(self) -> int:
        """How often it compared its cache with the hypervisor."""
        ...

    @property
    def cache_lies(self) -> int:
        """How many of the things it keeps it found out of date."""
        ...


@runtime_checkable
class Shared(Protocol):
    """
    A driver whose nodes several services divide among themselves (`stocktake.refresh.ownership`).

    Its `node_names` lists all that any of them may report, and each of its nodes has a uuid that it reports.
    """

    @property
    def pool(self) -> Mapping[str, str]:
        """Say which nodes are listed, as filters: services with the same divide the same nodes."""
        ...

    def candidates(self) -> Mapping[str, Candidate]:
        """Tell of the nodes that `node_names` gave last, by name, what it takes to divide them."""
        ...


def load_driver(settings: Settings, clock: Clock) -> Driver:
    """
    Open the driver that `compute_driver` names; `auto` takes libvirt if it answers now, else host.

    Raises:
        SettingsError: no such driver; says which there are.
        DriverError: the driver can't be loaded, or is none.
        DriverUnreachable: its hypervisor does not answer.
    """
    if settings.compute_driver != "auto":
        return _open(_entry_point(settings.compute_driver), settings, clock)
    if importlib.util.find_spec("libvirt") is not None:
        driver = _answering(_entry_point("libvirt"), settings, clock)
        if driver is not None:
            return driver
    return _open(_entry_point("host"), settings, clock)


def driver_names() -> tuple[str, ...]:
    """List the drivers that are installed, sorted."""
    return plugins.names_of(GROUP)


def _entry_point(name: str) -> EntryPoint:
    return plugins.find(GROUP, name, setting="compute_driver", kind="driver", besides=("auto",))


def _open(entry: EntryPoint, settings: Settings, clock: Clock) -> Driver:
    return plugins.load(
        entry,
        "driver",
        settings,
        clock,
        check=lambda made: made if isinstance(made, Driver) else None,
        otherwise="set compute_driver to another one",
    )


def _answering(entry: EntryPoint, settings: Settings, clock: Clock) -> Driver | None:
    """Open a driver and ask it for its nodes; None if it has no answer."""
    driver: Driver | None = None
    try:
        driver = _open(entry, settings, clock)
        driver.node_names()
    except (DriverUnreachable, DriverError) as error:
        log.info("compute_driver auto takes host: %s", error)
        if driver is not None:
            driver.close()
        return None
    return driver
