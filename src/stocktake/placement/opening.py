"""
Step 7b: which scheduler the settings mean. Invariant: nothing is loaded or connected before the first request.
"""

import secrets
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stocktake.clock import Clock
from stocktake.errors import SettingsError
from stocktake.placement.client import Placement
from stocktake.placement.retry import RetryPolicy
from stocktake.placement.scheduler import NoScheduler, Scheduler
from stocktake.telemetry import Telemetry

if TYPE_CHECKING:
    from stocktake.placement.embedded import Embedded

FILE = "placement.db"


class Section(Protocol):
    """The settings' section `placement`, as far as it is needed here."""

    @property
    def mode(self) -> str: ...

    @property
    def connection(self) -> str | None: ...

    @property
    def url(self) -> str | None: ...

    @property
    def auth_type(self) -> str | None: ...

    @property
    def auth(self) -> Mapping[str, object]: ...

    @property
    def region_name(self) -> str | None: ...

    @property
    def interface(self) -> str | None: ...

    @property
    def cafile(self) -> Path | None: ...

    @property
    def insecure(self) -> bool: ...

    @property
    def timeout_s(self) -> float: ...

    @property
    def retries_max(self) -> int: ...


def open_scheduler(
    section: Section,
    clock: Clock,
    *,
    state_path: Path | str = ".",
    jitter: Callable[[], float] | None = None,
    telemetry: Telemetry | None = None,
) -> Scheduler:
    """
    Open the scheduler that the settings name.

    Args:
        section: mode `embedded` (in this process; `connection`, or SQLite in the state path), `remote` (at `url`, or
            where Keystone's catalogue says) or `none`.
        clock: waits between retries.
        state_path: holds the embedded Placement's database and lock where `connection` names no SQLite file.
        jitter: gives a random number from 0 up to 1; None takes the system's.
        telemetry: where requests are counted.

    Raises:
        SettingsError: an unknown mode, plugin or option.
    """
    if section.mode == "none":
        return NoScheduler()
    # What is asked of these is only that two hosts don't retry in step.
    never = threading.Event()

    def wait(seconds: float) -> None:
        clock.wait(never, seconds)

    dice = jitter or secrets.SystemRandom().random
    patience = RetryPolicy(section.retries_max, sleep=wait, jitter=dice)
    if section.mode == "embedded":
        from stocktake.placement.session import open_embedded

        return Placement(open_embedded(open_door(section, state_path), telemetry), patience)
    if section.mode == "remote":
        from stocktake.placement.session import open_remote

        session = open_remote(
            url=section.url,
            auth_type=section.auth_type,
            auth=section.auth,
            timeout_s=section.timeout_s,
            insecure=section.insecure,
            cafile=section.cafile,
            region_name=section.region_name,
            interface=section.interface,
            telemetry=telemetry,
        )
        return Placement(session, patience)
    remedy = "Use embedded, remote or none."
    raise SettingsError(f"mode {section.mode!r} is not known", where="placement.mode", remedy=remedy)


def open_door(section: Section, state_path: Path | str) -> "Embedded":
    """Give a door to the embedded Placement that the settings name; there may be many to the one of a process."""
    from stocktake.placement.embedded import Embedded

    folder = Path(state_path)
    return Embedded(section.connection or f"sqlite:///{(folder / FILE).absolute()}", state_path=folder)
