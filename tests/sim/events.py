"""What may happen to the world, one thing at a time; each says what it did."""

from collections.abc import Callable, Mapping
from typing import Any

from stocktake.drivers.fake.fleet import GPU
from stocktake.ledger import NodeSave
from stocktake.model.books import Tally
from stocktake.model.pci import PciRecord
from stocktake.model.value import replace
from stocktake.model.workload import Instance, Migration, MigrationContext
from tests.sim.world import THEIRS, World

Event = Callable[[World], str]

_STATES = ("active", "active", "stopped", "building", "error", "shelved", "shelved_offloaded", "resized", "deleted")
_TASKS = (None, None, None, "migrating", "resize_migrating", "resize_finish", "spawning", "rebuilding")
_MOVES = ("resize", "resize", "migration", "live-migration", "evacuation", None)
_STATUSES = ("migrating", "finished", "error", "post-migrating", "done", "confirmed", "reverted", None)
_FAULTS: tuple[Mapping[str, Any], ...] = (
    {"raise": "DriverError"},
    {"raise": "DriverUnreachable"},
    {"lie": {"memory_mb": -1}},
    {"lie": {"vcpus": "many"}},
    {"omit": ["local_gb"]},
)


def starts_a_guest(world: World) -> str:
    """Nobody promised it; it may have a device."""
    at = world.any_node()
    if at is None:
        return "no node to start a guest on"
    uuid = world.dice.uuid()
    guest = world.a_guest_of(at, uuid, world.a_flavor())
    devices = [device for device in at.here["resources"]["pci_passthrough_devices"] if device["vendor_id"] == GPU[0]]
    if devices and world.dice.below(2):
        guest["pci_addresses"] = [world.dice.pick(devices)["address"]]
    at.here["guests"] = [*at.here["guests"], guest]
    at.service.fleet.write()
    return f"guest {uuid} starts on {at.node}"


def a_guest_ends(world: World) -> str:
    """It stops, or it is undefined."""
    at = world.any_node()
    if at is None or not at.here["guests"]:
        return "no guest to end"
    guest = world.dice.pick(at.here["guests"])
    rest = [one for one in at.here["guests"] if one is not guest]
    stopped = {**guest, "active": False, "state": "shutoff"}
    undefined = world.dice.below(2) == 0
    at.here["guests"] = rest if undefined else [*rest, stopped]
    at.service.fleet.write()
    return f"guest {guest['uuid']} {'goes' if undefined else 'stops'} on {at.node}"


def an_instance_comes(world: World) -> str:
    """A promise, mostly with its guest; sometimes the guest runs on another node."""
    at = world.any_node()
    if at is None:
        return "no node for an instance"
    uuid, flavor = world.dice.uuid(), world.a_flavor()
    instance = Instance(
        uuid=uuid,
        name=f"i{world.number()}",
        host=at.service.host,
        node=at.node,
        vm_state=world.dice.pick(_STATES),
        task_state=world.dice.pick(_TASKS),
        project_id=world.dice.pick(("p", "q")),
        flavor=flavor,
        instance_type_id=1,
        numa_topology=world.a_topology(at, flavor),
        volume_backed=world.dice.below(4) == 0,
        created_at=world.clock.now(),
    )
    at.service.context.ledger.put_instances([instance])
    where = world.any_node() if world.dice.below(6) == 0 else at
    if where is not None and world.dice.below(5):
        where.here["guests"] = [*where.here["guests"], world.a_guest_of(where, uuid, flavor)]
        where.service.fleet.write()
    return f"instance {uuid} comes to {at.node}"


def an_instance_changes(world: World) -> str:
    """Another state, or another place."""
    instance = world.any_instance()
    if instance is None:
        return "no instance to change"
    changed = replace(instance, vm_state=world.dice.pick(_STATES), task_state=world.dice.pick(_TASKS))
    at = world.any_node()
    if at is not None and world.dice.below(5) == 0 and not is_allocated(world, instance.uuid):
        changed = replace(changed, host=at.service.host, node=at.node)
    world.services["alpha"].context.ledger.change_instances([changed])
    return f"instance {instance.uuid} is {changed.vm_state} {changed.task_state} on {changed.node}"


def is_allocated(world: World, uuid: str) -> bool:
    return any(uuid in consumers for consumers in world.held.values())


def an_instance_goes(world: World) -> str:
    """Its row stays, deleted."""
    instance = world.any_instance()
    if instance is None:
        return "no instance to delete"
    world.services["alpha"].context.ledger.delete_instances([instance.uuid])
    return f"instance {instance.uuid} goes from {instance.node}"


def an_instance_moves(world: World) -> str:
    """A migration in any state, with or without a context, which may name another one."""
    instance, source, dest = world.any_instance(), world.any_node(), world.any_node()
    if instance is None or source is None or dest is None:
        return "nothing to move"
    number = world.number()
    new = world.a_flavor()
    context = None
    if world.dice.below(2):
        context = MigrationContext(
            migration_id=number if world.dice.below(3) else number + 1000,
            old_numa_topology=instance.numa_topology,
            new_numa_topology=world.a_topology(dest, new),
        )
    moving = replace(
        instance,
        vm_state=world.dice.pick(("active", "resized", "active")),
        task_state=world.dice.pick(("migrating", "resize_migrating", "resize_finish", None)),
        old_flavor=instance.flavor if world.dice.below(4) else None,
        new_flavor=new if world.dice.below(4) else None,
        migration_context=context,
    )
    migration = Migration(
        id=number,
        instance_uuid=instance.uuid,
        migration_type=world.dice.pick(_MOVES),
        status=world.dice.pick(_STATUSES),
        source_compute=instance.host if world.dice.below(3) else source.service.host,
        source_node=instance.node if world.dice.below(3) else source.node,
        dest_compute=dest.service.host,
        dest_node=dest.node,
        old_instance_type_id=1,
        new_instance_type_id=world.dice.pick((1, 2, 2)),
        created_at=world.clock.now(),
        updated_at=world.clock.now() if world.dice.below(2) else None,
    )
    ledger = world.services["alpha"].context.ledger
    ledger.change_instances([moving])
    ledger.put_migrations([migration])
    return f"instance {instance.uuid} moves to {dest.node} by migration {number} ({migration.status})"


def a_device_is_claimed(world: World) -> str:
    """An instance claims a free device of its node, as a claim does: devices and generation in one save."""
    at = world.any_node()
    if at is None:
        return "no node to claim of"
    ledger = at.service.context.ledger
    work = ledger.work(at.service.host, (at.node,), {})[at.node]
    free = [record for record in work.pci_devices if record.status == "available"]
    if work.record is None or not free or not work.instances:
        return f"nothing to claim on {at.node}"
    device, holder = world.dice.pick(free), world.dice.pick(work.instances)

    def after(record: PciRecord) -> PciRecord:
        return replace(record, status="claimed", instance_uuid=holder.uuid) if record == device else record

    devices = tuple(after(record) for record in work.pci_devices)
    tally = Tally(node=work.record, entries=ledger.entries(work.record.uuid), pci_devices=devices)
    ledger.save([NodeSave(tally=tally, expected_generation=work.record.generation)])
    return f"instance {holder.uuid} claims {device.address} of {at.node}"


def a_node_comes(world: World) -> str:
    """A machine is racked, or comes back."""
    found = world.a_node()
    if found is None:
        return "no machine is left"
    name, node = found
    service = world.any_service()
    service.fleet.nodes[name] = node
    service.fleet.write()
    return f"node {name} comes to {service.host}"


def a_node_goes(world: World) -> str:
    """It is unracked, moves to the other service with all it runs, or is only not listed any more."""
    at = world.any_node()
    if at is None:
        return "no node to go"
    node = at.service.fleet.nodes.pop(at.node)
    how = world.dice.pick(("vanishes", "moves", "is not listed"))
    if how == "moves":
        (other,) = (service for service in world.services.values() if service is not at.service)
        other.fleet.nodes[at.node] = node
        other.fleet.write()
    if how == "is not listed":
        at.service.fleet.nodes[at.node] = {**node, "listed": False}
    at.service.fleet.write()
    return f"node {at.node} {how} from {at.service.host}"


def a_node_is_listed_again(world: World) -> str:
    """What was not listed is."""
    for service in world.services.values():
        for node in service.fleet.nodes.values():
            node.pop("listed", None)
        service.fleet.write()
    return "all nodes are listed"


def a_machine_changes(world: World) -> str:
    """Memory is added or taken; a device vanishes or comes back."""
    at = world.any_node()
    if at is None:
        return "no machine to change"
    resources = at.here["resources"]
    if world.dice.below(2):
        changed = {**resources, "local_gb": 100 * (1 + world.dice.below(9)), "vcpus": resources["vcpus"]}
        changed["memory_mb"] = resources["memory_mb"] + 1024 * (world.dice.below(5) - 2)
    else:
        devices = list(resources["pci_passthrough_devices"])
        lost = resources.get("lost", [])
        if lost:
            changed = {**resources, "pci_passthrough_devices": [*devices, *lost], "lost": []}
        elif devices:
            gone = world.dice.pick(devices)
            kept = [device for device in devices if device is not gone]
            changed = {**resources, "pci_passthrough_devices": kept, "lost": [gone]}
        else:
            return f"{at.node} has no devices"
    at.here["resources"] = changed
    at.service.fleet.write()
    return f"the machine {at.node} changes"


def a_service_is_switched(world: World) -> str:
    """An operator disables it, or enables it."""
    service = world.any_service()
    row = service.context.ledger.service(service.host)
    if row is None:
        return f"{service.host} is not registered yet"
    service.context.ledger.set_service(service.host, disabled=not row.disabled, reason=None if row.disabled else "sim")
    return f"{service.host} is {'enabled' if row.disabled else 'disabled'}"


def a_service_restarts(world: World) -> str:
    """What it remembered is gone."""
    service = world.any_service()
    service.restart()
    return f"{service.host} restarts"


def somebody_allocates(world: World) -> str:
    """A scheduler gives an instance its share, or a stranger a node's or a device's."""
    if world.faulty:
        return "nobody allocates while Placement may be away"
    at = world.any_node()
    providers = world.there.providers()
    if at is None or at.node not in providers:
        return "nothing to allocate of"
    names = [name for name in providers if name == at.node or name.startswith(f"{at.node}_")]
    name = world.dice.pick(sorted(names))
    free = {
        kind: 1
        for kind, inventory in world.there.inventories(name).items()
        if has_room(world, name, kind, inventory) and (kind == "VCPU" or name != at.node)
    }
    if not free or (name != at.node and world.there.consumers(name)):
        return f"{name} is taken"
    instances = [
        one.uuid
        for one in at.service.context.ledger.instances(host=at.service.host, node=at.node)
        if not world.own and not is_allocated(world, one.uuid)
    ]
    consumer = world.dice.pick([*instances, world.dice.uuid()]) if name == at.node else world.dice.uuid()
    world.there.allocate(consumer, {name: free})
    world.held.setdefault(name, set()).add(consumer)
    return f"{consumer} is given {free} of {name}"


def has_room(world: World, name: str, kind: str, inventory: Mapping[str, float]) -> bool:
    capacity = (inventory["total"] - inventory["reserved"]) * inventory["allocation_ratio"]
    return world.there.usages(name)[kind] < capacity


def an_operator_adds_a_trait(world: World) -> str:
    """It is his, and stays."""
    at = world.any_node()
    if world.faulty or at is None or at.node not in world.there.providers():
        return "nothing to add a trait to"
    world.there.write("PUT", f"/traits/{THEIRS}")
    path = f"/resource_providers/{world.there.providers()[at.node]['uuid']}/traits"
    answer = world.there.get(path)
    generation = answer["resource_provider_generation"]
    body = {"traits": sorted({*answer["traits"], THEIRS}), "resource_provider_generation": generation}
    world.there.write("PUT", path, body)
    return f"somebody puts {THEIRS} on {at.node}"


def a_driver_fails(world: World) -> str:
    """For one node, or for the list of them."""
    at = world.any_node()
    if at is None:
        return "no node to fail"
    world.faulty = True
    if world.dice.below(4) == 0:
        at.service.fleet.listing = {"raise": world.dice.pick(("DriverError", "DriverUnreachable"))}
        at.service.fleet.write()
        return f"{at.service.host} can not list its nodes"
    at.here["fault"] = dict(world.dice.pick(_FAULTS))
    at.service.fleet.write()
    return f"{at.node} fails: {at.here['fault']}"


def placement_fails(world: World) -> str:
    """Some requests are refused, for a while or for ever."""
    method, path = world.dice.pick(
        (("GET", "/"), ("PUT", "/inventories"), ("PUT", "/traits"), ("POST", "/"), ("*", "/"))
    )
    status, code = world.dice.pick(((500, ""), (503, ""), (409, "placement.concurrent_update")))
    how = world.dice.pick(("answer", "answer", "close"))
    times = world.dice.pick((1, 2, None))
    world.server.misbehave(method, path, status=status, code=code, how=how, times=times, skip=world.dice.below(4))
    world.faulty = True
    return f"Placement answers {method} {path} with {status if how == 'answer' else how}, {times or 'for ever'}"


def the_ledger_fails(world: World) -> str:
    """It is locked, or refuses saves."""
    if world.dice.below(2):
        world.refuse_saves()
        return "the ledger refuses saves"
    world.lock_ledger()
    return "the ledger is locked"


LIFE: tuple[Event, ...] = (
    starts_a_guest,
    starts_a_guest,
    a_guest_ends,
    an_instance_comes,
    an_instance_comes,
    an_instance_comes,
    an_instance_changes,
    an_instance_goes,
    an_instance_moves,
    an_instance_moves,
    a_device_is_claimed,
    a_device_is_claimed,
    a_node_comes,
    a_node_comes,
    a_node_goes,
    a_node_is_listed_again,
    a_machine_changes,
    a_service_is_switched,
    a_service_restarts,
    somebody_allocates,
    somebody_allocates,
    an_operator_adds_a_trait,
)
TROUBLE: tuple[Event, ...] = (a_driver_fails, a_driver_fails, placement_fails, placement_fails, the_ledger_fails)
