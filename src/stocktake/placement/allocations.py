"""
Step 7b: allocations in Placement, read and written, and consumers given what they should hold.

Invariant: every write carries the consumer's generation, so that what somebody else wrote meanwhile is never lost: it
is read again. Only `clear` takes everything, whoever wrote it.

Consumers are given all of it or nothing, and a "no" says what ran out. Placement decides, in one transaction
of its own, and refuses with the first class that lacks; every one that does is worked out from what it says afterwards.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from stocktake.errors import PlacementConflict
from stocktake.model.fitting import NoRoom
from stocktake.model.provider import Allocation, Inventory, Resources
from stocktake.model.value import replace
from stocktake.placement.providers import Listed, delete_provider
from stocktake.placement.session import CONSUMER_TYPES, Answer, PlacementSession

CONFLICT = "placement.concurrent_update"
# Placement's words for a consumer that was taken for new, and for one that was not and is.
_IS_KEPT = "expected 0 but got None"
_IS_NEW = "expected null but got"
# What Placement calls a consumer that was made without a type; it can't be written, only left as it is.
_NO_TYPE = "unknown"

# By consumer, provider and class.
Held = dict[str, dict[str, dict[str, int]]]


class Amounts(Struct):
    """What is held of one provider, by class."""

    resources: dict[str, int]


class _Share(Struct):
    resources: dict[str, int]
    consumer_generation: int


class _ProviderAllocations(Struct):
    allocations: dict[str, _Share]


class Consumer(Struct):
    """A consumer as Placement has it; one that holds nothing has no generation."""

    allocations: dict[str, Amounts] = {}
    project_id: str = ""
    user_id: str = ""
    consumer_generation: int | None = None
    consumer_type: str = _NO_TYPE


def read_held(session: PlacementSession, uuids: Iterable[str]) -> tuple[Held, dict[str, int]]:
    """
    Read who holds how much of providers, a request each; one that is gone has nothing to hold.

    Returns:
        What is held, and the consumers' generations: those first seen, where they changed meanwhile.
    """
    held: Held = {}
    generations: dict[str, int] = {}
    for uuid in uuids:
        answer = session.get(f"/resource_providers/{uuid}/allocations")
        if answer.status == 404:
            continue
        if not answer.fine:
            raise answer.refused()
        for consumer, there in answer.read(_ProviderAllocations).allocations.items():
            held.setdefault(consumer, {})[uuid] = there.resources
            generations.setdefault(consumer, there.consumer_generation)
    return held, generations


def read_consumer(session: PlacementSession, consumer: str, *, generation: int | None = None) -> Consumer:
    """
    Read all that a consumer holds, of whatever providers.

    Raises:
        PlacementConflict: a generation is given, and it is another by now.
    """
    answer = session.get(f"/allocations/{consumer}")
    if not answer.fine:
        raise answer.refused()
    there = answer.read(Consumer)
    if generation is not None and there.consumer_generation != generation:
        raise conflict(answer)
    return there


def write(session: PlacementSession, wanted: Iterable[Allocation], generations: Mapping[str, int | None]) -> Answer:
    """
    Make consumers hold this and nothing else, all of them or none; gives Placement's answer, whatever it is.

    A consumer without resources must hold something: Placement would make it, and keep it for ever.
    """
    typed = session.version() >= CONSUMER_TYPES
    bodies = {
        one.consumer: _body(one.resources, one.project_id, one.user_id, generations[one.consumer])
        | ({"consumer_type": one.kind} if typed else {})
        for one in wanted
    }
    if len(bodies) > 1:
        return session.write("POST", "/allocations", bodies)
    ((consumer, body),) = bodies.items()
    return session.write("PUT", f"/allocations/{consumer}", body)


def clear(session: PlacementSession, consumer: str) -> None:
    """Take everything from a consumer; one that holds nothing is fine."""
    answer = session.write("DELETE", f"/allocations/{consumer}")
    if answer.status != 404:
        check(answer)


def release_one(
    session: PlacementSession, consumer: str, uuids: Collection[str], *, generation: int | None = None
) -> None:
    """
    Remove what one consumer holds of these providers.

    Raises:
        PlacementConflict: the consumer's allocations changed meanwhile, or since they had this generation.
    """
    there = read_consumer(session, consumer, generation=generation)
    kept = {uuid: held.resources for uuid, held in there.allocations.items() if uuid not in uuids}
    if len(kept) == len(there.allocations):
        return
    body = _body(kept, there.project_id, there.user_id, there.consumer_generation)
    version = None
    if session.version() >= CONSUMER_TYPES:
        if there.consumer_type == _NO_TYPE:
            version = (CONSUMER_TYPES[0], CONSUMER_TYPES[1] - 1)
        else:
            body["consumer_type"] = there.consumer_type
    check(session.write("PUT", f"/allocations/{consumer}", body, version=version))


def delete_tree(session: PlacementSession, doomed: Sequence[Listed]) -> None:
    """
    Delete providers, given parents before children, with the allocations on them; one that is gone is fine.

    Raises:
        PlacementConflict: somebody allocated meanwhile.
    """
    uuids = {provider.uuid for provider in doomed}
    for consumer in sorted(read_held(session, uuids)[0]):
        release_one(session, consumer, uuids)
    for provider in reversed(doomed):
        delete_provider(session, provider.uuid)


def below(listed: Collection[Listed], root_uuid: str) -> list[Listed]:
    """Give a provider and all below it, parents before children."""
    children: dict[str | None, list[Listed]] = {}
    for provider in listed:
        children.setdefault(provider.parent_provider_uuid, []).append(provider)
    result = [provider for provider in listed if provider.uuid == root_uuid]
    for provider in result:
        result += children.get(provider.uuid, [])
    return result


def check(answer: Answer) -> Answer:
    """Give an answer that is fine; raises the conflict or the refusal that another is."""
    if answer.fine:
        return answer
    if answer.code == CONFLICT:
        raise conflict(answer)
    raise answer.refused()


def conflict(answer: Answer) -> PlacementConflict:
    """Make the error of a write that may go through once everything is read again."""
    words = " ".join(answer.detail.split())
    remedy = "Another program keeps changing these allocations; it is tried again at every refresh."
    told = f": {words}" if words else ""
    return PlacementConflict(f"the allocations changed meanwhile{told}", where=answer.request, remedy=remedy)


def _body(resources: Resources, project_id: str, user_id: str, generation: int | None) -> dict[str, object]:
    return {
        "allocations": {uuid: {"resources": amounts} for uuid, amounts in resources.items()},
        "project_id": project_id,
        "user_id": user_id,
        "consumer_generation": generation,
    }


class _Inventories(Struct):
    inventories: dict[str, Inventory] = {}


class _Usages(Struct):
    usages: dict[str, int] = {}


def giving(
    session: PlacementSession,
    wanted: Sequence[Allocation],
    *,
    fresh: Collection[str] = (),
    within: Collection[str] | None = None,
    generation: int | None = None,
) -> Callable[[], tuple[NoRoom, ...]]:
    """
    Prepare to make consumers hold this, all of them or none.

    Args:
        fresh: consumers believed to hold nothing anywhere: they are read only after a conflict.
        within: only what they hold of these providers is replaced; None replaces all that they hold.
        generation: what it must be of those that are not fresh; None takes it as it is.

    Returns:
        What does it: a function that gives every class of every provider that lacks, or nothing if it is done. It
        raises PlacementConflict if somebody else wrote meanwhile: nothing is written then, and it may be called again.
    """
    first, unread = True, None

    def once() -> tuple[NoRoom, ...]:
        nonlocal first, unread
        if within is None and len(wanted) == 1 and not wanted[0].resources:
            clear(session, wanted[0].consumer)
            return ()
        there = {
            one.consumer: Consumer()
            if first and one.consumer in fresh
            else read_consumer(session, one.consumer, generation=generation)
            for one in wanted
        }
        first = False
        try:
            return _give(session, wanted, there, within=within, unread=unread)
        except PlacementConflict as error:
            # A Placement that was killed may have kept a consumer without allocations: its generation is 0 and can't be
            # read, but a conflict tells it.
            if _IS_KEPT in error.what:
                unread = 0
            elif _IS_NEW in error.what:
                unread = None
            raise

    return once


def _give(
    session: PlacementSession,
    wanted: Sequence[Allocation],
    there: Mapping[str, Consumer],
    *,
    within: Collection[str] | None,
    unread: int | None,
) -> tuple[NoRoom, ...]:
    """Write what differs from what is there, with `unread` as the generation where none can be read; see `giving`."""
    whole = wanted if within is None else [_with_others(one, there[one.consumer], within) for one in wanted]
    whole = [one for one in whole if one.resources or there[one.consumer].allocations]
    if not whole:
        return ()
    known = {one.consumer: there[one.consumer].consumer_generation for one in whole}
    answer = write(session, whole, {consumer: unread if seen is None else seen for consumer, seen in known.items()})
    if answer.fine:
        return ()
    if answer.code == CONFLICT:
        raise conflict(answer)
    missing = _missing(session, whole, list(there.values())) if answer.status in (400, 409) else ()
    if not missing:
        # A 409 without anything that lacks: there is room by now.
        raise conflict(answer) if answer.status == 409 else answer.refused()
    return missing


def _with_others(wanted: Allocation, there: Consumer, within: Collection[str]) -> Allocation:
    """Add what the consumer holds of other providers."""
    others = {uuid: held.resources for uuid, held in there.allocations.items() if uuid not in within}
    return replace(wanted, resources={**others, **wanted.resources})


def _missing(session: PlacementSession, wanted: Sequence[Allocation], there: Sequence[Consumer]) -> tuple[NoRoom, ...]:
    """Find every class of every provider that has less than what is asked for."""
    asked: dict[str, dict[str, list[int]]] = {}
    for one in wanted:
        for uuid, amounts in one.resources.items():
            for name, amount in amounts.items():
                asked.setdefault(uuid, {}).setdefault(name, []).append(amount)
    missing: list[NoRoom] = []
    for uuid, classes in sorted(asked.items()):
        inventories, used = _stock(session, uuid)
        for name, each in sorted(classes.items()):
            if name in inventories:
                held = sum(one.allocations[uuid].resources.get(name, 0) for one in there if uuid in one.allocations)
                missing += _short(name, uuid, each, inventories[name], used=used.get(name, 0), held=held)
            else:
                text = f"{sum(each)} {name} wanted, provider {uuid} has none"
                missing.append(NoRoom(what=name, asked=sum(each), free=0, total=0, text=text))
    return tuple(missing)


def _stock(session: PlacementSession, uuid: str) -> tuple[Mapping[str, Inventory], Mapping[str, int]]:
    """Read what a provider has and what is used of it; one that is not there has nothing."""
    inventories = session.get(f"/resource_providers/{uuid}/inventories")
    usages = session.get(f"/resource_providers/{uuid}/usages")
    if 404 in (inventories.status, usages.status):
        return {}, {}
    return check(inventories).read(_Inventories).inventories, check(usages).read(_Usages).usages


def _short(
    name: str, uuid: str, amounts: Sequence[int], inventory: Inventory, *, used: int, held: int
) -> tuple[NoRoom, ...]:
    """Compare as Placement does: what was held may be kept, though there be too little."""
    asked = sum(amounts)
    total = max(int((inventory.total - inventory.reserved) * inventory.allocation_ratio), 0)
    free = max(total - (used - held), 0)
    if asked > max(free, held):
        text = f"{asked} {name} wanted, {free} free of {total} on provider {uuid}"
        return (NoRoom(what=name, asked=asked, free=free, total=total, text=text),)
    odd = [
        amount
        for amount in amounts
        if not inventory.min_unit <= amount <= inventory.max_unit or amount % inventory.step_size
    ]
    if not odd:
        return ()
    steps = f" in steps of {inventory.step_size}" if inventory.step_size > 1 else ""
    gives = f"{inventory.min_unit} to {inventory.max_unit}{steps}"
    text = f"{odd[0]} {name} wanted at once, provider {uuid} gives {gives}"
    return (NoRoom(what=name, asked=odd[0], free=min(free, inventory.max_unit), total=total, text=text),)
