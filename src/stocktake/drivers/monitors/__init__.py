"""
Step 4, monitors of the host: their protocol, and how they are found. Invariant: a monitor's trouble never stops a pass.

Third parties add monitors through the entry point group `stocktake.monitors`: a name and a function
`open_monitor(settings: Settings, clock: Clock) -> Monitor`.
"""

from typing import Protocol, runtime_checkable

from stocktake import plugins
from stocktake.clock import Clock
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
    return tuple(_open(name, settings, clock) for name in names)


def _open(name: str, settings: Settings, clock: Clock) -> Monitor:
    return plugins.load(
        plugins.find(GROUP, name, setting="compute_monitors", kind="monitor"),
        "monitor",
        settings,
        clock,
        check=lambda made: made if isinstance(made, Monitor) else None,
        otherwise="take it out of compute_monitors",
    )
