"""
Host metrics, the door: what every monitor answers, and how they are found. Law: a monitor's trouble never stops a pass.

Third parties add monitors through the entry point group `stocktake.monitors`: a name and a function
`open_monitor(settings: Settings, clock: Clock) -> Monitor`.
"""

from importlib.metadata import EntryPoint, entry_points
from typing import Protocol, runtime_checkable

from stocktake.clock import Clock
from stocktake.errors import DriverError, SettingsError, StocktakeError
from stocktake.model.books import Metric
from stocktake.settings import Settings

GROUP = "stocktake.monitors"

# Nova names a monitor with its kind and its module; here the kind is the monitor.
_NOVA_SUFFIX = ".virt_driver"


@runtime_checkable
class Monitor(Protocol):
    """What reads metrics of a node's host."""

    def read(self, node: str) -> tuple[Metric, ...]:
        """
        Read the metrics of one node now.

        Raises:
            StocktakeError: they can't be read.
        """
        ...


def load_monitors(settings: Settings, clock: Clock) -> tuple[Monitor, ...]:
    """
    Open the monitors that `compute_monitors` names, each once, in that order.

    Raises:
        SettingsError: no such monitor; says which there are.
        DriverError: one can't be loaded, or is none.
    """
    names = dict.fromkeys(name.removesuffix(_NOVA_SUFFIX) for name in settings.compute_monitors)
    return tuple(_open(_entry_point(name), settings, clock) for name in names)


def monitor_names() -> tuple[str, ...]:
    """List the monitors that are installed, sorted."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP)}))


def _entry_point(name: str) -> EntryPoint:
    found = entry_points(group=GROUP, name=name)
    if not found:
        raise SettingsError(
            f"compute_monitors: there is no monitor {name!r}",
            remedy=f"There are: {', '.join(monitor_names())}.",
        )
    return next(iter(found))


def _open(entry: EntryPoint, settings: Settings, clock: Clock) -> Monitor:
    where = f"monitor {entry.name} ({entry.value})"
    try:
        monitor = entry.load()(settings, clock)
    except StocktakeError:
        raise
    except Exception as error:
        # A third party's code may raise anything when it is imported or called.
        raise DriverError(
            f"can't be loaded: {type(error).__name__}: {error}",
            where=where,
            remedy="Install what it needs, or take it out of compute_monitors.",
        ) from error
    if not isinstance(monitor, Monitor):
        raise DriverError(
            f"gave a {type(monitor).__name__}, which has no read()",
            where=where,
            remedy="Ask its author; see stocktake.monitors.base.Monitor.",
        )
    return monitor
