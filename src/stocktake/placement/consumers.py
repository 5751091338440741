"""
Step 7b: give consumers what they should hold. Invariant: all of it or none, and a "no" says what ran out.

Placement decides, in one transaction of its own, and refuses with the first class that lacks; every one that does is
worked out from what it says afterwards.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import count

from msgspec import Struct

from stocktake.model.fitting import NoRoom
from stocktake.model.provider import Allocation, Inventory
from stocktake.model.value import replace
from stocktake.placement.allocations import CONFLICT, Consumer, check, clear, conflict, read_consumer, write
from stocktake.placement.session import Session


class _Inventories(Struct):
    inventories: dict[str, Inventory] = {}


class _Usages(Struct):
    usages: dict[str, int] = {}


def giving(
    session: Session,
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
    tries = count()

    def once() -> tuple[NoRoom, ...]:
        if within is None and len(wanted) == 1 and not wanted[0].resources:
            clear(session, wanted[0].consumer)
            return ()
        attempt = next(tries)
        there = {
            one.consumer: Consumer()
            if one.consumer in fresh and not attempt
            else read_consumer(session, one.consumer, generation=generation)
            for one in wanted
        }
        return _give(session, wanted, there, within=within, attempt=attempt)

    return once


def _give(
    session: Session,
    wanted: Sequence[Allocation],
    there: Mapping[str, Consumer],
    *,
    within: Collection[str] | None,
    attempt: int,
) -> tuple[NoRoom, ...]:
    """Write what differs from what is there; see `giving`."""
    whole = wanted if within is None else [_with_others(one, there[one.consumer], within) for one in wanted]
    whole = [one for one in whole if one.resources or there[one.consumer].allocations]
    if not whole:
        return ()
    answer = write(session, whole, {one.consumer: _generation(there[one.consumer], attempt) for one in whole})
    if answer.fine:
        return ()
    if answer.code == CONFLICT:
        raise conflict(answer)
    missing = _missing(session, whole, list(there.values())) if answer.status in (400, 409) else ()
    if not missing:
        # A 409 without anything that lacks: there is room by now.
        raise conflict(answer) if answer.status == 409 else answer.refused()
    return missing


def _generation(there: Consumer, attempt: int) -> int | None:
    """
    Give the generation to write with.

    A Placement that was killed may have kept a consumer without allocations: its generation is 0 and can't be read. So
    where none can be read, every other try takes that for it.
    """
    if there.consumer_generation is None and attempt % 2:
        return 0
    return there.consumer_generation


def _with_others(wanted: Allocation, there: Consumer, within: Collection[str]) -> Allocation:
    """Add what the consumer holds of other providers."""
    others = {uuid: held.resources for uuid, held in there.allocations.items() if uuid not in within}
    return replace(wanted, resources={**others, **wanted.resources})


def _missing(session: Session, wanted: Sequence[Allocation], there: Sequence[Consumer]) -> tuple[NoRoom, ...]:
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


def _stock(session: Session, uuid: str) -> tuple[Mapping[str, Inventory], Mapping[str, int]]:
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
