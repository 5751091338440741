"""
All settings: those without a section, and the sections. Invariant: as in `sections`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from stocktake.model.value import LARGEST
from stocktake.settings.section import Section, about
from stocktake.settings.sections import (
    Database,
    Fake,
    FilterScheduler,
    History,
    Ironic,
    Libvirt,
    Log,
    Metrics,
    Notifications,
    Pci,
    Placement,
    ReservedPages,
    Server,
)

Ratio = float | None


class Settings(Section, frozen=True, kw_only=True):
    """
    All settings. Made by `read_settings`; `origins` says where each value came from, by dotted name.
    """

    host: Annotated[str, about("This service's name in the ledger.", default="the machine's host name", max_length=255)]
    my_ip: Annotated[
        str,
        about("The address that nodes are recorded with.", default="that of the default route's interface"),
    ]
    state_path: Annotated[
        Path,
        about(
            "Where this host keeps its identity and, unless set otherwise, its databases.",
            default="`/var/lib/stocktake` for root, else `$XDG_STATE_HOME/stocktake`",
        ),
    ]
    compute_driver: Annotated[
        str,
        about(
            "Who is asked about nodes: `libvirt`, `host`, `ironic`, `fake`, or a third party's name. `auto` takes "
            "libvirt if it answers when the program starts, else host; name the driver on hosts that matter."
        ),
    ] = "auto"
    update_resources_interval: Annotated[
        int,
        about(
            "How often the agent takes stock; 0 is the default of 60, negative turns it off.",
            unit="s",
            ge=-LARGEST,
            le=LARGEST,
        ),
    ] = 0
    event_settle_s: Annotated[
        float,
        about(
            "How long it has to be quiet after something happened before the agent looks again; five times as long at "
            "the most.",
            unit="s",
            ge=0,
            le=60,
        ),
    ] = 0.02
    report_interval: Annotated[int, about("How often the agent says that it lives.", unit="s", gt=0, le=LARGEST)] = 10
    service_down_time: Annotated[
        int, about("After how long a silent agent counts as down.", unit="s", gt=0, le=LARGEST)
    ] = 60
    reserved_host_memory_mb: Annotated[int, about("Memory that is not for guests.", unit="MiB", ge=0, le=LARGEST)] = 512
    reserved_host_cpus: Annotated[int, about("CPUs that are not for guests.", unit="CPUs", ge=0, le=65535)] = 0
    reserved_host_disk_mb: Annotated[int, about("Disk that is not for guests.", unit="MiB", ge=0, le=LARGEST)] = 0
    cpu_allocation_ratio: Annotated[
        Ratio, about("How many vCPUs are sold per CPU; 0 or unset leaves a node's ratio alone.")
    ] = None
    ram_allocation_ratio: Annotated[
        Ratio, about("How many times memory is sold; 0 or unset leaves a node's ratio alone.")
    ] = None
    disk_allocation_ratio: Annotated[
        Ratio, about("How many times disk is sold; 0 or unset leaves a node's ratio alone.")
    ] = None
    initial_cpu_allocation_ratio: Annotated[float, about("The ratio of a new node while the one above is unset.")] = 4.0
    initial_ram_allocation_ratio: Annotated[float, about("The ratio of a new node while the one above is unset.")] = 1.0
    initial_disk_allocation_ratio: Annotated[float, about("The ratio of a new node while the one above is unset.")] = (
        1.0
    )
    cpu_shared_set: Annotated[
        str | None, about("Host CPUs for floating guests, such as `0-3,^2`; unset takes all that are not dedicated.")
    ] = None
    cpu_dedicated_set: Annotated[str | None, about("Host CPUs for pinned guests, such as `4-15`; unset has none.")] = (
        None
    )
    packing_host_numa_cells_allocation_strategy: Annotated[
        bool, about("Put guests' cells on the fullest of a node's NUMA cells first; otherwise on the emptiest.")
    ] = False
    reserved_huge_pages: Annotated[
        tuple[ReservedPages, ...],
        about(
            "Huge pages that are not for guests: tables of `node`, `size` (KiB, or text such as `1GB`) and `count`, or "
            "Nova's text form `node:0,size:2048,count:64`."
        ),
    ] = ()
    compute_monitors: Annotated[
        tuple[str, ...], about("Which host metrics are read with every pass: `cpu` (Nova's `cpu.virt_driver` too).")
    ] = ()
    adopt: Annotated[
        Literal["manual", "auto"],
        about("`auto` makes instances of guests that nobody promised; for hosts that nobody else keeps books of."),
    ] = "manual"
    allocations: Annotated[
        Literal["own", "foreign"],
        about(
            "Who allocates in Placement. `own`: stocktake does; what instances and migrations hold there is what the "
            "ledger says. `foreign`: somebody else does (an OpenStack), and allocations are never touched."
        ),
    ] = "foreign"
    claim_expiry_s: Annotated[
        float,
        about(
            "After how long a claim that nobody settled is given back, by the next refresh; commands that run under a "
            "claim renew it while they run.",
            unit="s",
            gt=0,
            le=LARGEST,
        ),
    ] = 600.0
    provider_config_location: Annotated[
        Path, about("The directory of provider.yaml files; one that does not exist has none.")
    ] = Path("/etc/stocktake/provider_config")
    vanish_share_max: Annotated[
        float,
        about("If more than this share of the nodes vanishes at once, a second pass must agree.", ge=0, le=1),
    ] = 0.5
    driver_timeout_s: Annotated[
        float, about("How long the hypervisor may take to answer for all nodes.", unit="s", gt=0, le=3600)
    ] = 30.0
    ledger: Annotated[
        str | None,
        about(
            "The server that keeps this host's books, such as `https://stocktake.example.org` (`stocktake serve`); the "
            "token is `server.token`. An embedded Placement is then that server's. Unset: the database is opened here.",
            hide="url",
        ),
    ] = None
    database: Database
    placement: Placement
    pci: Pci = Pci()
    libvirt: Libvirt = Libvirt()
    ironic: Ironic = Ironic()
    fake: Fake = Fake()
    filter_scheduler: FilterScheduler = FilterScheduler()
    server: Server = Server()
    history: History = History()
    log: Log = Log()
    metrics: Metrics = Metrics()
    notifications: Notifications = Notifications()
    origins: Mapping[str, str] = {}

    @property
    def refresh_interval_s(self) -> float | None:
        """Give the time between passes in seconds; None if the periodic pass is off."""
        if self.update_resources_interval < 0:
            return None
        return float(self.update_resources_interval or DEFAULT_INTERVAL_S)


# What an update_resources_interval of 0 means, in Nova as here.
DEFAULT_INTERVAL_S = 60
