"""
Step 7b, opening the scheduler that the settings name. Invariant: without a scheduler nothing heavy is loaded.
"""

import secrets
import threading
from collections.abc import Callable
from pathlib import Path

from stocktake.clock import Clock
from stocktake.placement.scheduler import NoScheduler, Scheduler
from stocktake.settings import PlacementSection
from stocktake.telemetry import Telemetry


def open_scheduler(
    section: PlacementSection,
    clock: Clock,
    *,
    state_path: Path = Path(),
    jitter: Callable[[], float] | None = None,
    telemetry: Telemetry | None = None,
) -> Scheduler:
    """
    Open the scheduler that the settings name; nothing is connected before the first request.

    Args:
        clock: waits between retries.
        state_path: holds the embedded Placement's lock where `connection` names no SQLite file.
        jitter: gives a random number from 0 up to 1; None takes the system's.
        telemetry: where requests are counted.

    Raises:
        SettingsError: an unknown plugin or option.
    """
    if section.mode == "none":
        return NoScheduler()
    from stocktake.placement.client import PlacementClient
    from stocktake.placement.embedded import Embedded
    from stocktake.placement.session import RetryPolicy, open_embedded, open_remote

    unset = threading.Event()

    def wait(seconds: float) -> None:
        clock.wait(unset, seconds)

    # What is asked of these is only that two hosts don't retry in step.
    retry = RetryPolicy(section.retries_max, sleep=wait, jitter=jitter or secrets.SystemRandom().random)
    if section.mode == "remote":
        return PlacementClient(open_remote(section, telemetry), retry, clock.now)
    session = open_embedded(Embedded(section.connection, state_path=state_path), telemetry)
    return PlacementClient(session, retry, clock.now)
