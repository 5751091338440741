"""
Every setting: its name, type, default, unit and meaning. Invariant: a setting is written here, and nowhere else.

Types, ranges, the defaults, the generated reference and what is hidden all follow from it. Names are Nova's where
Nova has the setting. A default that depends on the machine is worked out where the settings are read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from stocktake.model.pci import DeviceSpec, PciAlias
from stocktake.model.value import LARGEST, Value
from stocktake.settings.secrets import hidden

AuthOptions = Mapping[str, str | int | float | bool]


def about(text: str, *, unit: str = "", hide: str = "", default: str = "", **limits: Any) -> Meta:
    """
    Say what a setting means.

    Args:
        unit: of the value, as shown in the reference.
        hide: how it is hidden: `secret` (all of it), `url` (the password in it) or `options` (all but names known to be
            harmless).
        default: in words, where the machine decides.
        limits: msgspec's (ge, gt, le, ...).
    """
    return Meta(description=text, extra={"unit": unit, "hide": hide, "default": default}, **limits)


class Section(Value, frozen=True, kw_only=True):
    """A table of settings; its repr hides what is secret."""

    def __repr__(self) -> str:
        """Show the settings, passwords hidden."""
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> Any:
        """Give names and values, passwords hidden."""
        return ((name, hidden(type(self), name, getattr(self, name))) for name in self.__struct_fields__)


class ReservedPages(Value, frozen=True, kw_only=True):
    """Huge pages of one host cell that are reserved for the host: the size in KiB, `count` in pages."""

    node: Annotated[int, Meta(ge=0, le=65535)]
    size_kb: Annotated[int, Meta(gt=0, le=LARGEST)]
    count: Annotated[int, Meta(ge=0, le=LARGEST)]


class DatabaseSection(Section, frozen=True, kw_only=True):
    """The ledger."""

    connection: Annotated[
        str,
        about(
            "Where the ledger is: a SQLAlchemy URL of SQLite (`sqlite:////var/lib/stocktake/ledger.db`) or PostgreSQL "
            "(`postgresql://user:password@host/name`).",
            hide="url",
            default="`ledger.db` in `state_path`",
        ),
    ]
    replica_url: Annotated[
        str | None, about("A copy that may serve the audit's reads; unset reads from `connection`.", hide="url")
    ] = None


class KeystoneSection(Section, frozen=True, kw_only=True):
    """How an OpenStack service is found, and signed in to."""

    auth_type: Annotated[str | None, about("The keystoneauth1 plugin, such as `password`, `http_basic` or `none`.")] = (
        None
    )
    auth: Annotated[
        AuthOptions,
        about("That plugin's options, such as `auth_url`, `username`, `password`, `project_name`.", hide="options"),
    ] = {}
    region_name: Annotated[str | None, about("The region in Keystone's catalog.")] = None
    interface: Annotated[Literal["public", "internal", "admin"], about("The interface in Keystone's catalog.")] = (
        "internal"
    )
    cafile: Annotated[Path | None, about("Certificates to trust; unset trusts the system's.")] = None
    insecure: Annotated[bool, about("Do not check the server's certificate.")] = False


class PlacementSection(KeystoneSection, frozen=True, kw_only=True):
    """The scheduler's inventory service."""

    mode: Annotated[
        Literal["embedded", "remote", "none"],
        about("`embedded` runs Placement in this process; `remote` reports to one elsewhere; `none` reports nothing."),
    ] = "embedded"
    connection: Annotated[
        str,
        about(
            "The database of the embedded Placement: a SQLAlchemy URL.",
            hide="url",
            default="`placement.db` in `state_path`",
        ),
    ]
    url: Annotated[
        str | None,
        about("The remote Placement's endpoint; unset finds it in Keystone's catalog.", hide="url"),
    ] = None
    timeout_s: Annotated[float, about("How long one request may take.", unit="s", gt=0, le=3600)] = 30.0
    retries_max: Annotated[
        int, about("How often a request is repeated after a conflict or while Placement is away.", ge=0, le=100)
    ] = 4


class PciSection(Section, frozen=True, kw_only=True):
    """PCI devices for guests."""

    device_spec: Annotated[
        tuple[DeviceSpec, ...],
        about(
            "Which devices may be given to guests, the first entry that matches a device counts: tables of "
            "`vendor_id`, `product_id`, `address` (a glob such as `*:0a:00.*`, or a table of patterns for `domain`, "
            "`bus`, `slot`, `function`), `resource_class`, `traits`, `physical_network`, `remote_managed`, `trusted`; "
            "other names become tags."
        ),
    ] = ()
    alias: Annotated[
        tuple[PciAlias, ...],
        about(
            "Names for devices that flavors ask for: tables of `name`, `vendor_id`, `product_id`, `device_type`, "
            "`numa_policy`, `resource_class`, `traits`."
        ),
    ] = ()
    report_in_placement: Annotated[bool, about("Report PCI devices to Placement as child providers.")] = True


class LibvirtSection(Section, frozen=True, kw_only=True):
    """The driver `libvirt`."""

    connection_uri: Annotated[str, about("The hypervisor, as `virsh -c` takes it.", hide="url")] = "qemu:///system"
    instances_path: Annotated[Path, about("Where guests' images are; its file system is the node's disk.")] = Path(
        "/var/lib/libvirt/images"
    )
    full_read_every: Annotated[
        int,
        about(
            "While libvirt tells the agent what changes, only that is read again; once in so many passes everything "
            "is, and compared. 1 keeps nothing.",
            unit="passes",
            ge=1,
            le=LARGEST,
        ),
    ] = 10


class IronicSection(KeystoneSection, frozen=True, kw_only=True):
    """The driver `ironic`."""

    endpoint_override: Annotated[
        str | None, about("Ironic's address; unset finds it in Keystone's catalog.", hide="url")
    ] = None
    timeout_s: Annotated[
        float, about("How long one request may take; a whole list has `driver_timeout_s`.", unit="s", gt=0, le=3600)
    ] = 10.0
    api_max_retries: Annotated[
        int, about("How often a request is repeated while Ironic does not answer or answers 5xx.", ge=0, le=100)
    ] = 2
    api_retry_interval: Annotated[float, about("How long to wait before that.", unit="s", ge=0, le=60)] = 0.5
    conductor_group: Annotated[
        str | None, about("Only the nodes of this conductor group; an empty one is Ironic's default group.")
    ] = None
    shard: Annotated[str | None, about("Only the nodes of this shard (Ironic 1.82 or newer).")] = None
    skip_reserve_in_use_ironic_nodes: Annotated[
        bool, about("Do not reserve a node in Placement only because it has an instance.")
    ] = False
    changes_interval_s: Annotated[
        float, about("How often to look for changed nodes between passes; 0 never does.", unit="s", ge=0, le=3600)
    ] = 1.0


class FakeSection(Section, frozen=True, kw_only=True):
    """The driver `fake`."""

    fleet: Annotated[
        Path | None, about("A fleet described in a JSON or TOML file (see fleet.md); unset generates one.")
    ] = None
    nodes: Annotated[int, about("How many nodes to generate.", ge=0, le=100_000)] = 10
    prefix: Annotated[
        str, about("How the names of generated nodes begin; hosts of one ledger need different ones.")
    ] = "node"
    seed: Annotated[int, about("What the generated fleet grows from; equal seeds give equal fleets.", ge=0)] = 1
    guests: Annotated[bool, about("Give generated nodes the guests that belong to the generated work.")] = True


class FilterSchedulerSection(Section, frozen=True, kw_only=True):
    """Which of the nodes that a machine fits is best; a multiplier of 0 leaves its weigher out."""

    ram_weight_multiplier: Annotated[float, about("Free memory: above 0 spreads machines, below 0 packs them.")] = 1.0
    cpu_weight_multiplier: Annotated[float, about("Free vCPUs: above 0 spreads machines, below 0 packs them.")] = 1.0
    disk_weight_multiplier: Annotated[float, about("Free disk: above 0 spreads machines, below 0 packs them.")] = 1.0
    io_ops_weight_multiplier: Annotated[
        float, about("Instances that build, move or are copied: below 0 prefers nodes with few.")
    ] = -1.0
    num_instances_weight_multiplier: Annotated[
        float, about("How many instances a node has: below 0 prefers nodes with few.")
    ] = 0.0
    build_failure_weight_multiplier: Annotated[
        float, about("How much failed builds speak against a node: above 0 avoids it.")
    ] = 1_000_000.0
    pci_weight_multiplier: Annotated[
        float, about("How much is done to keep free PCI devices for machines that want some.", ge=0)
    ] = 1.0
    metrics_weight_multiplier: Annotated[
        float, about("The host metrics below, added up (Nova's `[metrics] weight_multiplier`).")
    ] = 1.0
    metrics_weight_setting: Annotated[
        Mapping[str, float],
        about(
            "How much of each metric counts: a table, or Nova's text form `name=1.0, name2=-1.0` "
            "(Nova's `[metrics] weight_setting`)."
        ),
    ] = {}
    metrics_weight_of_unavailable: Annotated[
        float, about("What counts instead on a node that lacks one of them (Nova's `[metrics] weight_of_unavailable`).")
    ] = -10_000.0


class NotificationsSection(Section, frozen=True, kw_only=True):
    """A message bus that is told of metrics and changes; see [notifications](notifications.md)."""

    transport_url: Annotated[
        str | None,
        about(
            "The message bus, in oslo.messaging's form: `rabbit://user:password@host:5672/vhost`; unset sends nothing.",
            hide="url",
        ),
    ] = None
    notification_format: Annotated[
        Literal["unversioned", "versioned", "both"], about("Which of Nova's two forms is sent.")
    ] = "unversioned"
    topics: Annotated[tuple[str, ...], about("Where unversioned notifications go.")] = ("notifications",)
    versioned_notifications_topics: Annotated[tuple[str, ...], about("Where versioned notifications go.")] = (
        "versioned_notifications",
    )
    control_exchange: Annotated[str, about("The exchange that consumers listen to; Nova's unless set.")] = "nova"
    publisher_id: Annotated[
        str | None, about("Who the sender says it is.", default="`stocktake-agent:` and `host`")
    ] = None


class ServerSection(Section, frozen=True, kw_only=True):
    """The fleet's front: where `stocktake serve` listens, and what it allows."""

    listen: Annotated[str, about("Where `serve` listens: an address and a port, such as `0.0.0.0:8790`.")] = (
        "127.0.0.1:8790"
    )
    url: Annotated[
        str | None,
        about(
            "Where commands find the fleet, such as `https://stocktake.example.org`; unset, they open the ledger "
            "themselves.",
            hide="url",
        ),
    ] = None
    token: Annotated[
        str | None, about("What is sent to the server: a token of `stocktake token create`.", hide="secret")
    ] = None
    cafile: Annotated[
        Path | None,
        about("The certificate (PEM) that its clients check its certificate with; unset takes the usual authorities."),
    ] = None
    tls_cert: Annotated[
        Path | None, about("The certificate and its chain (PEM); read again on SIGHUP and when the file changes.")
    ] = None
    tls_key: Annotated[Path | None, about("Its key (PEM); unset looks for it in `tls_cert`.")] = None
    allow_insecure: Annotated[
        bool,
        about(
            "Allow connections without TLS outside loopback, as server and as client: something else encrypts, or "
            "the network is trusted."
        ),
    ] = False
    request_bytes_max: Annotated[int, about("The largest body of a request.", unit="bytes", gt=0, le=2**30)] = (
        4 * 1024 * 1024
    )
    request_timeout_s: Annotated[float, about("How long an answer may take.", unit="s", gt=0, le=3600)] = 30.0
    rate_per_s: Annotated[
        float,
        about(
            "Requests that one token (without one: one address) may make; 0 is any number.",
            unit="1/s",
            ge=0,
            le=LARGEST,
        ),
    ] = 200.0
    threads: Annotated[int, about("How many requests run at once.", ge=1, le=200)] = 16
    connections_max: Annotated[
        int,
        about(
            "How many connections may be open, streams among them; 0, and any number above it, is as many as the "
            "process may have files open (`LimitNOFILE`), less some for its own.",
            ge=0,
            le=1_000_000,
        ),
    ] = 0
    connections_per_client_max: Annotated[
        int,
        about(
            "How many connections one address may have open (this machine's own, where a proxy may be, any number), "
            "and how many requests, streams among them, one token at once; never more than a quarter of all.",
            ge=1,
            le=1_000_000,
        ),
    ] = 100
    shutdown_s: Annotated[
        float, about("How long running requests may continue once it is told to stop.", unit="s", ge=0, le=3600)
    ] = 10.0


class HistorySection(Section, frozen=True, kw_only=True):
    """What is remembered of nodes' figures, for plots; the agent drops what is older."""

    interval_s: Annotated[
        int, about("The shortest time between two rows of a node; 0 keeps no history.", unit="s", ge=0, le=86400)
    ] = 300
    full_days: Annotated[int, about("How long every row is kept.", unit="days", ge=0, le=3650)] = 1
    hourly_days: Annotated[int, about("How long the last row of each hour is kept.", unit="days", ge=0, le=3650)] = 30
    daily_days: Annotated[int, about("How long the last row of each day is kept.", unit="days", ge=0, le=3650)] = 365


class LogSection(Section, frozen=True, kw_only=True):
    """What is written to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], about("The least severe message that is logged.")
    ] = "info"
    json: Annotated[bool, about("One JSON object a line, for machines.")] = False


class MetricsSection(Section, frozen=True, kw_only=True):
    """What the agent shows over HTTP: `/metrics` for Prometheus and `/healthz`."""

    listen: Annotated[
        str,
        about(
            "Where, as `address:port`; port 0 takes a free one and logs it. Empty shows nothing. There is no password "
            "and no encryption: whoever reaches it sees the figures."
        ),
    ] = "127.0.0.1:9809"
    healthy_within_s: Annotated[
        float,
        about(
            "`/healthz` says 503 if no pass has completed for so long; 0 is three times update_resources_interval, at "
            "least 180.",
            unit="s",
            ge=0,
            le=LARGEST,
        ),
    ] = 0.0


Ratio = float | None


class Settings(Section, frozen=True, kw_only=True):
    """
    All settings. Made by `read_settings`; `origins` says where each value came from, by dotted name.
    """

    host: Annotated[str, about("This service's name in the ledger.", default="the machine's host name", max_length=255)]
    machine_id: Annotated[
        str | None,
        about(
            "What tells this machine from others of its name, such as a container's volume: any text that stays. Unset "
            "takes `/etc/machine-id`, or the hardware's id. Only a digest of it is kept."
        ),
    ] = None
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
            "How often the agent makes a pass; 0 is the default of 60, negative turns it off.",
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
    report_interval: Annotated[
        int, about("How often the agent reports that it is alive.", unit="s", gt=0, le=LARGEST)
    ] = 10
    service_down_time: Annotated[
        int, about("After how long a silent agent counts as down.", unit="s", gt=0, le=LARGEST)
    ] = 60
    reserved_host_memory_mb: Annotated[int, about("Memory reserved for the host.", unit="MiB", ge=0, le=LARGEST)] = 512
    reserved_host_cpus: Annotated[int, about("CPUs reserved for the host.", unit="CPUs", ge=0, le=65535)] = 0
    reserved_host_disk_mb: Annotated[int, about("Disk reserved for the host.", unit="MiB", ge=0, le=LARGEST)] = 0
    cpu_allocation_ratio: Annotated[
        Ratio, about("How many vCPUs may be allocated per CPU; 0 or unset leaves a node's ratio alone.")
    ] = None
    ram_allocation_ratio: Annotated[
        Ratio, about("How many times memory may be allocated; 0 or unset leaves a node's ratio alone.")
    ] = None
    disk_allocation_ratio: Annotated[
        Ratio, about("How many times disk may be allocated; 0 or unset leaves a node's ratio alone.")
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
            "Huge pages reserved for the host: tables of `node`, `size` (KiB, or text such as `1GB`) and `count`, or "
            "Nova's text form `node:0,size:2048,count:64`."
        ),
    ] = ()
    compute_monitors: Annotated[
        tuple[str, ...], about("Which host metrics are read with every pass: `cpu` (Nova's `cpu.virt_driver` too).")
    ] = ()
    adopt: Annotated[
        Literal["manual", "auto"],
        about("`auto` makes instances of unmanaged guests; for hosts whose instances are recorded nowhere else."),
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
            "After how long a claim that was not settled is released, by the next refresh; commands that run under a "
            "claim renew it while they run.",
            unit="s",
            gt=0,
            le=LARGEST,
        ),
    ] = 600.0
    provider_config_location: Annotated[
        Path, about("The directory of provider.yaml files; one that does not exist has none.")
    ] = Path("/etc/stocktake/provider_config")
    orphan_node_share_max: Annotated[
        float,
        about(
            "If the driver stops reporting more than this share of the nodes at once, they are deleted only after a "
            "second pass says the same.",
            ge=0,
            le=1,
        ),
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
    database: DatabaseSection
    placement: PlacementSection
    pci: PciSection = PciSection()
    libvirt: LibvirtSection = LibvirtSection()
    ironic: IronicSection = IronicSection()
    fake: FakeSection = FakeSection()
    filter_scheduler: FilterSchedulerSection = FilterSchedulerSection()
    server: ServerSection = ServerSection()
    history: HistorySection = HistorySection()
    log: LogSection = LogSection()
    metrics: MetricsSection = MetricsSection()
    notifications: NotificationsSection = NotificationsSection()
    origins: Mapping[str, str] = {}

    @property
    def refresh_interval_s(self) -> float | None:
        """Give the time between passes in seconds; None if the periodic pass is off."""
        if self.update_resources_interval < 0:
            return None
        return float(self.update_resources_interval or DEFAULT_INTERVAL_S)


# What an update_resources_interval of 0 means, in Nova as here.
DEFAULT_INTERVAL_S = 60
