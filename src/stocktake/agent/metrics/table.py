"""
Every metric: its name, kind, meaning, labels, and where its values come from. Invariant: a metric is written only here.

The scrape, the page docs/reference/metrics.md and the tests of the dashboard and of the alert rules follow from it.
Names follow Prometheus: base units, `_total` for counters, times as seconds since 1970 so that ages are `time() - x`.
"""

from collections.abc import Mapping
from itertools import chain

from stocktake import telemetry
from stocktake.agent.metrics import samples
from stocktake.agent.metrics.health import health
from stocktake.agent.metrics.samples import Metric, counter, counter_by, error_codes, gauge, node_gauge, one

_MIB = 1024**2
_GIB = 1024**3

AGENT = (
    Metric(
        "stocktake_build_info", "info", "Which program this is; always 1.", samples.build, labels=("version", "python")
    ),
    gauge(
        "stocktake_agent_start_time_seconds",
        "When the agent started, in seconds since 1970.",
        lambda view: view.life.started_at_s,
    ),
    gauge(
        "stocktake_agent_healthy",
        "Whether /healthz says 200: passes complete in time, the ledger and the driver are there.",
        lambda view: health(view.life, view.now_s).healthy,
    ),
    Metric(
        "stocktake_part_up",
        "gauge",
        "Whether the driver, the ledger and placement answered when they were asked last.",
        samples.parts,
        labels=("part",),
    ),
    counter_by("code", telemetry.ERRORS, "Errors that the agent met, by their code (errors.md).", error_codes()),
)

PASSES = (
    counter_by(
        "outcome",
        telemetry.PASSES,
        "Passes by how they ended. fine; partial: some nodes could not be refreshed or reported; failed: it broke off.",
    ),
    gauge(
        "stocktake_pass_interval_seconds",
        "The time between passes (update_resources_interval); absent if the periodic pass is off.",
        lambda view: view.life.interval_s,
    ),
    Metric(
        "stocktake_pass_duration_seconds", "histogram", "How long passes took.", one(lambda view: view.counts.passes)
    ),
    Metric(
        "stocktake_pass_step_duration_seconds",
        "histogram",
        "How long the steps of passes took: read, list, audit, verify, tally, save, report.",
        samples.steps,
        labels=("step",),
    ),
    gauge("stocktake_last_pass_duration_seconds", "How long the last pass took.", lambda view: view.life.took_s),
    gauge(
        "stocktake_last_pass_timestamp_seconds",
        "When the last pass ended, however it did, in seconds since 1970.",
        lambda view: view.life.ended_at_s,
    ),
    gauge(
        "stocktake_last_completed_pass_timestamp_seconds",
        "When a pass last went through all its steps, in seconds since 1970.",
        lambda view: view.life.completed_at_s,
    ),
)

EVENTS = (
    counter(telemetry.EVENTS, "Events that the hypervisor sent."),
    counter(telemetry.COALESCED, "Events that asked for a look that was due already."),
    counter(telemetry.CACHE_CHECKS, "Comparisons of what is remembered of the hypervisor with what is so."),
    counter(telemetry.CACHE_LIES, "Remembered things that turned out not to be so: a lost event, or a bug."),
)

WRITES = (
    counter_by(
        "outcome",
        telemetry.REQUESTS,
        "Requests to Placement by how they were answered: ok, conflict (409), refused (any other 4xx), unreachable "
        "(5xx or no answer).",
    ),
    counter(telemetry.SAVES, "Records saved in the ledger."),
    counter(telemetry.CONFLICTS, "Records that somebody else had changed meanwhile, so that they were tallied again."),
    counter(telemetry.DELETED, "Orphan compute nodes that were deleted: the driver no longer reported them."),
)

NODES = (
    Metric(
        "stocktake_node_info",
        "info",
        "Which nodes there are; always 1.",
        samples.node_info,
        labels=("node", "uuid", "hypervisor"),
    ),
    node_gauge(
        "stocktake_node_stale",
        "1 if the last try to refresh the node failed: its figures are older than the last pass.",
        lambda node: node.stale,
    ),
    node_gauge(
        "stocktake_node_refreshed_timestamp_seconds",
        "When this agent last refreshed the node well, in seconds since 1970.",
        lambda node: node.refreshed_at_s,
    ),
    node_gauge(
        "stocktake_node_updated_timestamp_seconds",
        "When the node's record last changed, in seconds since 1970; that of a quiet node is old.",
        lambda node: node.updated_at_s,
    ),
    Metric(
        "stocktake_node_problems",
        "gauge",
        "Problems that the node carries, by code and severity (warning, error).",
        samples.problems,
        labels=("node", "code", "severity"),
    ),
    node_gauge(
        "stocktake_node_running_guests",
        "Guests that run or are paused, as the hypervisor says; absent where it can't list guests.",
        lambda node: node.running_guests,
    ),
    Metric(
        "stocktake_node_holders",
        "gauge",
        "Who holds shares of the node, by kind: instance, migration, orphan, misplaced.",
        samples.holders,
        labels=("node", "kind"),
    ),
)

VCPUS = (
    node_gauge("stocktake_node_vcpus", "CPUs of the node.", lambda node: node.vcpus),
    node_gauge("stocktake_node_vcpus_used", "CPUs in use, reserved ones included.", lambda node: node.vcpus_used),
    node_gauge(
        "stocktake_node_vcpus_free",
        "CPUs less those in use; below 0 where more are sold than there are.",
        lambda node: node.vcpus - node.vcpus_used,
    ),
    node_gauge(
        "stocktake_node_vcpus_reserved",
        "CPUs that are not for guests.",
        lambda node: node.reserved.vcpus if node.reserved else None,
    ),
    node_gauge(
        "stocktake_node_vcpus_allocation_ratio",
        "How many vCPUs are sold per CPU.",
        lambda node: node.cpu_allocation_ratio,
    ),
)

MEMORY = (
    node_gauge("stocktake_node_memory_bytes", "Memory of the node.", lambda node: node.memory_mb * _MIB),
    node_gauge(
        "stocktake_node_memory_used_bytes",
        "Memory in use, what is reserved included.",
        lambda node: node.memory_mb_used * _MIB,
    ),
    node_gauge(
        "stocktake_node_memory_free_bytes",
        "Memory less what is in use; below 0 where more is sold than there is.",
        lambda node: (node.memory_mb - node.memory_mb_used) * _MIB,
    ),
    node_gauge(
        "stocktake_node_memory_reserved_bytes",
        "Memory that is not for guests.",
        lambda node: node.reserved.memory_mb * _MIB if node.reserved else None,
    ),
    node_gauge(
        "stocktake_node_memory_allocation_ratio",
        "How many times memory is sold.",
        lambda node: node.ram_allocation_ratio,
    ),
)

DISK = (
    node_gauge("stocktake_node_disk_bytes", "Disk of the node.", lambda node: node.local_gb * _GIB),
    node_gauge(
        "stocktake_node_disk_used_bytes",
        "Disk in use, what is reserved included.",
        lambda node: node.local_gb_used * _GIB,
    ),
    node_gauge(
        "stocktake_node_disk_free_bytes",
        "Disk less what is in use; below 0 where more is sold than there is.",
        lambda node: (node.local_gb - node.local_gb_used) * _GIB,
    ),
    node_gauge(
        "stocktake_node_disk_reserved_bytes",
        "Disk that is not for guests.",
        lambda node: node.reserved.disk_mb * _MIB if node.reserved else None,
    ),
    node_gauge(
        "stocktake_node_disk_available_least_bytes",
        "Disk that is left if thin images grow to what they may; absent where the driver does not say.",
        lambda node: None if node.disk_available_least is None else node.disk_available_least * _GIB,
    ),
    node_gauge(
        "stocktake_node_disk_allocation_ratio",
        "How many times disk is sold.",
        lambda node: node.disk_allocation_ratio,
    ),
)

GROUPS: Mapping[str, tuple[Metric, ...]] = {
    "The agent": AGENT,
    "Passes": PASSES,
    "Events and what is remembered": EVENTS,
    "Placement and the ledger": WRITES,
    "Nodes": NODES,
    "CPUs": VCPUS,
    "Memory": MEMORY,
    "Disk": DISK,
}

METRICS: Mapping[str, Metric] = {metric.name: metric for metric in chain.from_iterable(GROUPS.values())}

# What prometheus-client itself tells of the process, where there is a /proc.
LIBRARY: Mapping[str, str] = {
    "process_cpu_seconds_total": "CPU time that the agent took.",
    "process_max_fds": "How many files it may have open.",
    "process_open_fds": "How many files it has open.",
    "process_resident_memory_bytes": "Memory that it holds.",
    "process_start_time_seconds": "When its process started, in seconds since 1970.",
    "process_virtual_memory_bytes": "Its address space.",
}
