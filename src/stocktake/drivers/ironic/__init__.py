"""
Step 4, the driver `ironic`: thousands of bare-metal nodes through one service. Invariant: only a node's own 404 lets it
go.

One listing serves one pass. Between passes a small request asks which nodes changed last (changes.py); whose a node is,
where several agents share one Ironic, is settled by `stocktake.refresh.ownership`. Only GETs are sent.
"""

from stocktake.clock import Clock
from stocktake.drivers.ironic.driver import IronicDriver
from stocktake.settings import Settings

__all__ = ["IronicDriver", "open_driver"]


def open_driver(settings: Settings, clock: Clock) -> IronicDriver:
    """Open the Ironic that the settings name; nothing is asked yet."""
    return IronicDriver(settings, clock)
