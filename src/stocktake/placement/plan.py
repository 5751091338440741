"""
Step 7b: wanted against found, to the writes that make them agree. Invariant: equal content is no step, and what is
not ours stays.

Pure. Rules of Placement used here: a class that is in use can't be dropped, so it stays with all of it reserved; a
provider that is in use, or has children, can't be deleted.
"""

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet

from stocktake.model.problem import Problem
from stocktake.model.provider import Found, Inventory, Provider, ProviderTree
from stocktake.model.value import Value, replace
from stocktake.placement.desired import child_uuid

# Nova puts it on every provider of its own.
OWNER_NOVA = "OWNER_NOVA"
_CUSTOM = "CUSTOM_"
# Placement keeps ratios as floating-point numbers, single precision in some databases.
_RATIO_TOLERANCE = 1e-6


class CreateClass(Value, frozen=True, kw_only=True, tag=True):
    """Make a custom resource class known."""

    name: str


class CreateTrait(Value, frozen=True, kw_only=True, tag=True):
    """Make a custom trait known."""

    name: str


class CreateProvider(Value, frozen=True, kw_only=True, tag=True):
    """Make a provider, without inventories and traits."""

    uuid: str
    name: str
    parent_uuid: str | None


class RenameProvider(Value, frozen=True, kw_only=True, tag=True):
    """Give a provider its name and its parent."""

    uuid: str
    name: str
    parent_uuid: str | None


class SetInventories(Value, frozen=True, kw_only=True, tag=True):
    """Replace all inventories of a provider whose generation is the one read."""

    uuid: str
    generation: int
    inventories: Mapping[str, Inventory]


class SetTraits(Value, frozen=True, kw_only=True, tag=True):
    """Replace all traits of a provider whose generation is the one read."""

    uuid: str
    generation: int
    traits: frozenset[str]


class DeleteProvider(Value, frozen=True, kw_only=True, tag=True):
    """Delete a provider that holds no allocations and has no children."""

    uuid: str
    name: str


class Foreign(Value, frozen=True, kw_only=True):
    """
    A provider that is not ours to write or delete.

    Attributes:
        trait: the trait that says so; empty if its consumers do.
        consumers: those who hold something of it and that the ledger does not know, in order.
    """

    uuid: str
    name: str
    trait: str = ""
    consumers: tuple[str, ...] = ()


Step = CreateClass | CreateTrait | CreateProvider | RenameProvider | SetInventories | SetTraits | DeleteProvider


class Plan(Value, frozen=True, kw_only=True):
    """
    What to write, in an order that Placement accepts, and what can't be written.

    Attributes:
        kept_classes: classes of ours that are not wanted and still there, as they are in use.
    """

    steps: tuple[Step, ...] = ()
    problems: tuple[Problem, ...] = ()
    kept_classes: frozenset[str] = frozenset()


def plan(wanted: ProviderTree, found: Mapping[str, Found], used: Mapping[str, AbstractSet[str]]) -> Plan:
    """
    Work out the writes that make the scheduler agree.

    Args:
        found: the tree as the scheduler has it, by uuid; empty if it has none.
        used: by provider, the classes that have allocations; needed for the providers of `droppable`.
    """
    tree = settled(wanted, found)
    creates: list[Step] = []
    renames: list[Step] = []
    sets: list[Step] = []
    classes: set[str] = set()
    names: set[str] = set()
    problems: list[Problem] = []
    kept: set[str] = set()
    for provider in tree.providers:
        there = found.get(provider.uuid)
        if there is None:
            creates.append(CreateProvider(uuid=provider.uuid, name=provider.name, parent_uuid=provider.parent_uuid))
            there = Found(uuid=provider.uuid, name=provider.name, parent_uuid=provider.parent_uuid, generation=0)
        parent_uuid = provider.parent_uuid or there.parent_uuid
        if (provider.name, parent_uuid) != (there.name, there.parent_uuid):
            renames.append(RenameProvider(uuid=provider.uuid, name=provider.name, parent_uuid=parent_uuid))
        inventories = _inventories(provider, there, used.get(provider.uuid, frozenset()))
        stuck = (inventories.keys() - provider.inventories.keys()) & provider.own_classes
        problems += [_in_use(name, provider.name) for name in sorted(stuck)]
        kept |= stuck
        if not _same(inventories, there.inventories):
            sets.append(SetInventories(uuid=provider.uuid, generation=there.generation, inventories=inventories))
            classes |= inventories.keys() - there.inventories.keys()
        traits = provider.traits | (there.traits - provider.own_traits)
        if traits != there.traits:
            sets.append(SetTraits(uuid=provider.uuid, generation=there.generation, traits=traits))
            names |= traits - there.traits
    deletes, more = _deletes(tree, found, used)
    sets += [step for step in deletes if isinstance(step, SetInventories)]
    gone = [step for step in deletes if isinstance(step, DeleteProvider)]
    steps = (*_customs(classes, names), *creates, *renames, *sets, *gone)
    return Plan(steps=steps, problems=(*problems, *more), kept_classes=frozenset(kept))


def settled(wanted: ProviderTree, found: Mapping[str, Found]) -> ProviderTree:
    """Give children the uuids under which the scheduler has providers of their names in this tree already."""
    root = wanted.root
    by_name = {there.name: uuid for uuid, there in found.items() if there.parent_uuid == root.uuid}
    if all(by_name.get(child.name, child.uuid) == child.uuid for child in wanted.providers[1:]):
        return wanted
    children = (
        child if child.uuid in found else replace(child, uuid=by_name.get(child.name, child.uuid))
        for child in wanted.providers[1:]
    )
    return ProviderTree(providers=(root, *children))


def adopted(found: Collection[Found]) -> dict[str, str]:
    """Give the uuids of children that others made under our names, by the uuids that we would have given them."""
    there = {one.uuid for one in found}
    named = {child_uuid(one.parent_uuid, one.name): one.uuid for one in found if one.parent_uuid is not None}
    return {ours: theirs for ours, theirs in named.items() if ours not in there}


def foreign(found: Iterable[Found], unknown: Mapping[str, AbstractSet[str]]) -> Foreign | None:
    """
    Find the first provider that is not ours to write, rename, put children under or delete; None if there is none.

    It is not if it has Nova's trait, or if consumers that our ledger does not know hold something of it.

    Args:
        unknown: by provider, the consumers that hold something of it and that the ledger does not know.
    """
    for there in found:
        if OWNER_NOVA in there.traits:
            return Foreign(uuid=there.uuid, name=there.name, trait=OWNER_NOVA)
        if unknown.get(there.uuid):
            return Foreign(uuid=there.uuid, name=there.name, consumers=tuple(sorted(unknown[there.uuid])))
    return None


def written(steps: Iterable[Step], root: str, found: Mapping[str, Found]) -> tuple[Found, ...]:
    """Give the providers that are there and that steps write or delete; the root of each such tree, and first."""
    uuids = {step.uuid for step in steps if not isinstance(step, CreateClass | CreateTrait)}
    return tuple(found[uuid] for uuid in (root, *sorted(uuids - {root})) if uuids and uuid in found)


def undone(steps: Iterable[Step], left: Mapping[str, Found], found: Mapping[str, Found]) -> frozenset[str]:
    """
    Give the uuids of the providers on which steps write what we had left there, and somebody else had changed.

    Args:
        left: what we left of providers.
    """
    again: set[str] = set()
    for step in steps:
        if isinstance(step, CreateClass | CreateTrait | DeleteProvider) or step.uuid not in left:
            continue
        was, there = left[step.uuid], found.get(step.uuid)
        match step:
            case CreateProvider():
                same = True
            case RenameProvider():
                same = there is not None and step.name == was.name != there.name
            case SetInventories():
                same = there is not None and any(
                    step.inventories.get(name) == was.inventories.get(name)
                    for name in was.inventories.keys() | there.inventories.keys()
                    if was.inventories.get(name) != there.inventories.get(name)
                )
            case SetTraits():
                same = there is not None and bool((was.traits ^ there.traits) & (step.traits ^ there.traits))
        if same:
            again.add(step.uuid)
    return frozenset(again)


def ours(wanted: ProviderTree, found: Mapping[str, Found]) -> frozenset[str]:
    """Give the uuids whose content matters: the wanted providers and the children that we made before."""
    tree = settled(wanted, found)
    return frozenset(provider.uuid for provider in tree.providers) | {there.uuid for there in _leftover(tree, found)}


def droppable(wanted: ProviderTree, found: Mapping[str, Found]) -> frozenset[str]:
    """Give the uuids of the providers that lose a class or go: whether they can depends on their use."""
    tree = settled(wanted, found)
    losing = {
        provider.uuid
        for provider in tree.providers
        if provider.uuid in found
        and found[provider.uuid].inventories.keys() & (provider.own_classes - provider.inventories.keys())
    }
    return frozenset(losing | {there.uuid for there in _leftover(tree, found)})


def _inventories(provider: Provider, there: Found, used: AbstractSet[str]) -> dict[str, Inventory]:
    """Combine the wanted classes with those of others, and with those of ours that are in use."""
    result = {
        name: _as_kept(inventory, there.inventories.get(name)) for name, inventory in provider.inventories.items()
    }
    for name, inventory in there.inventories.items():
        if name in result:
            continue
        if name not in provider.own_classes:
            result[name] = inventory
        elif name in used:
            result[name] = replace(inventory, reserved=inventory.total)
    return result


def _as_kept(inventory: Inventory, there: Inventory | None) -> Inventory:
    """Settle what is only for a new inventory: one that is there keeps its own."""
    ratio, reserved = inventory.allocation_ratio, inventory.reserved
    if there is not None and inventory.ratio_is_initial:
        ratio = there.allocation_ratio
    if there is not None and inventory.reserved_is_initial:
        # What an operator reserved can't be more than there is now.
        reserved = min(there.reserved, inventory.total)
    return Inventory(
        total=inventory.total,
        reserved=reserved,
        min_unit=inventory.min_unit,
        max_unit=inventory.max_unit,
        step_size=inventory.step_size,
        allocation_ratio=ratio,
    )


def _same(one: Mapping[str, Inventory], other: Mapping[str, Inventory]) -> bool:
    return one.keys() == other.keys() and all(_alike(inventory, other[name]) for name, inventory in one.items())


def _alike(one: Inventory, other: Inventory) -> bool:
    if abs(one.allocation_ratio - other.allocation_ratio) > _RATIO_TOLERANCE * max(1.0, other.allocation_ratio):
        return False
    return replace(one, allocation_ratio=other.allocation_ratio) == other


def _leftover(tree: ProviderTree, found: Mapping[str, Found]) -> tuple[Found, ...]:
    """Give the children that are ours, by the uuid that we make of their names, and no longer wanted."""
    wanted = {provider.uuid for provider in tree.providers}
    return tuple(
        there
        for uuid, there in sorted(found.items())
        if uuid not in wanted and uuid == child_uuid(tree.root.uuid, there.name)
    )


def _deletes(
    tree: ProviderTree, found: Mapping[str, Found], used: Mapping[str, AbstractSet[str]]
) -> tuple[list[Step], list[Problem]]:
    """Delete leftover children; one that is in use, or has children of others, stays with everything reserved."""
    parents = {there.parent_uuid for there in found.values()}
    steps: list[Step] = []
    problems: list[Problem] = []
    for there in _leftover(tree, found):
        if not used.get(there.uuid) and there.uuid not in parents:
            steps.append(DeleteProvider(uuid=there.uuid, name=there.name))
            continue
        text = f"provider {there.name} is no longer wanted and still in use: all of it is reserved until it is free"
        remedy = "Free the allocations on it, or delete its children; it then goes by itself."
        problems.append(Problem(code="provider-in-use", about=there.name, text=text, remedy=remedy))
        closed = {name: replace(held, reserved=held.total) for name, held in there.inventories.items()}
        if not _same(closed, there.inventories):
            steps.append(SetInventories(uuid=there.uuid, generation=there.generation, inventories=closed))
    return steps, problems


def _in_use(name: str, provider: str) -> Problem:
    return Problem(
        code="inventory-in-use",
        about=f"{provider} {name}",
        text=f"{name} of provider {provider} is no longer there and still in use: all of it is reserved",
        remedy="Move or delete the instances that hold it; it then goes by itself.",
    )


def _customs(classes: Iterable[str], traits: Iterable[str]) -> list[Step]:
    """Make the custom names known before they are used; to make one that is known again does no harm."""
    return [
        *(CreateClass(name=name) for name in sorted(classes) if name.startswith(_CUSTOM)),
        *(CreateTrait(name=name) for name in sorted(traits) if name.startswith(_CUSTOM)),
    ]
