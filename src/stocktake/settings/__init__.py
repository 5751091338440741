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
    DatabaseSection,
    FakeSection,
    FilterSchedulerSection,
    IronicSection,
    LibvirtSection,
    LogSection,
    MetricsSection,
    NotificationsSection,
    PciSection,
    PlacementSection,
    ReservedPages,
    ServerSection,
    Settings,
)
from stocktake.settings.table import Shown, redacted

__all__ = [
    "DEFAULT_INTERVAL_S",
    "DatabaseSection",
    "FakeSection",
    "FilterSchedulerSection",
    "IronicSection",
    "LibvirtSection",
    "LogSection",
    "MetricsSection",
    "NotificationsSection",
    "PciSection",
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
    return Rules(
        host=settings.host,
        reserved_host_memory_mb=settings.reserved_host_memory_mb,
        reserved_host_cpus=settings.reserved_host_cpus,
        reserved_host_disk_mb=settings.reserved_host_disk_mb,
        cpu_allocation_ratio=settings.cpu_allocation_ratio,
        ram_allocation_ratio=settings.ram_allocation_ratio,
        disk_allocation_ratio=settings.disk_allocation_ratio,
        initial_cpu_allocation_ratio=settings.initial_cpu_allocation_ratio,
        initial_ram_allocation_ratio=settings.initial_ram_allocation_ratio,
        initial_disk_allocation_ratio=settings.initial_disk_allocation_ratio,
        device_specs=settings.pci.device_spec,
        report_pci=settings.pci.report_in_placement,
    )


def ages(settings: Settings) -> Ages:
    """Pick how much history is kept."""
    kept = settings.history
    return Ages(
        interval_s=kept.interval_s,
        full_days=kept.full_days,
        hourly_days=kept.hourly_days,
        daily_days=kept.daily_days,
    )


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
    return Weights(
        ram=chosen.ram_weight_multiplier,
        cpu=chosen.cpu_weight_multiplier,
        disk=chosen.disk_weight_multiplier,
        io_ops=chosen.io_ops_weight_multiplier,
        num_instances=chosen.num_instances_weight_multiplier,
        build_failure=chosen.build_failure_weight_multiplier,
        pci=chosen.pci_weight_multiplier,
        metrics=chosen.metrics_weight_multiplier,
        metric_ratios=chosen.metrics_weight_setting,
        weight_of_unavailable=chosen.metrics_weight_of_unavailable,
    )
