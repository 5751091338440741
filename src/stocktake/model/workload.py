"""
The promises: what the ledger knows of instances and migrations. Invariant: nothing here was asked of a hypervisor.

Names are Nova's; memory in MiB, disk in GiB, swap in MiB.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated

from msgspec import Meta, field

from stocktake.model.books import ComputeNode
from stocktake.model.pci import PciRecord
from stocktake.model.topology import GuestTopology
from stocktake.model.value import LARGEST, Value

Count = Annotated[int, Meta(ge=0, le=LARGEST)]


class Flavor(Value, frozen=True, kw_only=True):
    """What an instance is given: vCPUs, MiB of memory, GiB of root and ephemeral disk, MiB of swap."""

    id: int | None = None
    name: str | None = None
    vcpus: Count
    memory_mb: Count
    root_gb: Count = 0
    ephemeral_gb: Count = 0
    swap_mb: Count = field(name="swap", default=0)
    extra_specs: Mapping[str, str] = {}


class MigrationContext(Value, frozen=True, kw_only=True):
    """
    What a move changes of an instance: NUMA and PCI, before (`old_`) and after (`new_`).

    Attributes:
        old_vm_state: what the instance was when it began, and is again once it is confirmed or reverted.
    """

    migration_id: int | None = None
    old_numa_topology: GuestTopology | None = None
    new_numa_topology: GuestTopology | None = None
    old_pci_devices: tuple[str, ...] = ()
    new_pci_devices: tuple[str, ...] = ()
    old_resources: Mapping[str, int] | None = None
    new_resources: Mapping[str, int] | None = None
    old_vm_state: str | None = None


class Instance(Value, frozen=True, kw_only=True):
    """
    A machine that the ledger knows; both `host` and `node` say where.

    Attributes:
        pci_devices: addresses of the devices that it holds.
        adopted: made of an unmanaged guest.
        claim_expires_at: when its claim is given back unless somebody settles it; None once it is settled.
        deleted: the record is still there, the machine is not.
    """

    uuid: str
    name: str | None = None
    host: str | None = None
    node: str | None = None
    vm_state: str | None = None
    task_state: str | None = None
    power_state: int | None = None
    project_id: str | None = None
    user_id: str | None = None
    os_type: str | None = None
    flavor: Flavor
    old_flavor: Flavor | None = None
    new_flavor: Flavor | None = None
    instance_type_id: int | None = None
    numa_topology: GuestTopology | None = None
    volume_backed: bool = False
    migration_context: MigrationContext | None = None
    pci_devices: tuple[str, ...] = ()
    adopted: bool = False
    claim_expires_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted_at: datetime | None = None
    deleted: bool = False


class Migration(Value, frozen=True, kw_only=True):
    """
    A move of an instance from a source to a destination, each a (host, node).

    Attributes:
        claim_expires_at: when its claim is given back unless somebody settles it; None once it is settled.
    """

    id: int
    uuid: str | None = None
    instance_uuid: str
    migration_type: str | None = None
    status: str | None = None
    source_compute: str | None = None
    source_node: str | None = None
    dest_compute: str | None = None
    dest_node: str | None = None
    old_instance_type_id: int | None = None
    new_instance_type_id: int | None = None
    claim_expires_at: datetime | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    deleted: bool = False


class Place(Value, frozen=True, kw_only=True):
    """Where the ledger thinks an instance is; `deleted` if it thinks that it is gone."""

    host: str | None
    node: str | None
    deleted: bool


class NodeWork(Value, frozen=True, kw_only=True):
    """
    All that the ledger promises on one node.

    Attributes:
        record: the node's record as last saved; None for a new node.
        instances: those whose host and node are this node, not deleted.
        migrations: those in play (see accounting.migrations) that have this node as source or destination.
        moving: instances that the migrations name, by uuid, deleted ones that are still there included.
        pci_devices: devices as last saved.
        places: where the ledger has guests of the hypervisor that are not among `instances`, by uuid.
        deleted_uuids: deleted instances of this node whose allocations the scheduler may still hold.
    """

    record: ComputeNode | None = None
    instances: tuple[Instance, ...] = ()
    migrations: tuple[Migration, ...] = ()
    moving: Mapping[str, Instance] = {}
    pci_devices: tuple[PciRecord, ...] = ()
    places: Mapping[str, Place] = {}
    deleted_uuids: frozenset[str] = frozenset()


class Service(Value, frozen=True, kw_only=True):
    """
    One agent: a row of `services`, Nova's names.

    Attributes:
        last_seen_up: when the agent last said that it lives.
        version: the agent's program version.
        pool: what tells the nodes that it divides with other services from others'; None if it has its own only.
        machine: a digest of the id of the machine that has this name; None if it never said.
        run: the id of the agent's process that reported last.
    """

    uuid: str
    host: str
    binary: str = "stocktake-agent"
    topic: str = "compute"
    report_count: int = 0
    disabled: bool = False
    disabled_reason: str | None = None
    forced_down: bool = False
    last_seen_up: datetime | None = None
    version: str = ""
    pool: Mapping[str, str] | None = None
    machine: str | None = None
    run: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
