"""What may happen to the world, one thing at a time; each says what it did."""

from collections.abc import Callable, Mapping
from typing import Any

from stocktake.accounting.lifecycle import MoveKind
from stocktake.accounting.orphans import adopted
from stocktake.claims import Claimed, Claims, Refused, Request
from stocktake.claims.claims import NEVER_S
from stocktake.drivers.fake import FakeDriver
from stocktake.drivers.fake.fleet import GPU
from stocktake.errors import AlreadyThere, InvalidInput, NotFound, StocktakeError
from stocktake.ledger import NodeSave
from stocktake.model.books import Tally
from stocktake.model.fitting import Limits
from stocktake.model.pci import PciRecord
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration, MigrationContext
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.sim.oracle import THEIRS
from tests.sim.world import At, World

Event = Callable[[World], str]


class Nothing(str):
    """Why nothing happened."""

    __slots__ = ()


class Refusal(str):
    """What was asked for, and why it was refused; nothing else happened."""

    __slots__ = ()


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
        return Nothing("no node to start a guest on")
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
        return Nothing("no guest to end")
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
        return Nothing("no node for an instance")
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
        return Nothing("no instance to change")
    changed = replace(instance, vm_state=world.dice.pick(_STATES), task_state=world.dice.pick(_TASKS))
    at = world.any_node()
    if at is not None and world.dice.below(5) == 0 and not is_allocated(world, instance.uuid):
        changed = replace(changed, host=at.service.host, node=at.node)
    world.ledger.change_instances([changed])
    return f"instance {instance.uuid} is {changed.vm_state} {changed.task_state} on {changed.node}"


def is_allocated(world: World, uuid: str) -> bool:
    return any(uuid in consumers for consumers in world.held.values())


def an_instance_goes(world: World) -> str:
    """Its row stays, deleted."""
    instance = world.any_instance()
    if instance is None:
        return Nothing("no instance to delete")
    world.ledger.delete_instances([instance.uuid])
    return f"instance {instance.uuid} goes from {instance.node}"


def an_instance_moves(world: World) -> str:
    """A migration in any state, with or without a context, which may name another one."""
    instance, source, dest = world.any_instance(), world.any_node(), world.any_node()
    if instance is None or source is None or dest is None:
        return Nothing("nothing to move")
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
    world.ledger.change_instances([moving])
    world.ledger.put_migrations([migration])
    return f"instance {instance.uuid} moves to {dest.node} by migration {number} ({migration.status})"


def a_device_is_claimed(world: World) -> str:
    """An instance claims a free device of its node, as a claim does: devices and generation in one save."""
    at = world.any_node()
    if at is None:
        return Nothing("no node to claim of")
    ledger = at.service.context.ledger
    work = ledger.work(at.service.host, (at.node,), {})[at.node]
    free = [record for record in work.pci_devices if record.status == "available"]
    if work.record is None or not free or not work.instances:
        return Nothing(f"nothing to claim on {at.node}")
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
        return Nothing("no machine is left")
    name, node = found
    service = world.any_service()
    service.fleet.nodes[name] = node
    service.fleet.write()
    return f"node {name} comes to {service.host}"


def a_node_goes(world: World) -> str:
    """It is unracked, moves to the other service with all it runs, or is only not listed any more."""
    at = world.any_node()
    if at is None:
        return Nothing("no node to go")
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
        return Nothing("no machine to change")
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
            return Nothing(f"{at.node} has no devices")
    at.here["resources"] = changed
    at.service.fleet.write()
    return f"the machine {at.node} changes"


def a_service_is_switched(world: World) -> str:
    """An operator disables it, or enables it."""
    service = world.any_service()
    row = service.context.ledger.service(service.host)
    if row is None:
        return Nothing(f"{service.host} is not registered yet")
    service.context.ledger.set_service(service.host, disabled=not row.disabled, reason=None if row.disabled else "sim")
    return f"{service.host} is {'enabled' if row.disabled else 'disabled'}"


def a_service_restarts(world: World) -> str:
    """What it remembered is gone."""
    service = world.any_service()
    service.restart()
    return f"{service.host} restarts"


def somebody_allocates(world: World) -> str:
    """A scheduler gives an instance its share, or an unknown consumer a node's or a device's."""
    if world.faulty:
        return Nothing("nobody allocates while Placement may be away")
    at = world.any_node()
    providers = world.placement()
    if at is None or at.node not in providers:
        return Nothing("nothing to allocate of")
    root = providers[at.node].uuid
    provider = world.dice.pick(sorted((one for one in providers.values() if one.root_uuid == root), key=str))
    name = provider.name
    kinds = [kind for kind in sorted(provider.inventories) if kind == "VCPU" or name != at.node]
    free = {kind: 1 for kind in kinds if provider.free(kind) >= 1}
    if not free or (name != at.node and provider.allocations):
        return Nothing(f"{name} is taken")
    instances = [
        one.uuid
        for one in at.service.context.ledger.instances(host=at.service.host, node=at.node)
        if not world.own and not is_allocated(world, one.uuid)
    ]
    consumer = world.dice.pick([*instances, world.dice.uuid()]) if name == at.node else world.dice.uuid()
    world.there.allocate(consumer, {name: free})
    world.held.setdefault(name, set()).add(consumer)
    return f"{consumer} is given {free} of {name}"


def an_operator_adds_a_trait(world: World) -> str:
    """It is his, and stays."""
    at = world.any_node()
    if world.faulty or at is None or at.node not in world.placement():
        return Nothing("nothing to add a trait to")
    world.there.write("PUT", f"/traits/{THEIRS}")
    path = f"/resource_providers/{world.placement()[at.node].uuid}/traits"
    answer = world.there.get(path)
    generation = answer["resource_provider_generation"]
    body = {"traits": sorted({*answer["traits"], THEIRS}), "resource_provider_generation": generation}
    world.there.write("PUT", path, body)
    return f"somebody puts {THEIRS} on {at.node}"


def a_driver_fails(world: World) -> str:
    """For one node, or for the list of them."""
    at = world.any_node()
    if at is None:
        return Nothing("no node to fail")
    world.faulty = True
    if world.dice.below(4) == 0:
        at.service.fleet.listing = {"raise": world.dice.pick(("DriverError", "DriverUnreachable"))}
        at.service.fleet.write()
        return f"{at.service.host} can not list its nodes"
    at.here["fault"] = dict(world.dice.pick(_FAULTS))
    at.service.fleet.write()
    return f"{at.node} fails: {at.here['fault']}"


def placement_refuses(world: World) -> str:
    """Some requests are refused, for a while or for ever."""
    status, code = world.dice.pick(((500, ""), (503, ""), (409, "placement.concurrent_update")))
    return _misbehaves(world, "answer", status, code)


def placement_cuts_answers_short(world: World) -> str:
    """Connections end before an answer is whole; nothing was done."""
    return _misbehaves(world, "close")


def placement_loses_answers(world: World) -> str:
    """What was asked is done, and nobody is told."""
    return _misbehaves(world, "lose")


def placement_stalls(world: World) -> str:
    """What was asked is done, and no answer comes in time."""
    for service in world.services.values():
        service.impatient = True
        service.restart()
    return _misbehaves(world, "stall")


def _misbehaves(world: World, how: str, status: int = 0, code: str = "") -> str:
    method, path = world.dice.pick(
        (("GET", "/"), ("PUT", "/inventories"), ("PUT", "/traits"), ("PUT", "/allocations"), ("POST", "/"), ("*", "/"))
    )
    times = world.dice.pick((1, 2, None))
    world.server.misbehave(method, path, status=status, code=code, how=how, times=times, skip=world.dice.below(4))
    world.faulty = True
    return f"Placement: {method} {path}: {how} {status or ''}, {times or 'for ever'}"


def the_ledger_fails(world: World) -> str:
    """It is locked, or refuses saves."""
    if world.dice.below(2):
        world.refuse_saves()
        return "the ledger refuses saves"
    world.lock_ledger()
    return "the ledger is locked"


# Claims: who asks for them knows nothing of what else happens, and may be refused.


def a_flavor_to_claim(world: World) -> Flavor:
    """Draw sizes; some are to be pinned, some want a device."""
    asks: Mapping[str, str] = world.dice.pick(
        ({}, {}, {"hw:cpu_policy": "dedicated"}, {"hw:numa_nodes": "1"}, {"pci_passthrough:alias": "gpu:1"})
    )
    return replace(world.a_flavor(), extra_specs=asks)


def an_expiry(world: World) -> float | None:
    """Draw how long a claim lives: a refresh or two, some days, for ever, or what is set."""
    return world.dice.pick((600.0, 86_400.0 * 3, NEVER_S, None))


def asked_for(world: World, what: str, ask: Callable[[Claims], Claimed | Refused]) -> str:
    """Ask for something of claims; a refusal for its reasons is an answer, a failure is one while something fails."""
    context = world.any_service().context
    try:
        done = ask(world.claims(context))
    except (NotFound, InvalidInput, AlreadyThere) as error:
        return Refusal(f"{what}: {error.what}")
    except StocktakeError as error:
        if not world.faulty:
            raise
        return f"{what}: {error.code}: {error.what}"
    if isinstance(done, Refused):
        return Refusal(f"{what}: refused by {done.by}: {done.reasons[0].text}")
    return f"{what}: {done.instance.vm_state} {done.instance.task_state} on {done.instance.node}"


def known_node(world: World) -> At | None:
    """Draw a node that has a record."""
    at = world.any_node()
    return at if at is not None and any(row.hypervisor_hostname == at.node for row in world.ledger.nodes()) else None


def a_claimed(world: World) -> Instance | None:
    """Draw an instance whose claim is pending, of a build or of a move; else any."""
    moving = {move.instance_uuid for move in world.ledger.migrations() if move.claim_expires_at is not None}
    instances = world.ledger.instances()
    pending = [one for one in instances if one.claim_expires_at is not None or one.uuid in moving]
    return world.dice.pick(pending or instances) if instances else None


def a_claim(world: World) -> str:
    """Room for a machine that is to be built."""
    at = known_node(world)
    if at is None:
        return Nothing("no node to claim room on")
    request = Request(flavor=a_flavor_to_claim(world), uuid=world.dice.uuid(), volume_backed=world.dice.below(4) == 0)
    limits = Limits(vcpus=12, memory_mb=16_384, disk_gb=200) if world.dice.below(2) else None
    expires_s = an_expiry(world)
    what = f"claim {request.uuid} on {at.node}"
    return asked_for(world, what, lambda claims: claims.build(at.node, request, limits=limits, expires_s=expires_s))


def a_claim_again(world: World) -> str:
    """Of a uuid that there is already: the answer was lost. There is one promise, whatever is answered."""
    instance, at = a_claimed(world), known_node(world)
    if instance is None or at is None:
        return Nothing("nothing was claimed yet")
    before = len(world.ledger.instances())
    request = Request(flavor=instance.flavor, uuid=instance.uuid)
    node = instance.node if instance.node in {row.hypervisor_hostname for row in world.ledger.nodes()} else at.node
    said = asked_for(world, f"claim {instance.uuid} again", lambda claims: claims.build(str(node), request))
    assert len(world.ledger.instances()) == before
    return said


def a_claim_is_kept(world: World) -> str:
    """Its machine is there."""
    instance = a_claimed(world)
    if instance is None:
        return Nothing("no claim to keep")
    return asked_for(world, f"keep {instance.uuid}", lambda claims: claims.keep(instance.uuid))


def a_claim_is_renewed(world: World) -> str:
    """It takes longer."""
    instance = a_claimed(world)
    if instance is None:
        return Nothing("no claim to renew")
    expires_s = an_expiry(world)
    return asked_for(world, f"renew {instance.uuid}", lambda claims: claims.renew(instance.uuid, expires_s=expires_s))


def a_claim_is_aborted(world: World) -> str:
    """It is given back before it is settled."""
    instance = a_claimed(world)
    if instance is None:
        return Nothing("no claim to abort")
    return asked_for(world, f"abort {instance.uuid}", lambda claims: claims.abort(instance.uuid))


def a_move(world: World) -> str:
    """Room at the destination of a move, of any kind."""
    at = known_node(world)
    instances = world.ledger.instances()
    ready = [one for one in instances if one.vm_state in ("active", "stopped") and one.task_state is None]
    if at is None or not instances:
        return Nothing("nothing to move")
    instance = world.dice.pick(ready or instances)
    kind: MoveKind = world.dice.pick(("resize", "resize", "migration", "live-migration", "evacuation"))
    flavor = a_flavor_to_claim(world) if kind == "resize" else None
    expires_s = an_expiry(world)
    return asked_for(
        world,
        f"{kind} of {instance.uuid} to {at.node}",
        lambda claims: claims.move(instance.uuid, kind, at.node, flavor=flavor, expires_s=expires_s),
    )


def a_move_is_finished(world: World) -> str:
    """The machine is at its destination."""
    moving = {move.instance_uuid for move in world.ledger.migrations() if move.claim_expires_at is not None}
    uuids = sorted(moving) or [one.uuid for one in world.ledger.instances()]
    if not uuids:
        return Nothing("no move to finish")
    uuid = world.dice.pick(uuids)
    return asked_for(world, f"finish {uuid}", lambda claims: claims.finish(uuid))


def a_move_is_settled(world: World) -> str:
    """A finished one is confirmed or reverted."""
    instances = world.ledger.instances()
    resized = [one for one in instances if one.vm_state == "resized"]
    if not instances:
        return Nothing("no move to settle")
    uuid, how = world.dice.pick(resized or instances).uuid, world.dice.pick(("confirm", "revert"))
    return asked_for(world, f"{how} {uuid}", lambda claims: getattr(claims, how)(uuid))


def a_release(world: World) -> str:
    """An instance is released, whatever its state."""
    instance = world.any_instance()
    if instance is None:
        return Nothing("nothing to release")
    return asked_for(world, f"release {instance.uuid}", lambda claims: claims.release(instance.uuid))


def a_release_again(world: World) -> str:
    """Of what was released before: there is nothing, and nothing changes."""
    gone = [one for one in world.ledger.instances(deleted=True) if one.deleted]
    if not gone:
        return Nothing("nothing was released yet")
    uuid = world.dice.pick(gone).uuid
    before = len(world.ledger.instances())
    said = asked_for(world, f"release {uuid} again", lambda claims: claims.release(uuid))
    assert isinstance(said, Refusal) or world.faulty, said
    assert len(world.ledger.instances()) == before
    return said


def a_machine_is_shelved(world: World) -> str:
    """It goes to somewhere else's storage, as who shelves it writes it."""
    settled = [one for one in world.ledger.instances() if one.vm_state == "active" and one.task_state is None]
    if not settled:
        return Nothing("nothing to shelve")
    instance = world.dice.pick(settled)
    gone = replace(instance, host=None, node=None, vm_state="shelved_offloaded", numa_topology=None)
    world.ledger.change_instances([gone])
    return f"instance {instance.uuid} is shelved"


def an_unshelve(world: World) -> str:
    """Room for a machine that was shelved."""
    at = known_node(world)
    shelved = [one for one in world.ledger.instances() if one.vm_state == "shelved_offloaded"]
    if at is None or not shelved:
        return Nothing("nothing to unshelve")
    uuid, expires_s = world.dice.pick(shelved).uuid, an_expiry(world)
    return asked_for(
        world, f"unshelve {uuid} on {at.node}", lambda claims: claims.unshelve(uuid, at.node, expires_s=expires_s)
    )


def a_guest_is_adopted(world: World) -> str:
    """An operator makes an instance of a running guest that no instance stands for."""
    known = {one.uuid for one in world.ledger.instances(deleted=True)}
    found = [
        (At(service, name), guest["uuid"])
        for service in world.services.values()
        for name, node in service.fleet.nodes.items()
        for guest in node["guests"]
        if guest["active"] and guest["uuid"] not in known and node.get("listed", True) and "fault" not in node
    ]
    if not found:
        return Nothing("no guest to adopt")
    at, uuid = world.dice.pick(found)
    driver = at.service.context.driver
    assert isinstance(driver, FakeDriver)
    survey = driver.survey((at.node,))[at.node]
    if isinstance(survey, StocktakeError):
        return Nothing("the guest can't be read")
    (guest,) = (one for one in survey.guests or () if one.uuid == uuid)
    world.ledger.put_instances([adopted(guest, host=at.service.host, node=at.node, now=world.clock.now())])
    return f"guest {uuid} of {at.node} is adopted"


def a_guest_of_a_claim_starts(world: World) -> str:
    """The machine of a pending claim runs, where it was claimed."""
    uuids = {one.uuid: one for one in world.ledger.instances() if one.claim_expires_at is not None}
    found = [
        (At(service, name), uuid)
        for service in world.services.values()
        for name, node in service.fleet.nodes.items()
        for uuid, one in uuids.items()
        if one.node == name and uuid not in {guest["uuid"] for guest in node["guests"]}
    ]
    if not found:
        return Nothing("no claim whose guest could start")
    at, uuid = world.dice.pick(found)
    at.here["guests"] = [*at.here["guests"], world.a_guest_of(at, uuid, uuids[uuid].flavor)]
    at.service.fleet.write()
    return f"guest {uuid} of a claim starts on {at.node}"


# Kills: of a process that is in the middle of something.


def an_agent_is_killed(world: World) -> str:
    """With -9, in the middle of a pass; it starts again."""
    service, full = world.any_service(), world.dice.below(5) == 0
    world.time_passes()

    def passes(context: Context) -> None:
        refresh(context, full=full)

    ended = world.kill(service, passes, world.dice.below(world.dice.pick((10, 40, 160))))
    service.restart()
    return f"{service.host} refreshes, {ended}"


def a_claimer_is_killed(world: World) -> str:
    """With -9, in the middle of a claim, a move, or a step of one."""
    at, instances = known_node(world), world.ledger.instances()
    if at is None:
        return Nothing("no node to claim room on")
    request = Request(flavor=a_flavor_to_claim(world), uuid=world.dice.uuid())
    uuid = world.dice.pick(instances).uuid if instances else world.dice.uuid()
    steps: Mapping[str, Callable[[Claims], object]] = {
        "build": lambda claims: claims.build(at.node, request, expires_s=600.0),
        "migration": lambda claims: claims.move(uuid, "migration", at.node, expires_s=600.0),
        "finish": lambda claims: claims.finish(uuid),
        "confirm": lambda claims: claims.confirm(uuid),
        "revert": lambda claims: claims.revert(uuid),
        "abort": lambda claims: claims.abort(uuid),
        "release": lambda claims: claims.release(uuid),
    }
    name = world.dice.pick(("build", "build", *steps))

    def claims(context: Context) -> None:
        try:
            steps[name](world.claims(context))
        except (NotFound, InvalidInput):
            return

    ended = world.kill(at.service, claims, world.dice.below(40))
    return f"{name} of {request.uuid if name == 'build' else uuid}, {ended}"


def the_ledger_is_carried_over(world: World) -> str:
    """Exported, imported elsewhere, and used there from now on."""
    if world.faulty:
        return Nothing("nobody moves a ledger that is in trouble")
    world.carry_over()
    return "the ledger is carried over"


# How often each is drawn among the others.
LIFE: Mapping[Event, int] = {
    starts_a_guest: 2,
    a_guest_ends: 2,
    an_instance_comes: 3,
    an_instance_changes: 1,
    an_instance_goes: 1,
    an_instance_moves: 2,
    a_device_is_claimed: 2,
    a_node_comes: 2,
    a_node_goes: 1,
    a_node_is_listed_again: 1,
    a_machine_changes: 1,
    a_service_is_switched: 1,
    a_service_restarts: 1,
    somebody_allocates: 2,
    an_operator_adds_a_trait: 1,
    a_claim: 6,
    a_claim_again: 1,
    a_claim_is_kept: 4,
    a_claim_is_renewed: 1,
    a_claim_is_aborted: 1,
    a_move: 6,
    a_move_is_finished: 4,
    a_move_is_settled: 3,
    a_release: 2,
    a_release_again: 1,
    a_machine_is_shelved: 1,
    an_unshelve: 2,
    a_guest_is_adopted: 1,
    a_guest_of_a_claim_starts: 2,
    an_agent_is_killed: 3,
    a_claimer_is_killed: 3,
    the_ledger_is_carried_over: 1,
}
TROUBLE: Mapping[Event, int] = {
    a_driver_fails: 4,
    placement_refuses: 4,
    placement_cuts_answers_short: 1,
    placement_loses_answers: 3,
    placement_stalls: 1,
    the_ledger_fails: 2,
}
