"""
The settings: one TOML file, `STOCKTAKE_*` variables above it, flags above those.

Invariant: only here is the environment read.
"""

from stocktake.model.history import Ages
from stocktake.model.rules import Rules, Weights
from stocktake.model.value import replace
from stocktake.settings.checks import parse_listen
from stocktake.settings.pci import read_device_spec
from stocktake.settings.read import Supervisor, read_settings, read_supervisor
from stocktake.settings.secrets import redact_url
from stocktake.settings.sections import (
    DEFAULT_INTERVAL_S,
    IronicSection,
    NotificationsSection,
    PlacementSection,
    ReservedPages,
    ServerSection,
    Settings,
)
from stocktake.settings.table import Shown, redacted

__all__ = [
    "DEFAULT_INTERVAL_S",
    "IronicSection",
    "NotificationsSection",
    "PlacementSection",
    "ReservedPages",
    "ServerSection",
    "Settings",
    "Shown",
    "Supervisor",
    "ages",
    "front_of",
    "parse_listen",
    "placement_of",
    "read_device_spec",
    "read_settings",
    "read_supervisor",
    "redact_url",
    "redacted",
    "rules",
    "weights",
]


def rules(settings: Settings) -> Rules:
    """Pick what the pure rules need."""
    named = {name: getattr(settings, name) for name in Rules.__struct_fields__ if hasattr(settings, name)}
    return Rules(**named, device_specs=settings.pci.device_spec, report_pci=settings.pci.report_in_placement)


def ages(settings: Settings) -> Ages:
    """Pick how much history is kept."""
    return Ages(**{name: getattr(settings.history, name) for name in Ages.__struct_fields__})


def front_of(settings: Settings) -> str | None:
    """Give the URL of the server that stands before the ledger; None if the database is opened from here."""
    return settings.ledger or settings.server.url


def placement_of(settings: Settings) -> PlacementSection:
    """Pick where the scheduler is: what would be embedded here is the server's where a server keeps the books."""
    front = front_of(settings)
    if front is None or settings.placement.mode != "embedded":
        return settings.placement
    server = settings.server
    signed_in = server.token is not None
    return replace(
        settings.placement,
        mode="remote",
        url=f"{front.rstrip('/')}/placement",
        auth_type="http_basic" if signed_in else "none",
        auth={"username": settings.host, "password": server.token} if signed_in else {},
        cafile=server.cafile,
        insecure=False,
    )


def weights(settings: Settings) -> Weights:
    """Pick how much each weigher counts."""
    chosen = settings.filter_scheduler
    multipliers = ("ram", "cpu", "disk", "io_ops", "num_instances", "build_failure", "pci", "metrics")
    return Weights(
        **{name: getattr(chosen, f"{name}_weight_multiplier") for name in multipliers},
        metric_ratios=chosen.metrics_weight_setting,
        weight_of_unavailable=chosen.metrics_weight_of_unavailable,
    )
