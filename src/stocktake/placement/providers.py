"""
Step 7b: providers in Placement, read and written. Invariant: as few requests as its API allows, and a write that meets
newer content is a conflict, never lost.

Only what is needed is decoded. What is written comes from the plan, step by step.
"""

from collections.abc import Iterable, Mapping
from typing import NoReturn

from msgspec import Struct

from stocktake.errors import PlacementConflict, PlacementError
from stocktake.model.provider import Found, Inventory
from stocktake.model.value import replace
from stocktake.placement.plan import (
    CreateClass,
    CreateProvider,
    CreateTrait,
    DeleteProvider,
    RenameProvider,
    SetInventories,
    SetTraits,
    Step,
)
from stocktake.placement.session import Answer, PlacementSession


class Listed(Struct, frozen=True):
    """A provider as the list has it: without its content, but with the generation that tells whether that changed."""

    uuid: str
    name: str
    generation: int
    parent_provider_uuid: str | None
    root_provider_uuid: str


class NameTaken(PlacementError):
    """
    A name belongs to another provider.

    Attributes:
        by: that provider.
    """

    def __init__(self, uuid: str, by: Listed) -> None:
        super().__init__(f"the name {by.name} belongs to provider {by.uuid}, not {uuid}", where=by.name)
        self.by = by


class _Providers(Struct):
    resource_providers: tuple[Listed, ...]


class _Inventories(Struct):
    resource_provider_generation: int
    inventories: dict[str, Inventory]


class _Traits(Struct):
    resource_provider_generation: int
    traits: frozenset[str]


class _Usages(Struct):
    usages: dict[str, int]


def list_all(session: PlacementSession) -> tuple[Listed, ...]:
    """List all providers that there are, in one request."""
    return _list(session, "/resource_providers")


def list_tree(session: PlacementSession, uuid: str) -> tuple[Listed, ...]:
    """List the tree that a provider is in; empty if there is no such provider."""
    return _list(session, f"/resource_providers?in_tree={uuid}")


def list_named(session: PlacementSession, name: str) -> tuple[Listed, ...]:
    """List the provider of a name; empty if there is none."""
    from urllib.parse import quote

    return _list(session, f"/resource_providers?name={quote(name, safe='')}")


def read_found(session: PlacementSession, listed: Listed) -> Found | None:
    """Read a provider's inventories and traits, two requests; None if it is gone."""
    inventories = _content(session.get(f"/resource_providers/{listed.uuid}/inventories"))
    traits = _content(session.get(f"/resource_providers/{listed.uuid}/traits"))
    if inventories is None or traits is None:
        return None
    held, named = inventories.read(_Inventories), traits.read(_Traits)
    return Found(
        uuid=listed.uuid,
        name=listed.name,
        parent_uuid=listed.parent_provider_uuid,
        # The older of the two: if somebody wrote in between, our write must fail.
        generation=min(held.resource_provider_generation, named.resource_provider_generation),
        inventories=held.inventories,
        traits=named.traits,
    )


def read_used(session: PlacementSession, uuid: str) -> frozenset[str]:
    """Read which classes of a provider have allocations."""
    answer = _content(session.get(f"/resource_providers/{uuid}/usages"))
    usages: Mapping[str, int] = answer.read(_Usages).usages if answer else {}
    return frozenset(name for name, amount in usages.items() if amount)


def _list(session: PlacementSession, path: str) -> tuple[Listed, ...]:
    answer = session.get(path)
    if not answer.fine:
        raise answer.refused()
    return answer.read(_Providers).resource_providers


def _content(answer: Answer) -> Answer | None:
    if answer.status == 404:
        return None
    if not answer.fine:
        raise answer.refused()
    return answer


_DUPLICATE = "placement.duplicate_name"
# What these say may be otherwise after reading again.
_STALE = frozenset(
    {
        "placement.concurrent_update",
        "placement.inventory.inuse",
        "placement.resource_provider.inuse",
        "placement.resource_provider.cannot_delete_parent",
        "placement.resource_provider.not_found",
    }
)


class _Generation(Struct):
    generation: int


class _ProviderGeneration(Struct):
    resource_provider_generation: int


def apply(
    session: PlacementSession, steps: Iterable[Step], found: Mapping[str, Found], known: set[str]
) -> dict[str, Found]:
    """
    Do the steps in their order.

    Args:
        known: custom names that this process made known before; those made now are added.

    Returns:
        The providers as they are now, by uuid.

    Raises:
        PlacementConflict: the plan no longer holds; what was done before is done.
        PlacementError: refused for another reason.
        PlacementUnreachable: no answer, or 5xx.
    """
    after = dict(found)
    for step in steps:
        match step:
            case CreateClass(name=name):
                _make_known(session, "resource_classes", name, known)
            case CreateTrait(name=name):
                _make_known(session, "traits", name, known)
            case CreateProvider():
                after[step.uuid] = _create(session, step)
            case RenameProvider():
                _rename(session, step)
                after[step.uuid] = replace(after[step.uuid], name=step.name, parent_uuid=step.parent_uuid)
            case SetInventories():
                after[step.uuid] = _set_inventories(session, step, after[step.uuid])
            case SetTraits():
                after[step.uuid] = _set_traits(session, step, after[step.uuid])
            case DeleteProvider():
                delete_provider(session, step.uuid)
                del after[step.uuid]
    return after


def delete_provider(session: PlacementSession, uuid: str) -> None:
    """Delete a provider; one that is gone already is fine."""
    answer = session.write("DELETE", f"/resource_providers/{uuid}")
    if answer.status != 404:
        _check(answer)


def _make_known(session: PlacementSession, kind: str, name: str, known: set[str]) -> None:
    if f"{kind}/{name}" not in known:
        _check(session.write("PUT", f"/{kind}/{name}"))
        known.add(f"{kind}/{name}")


def _create(session: PlacementSession, step: CreateProvider) -> Found:
    body = {"uuid": step.uuid, "name": step.name}
    if step.parent_uuid is not None:
        body["parent_provider_uuid"] = step.parent_uuid
    answer = session.write("POST", "/resource_providers", body)
    if answer.code == _DUPLICATE:
        _clash(session, answer, step.uuid, step.name)
    generation = _check(answer).read(_Generation).generation
    return Found(uuid=step.uuid, name=step.name, parent_uuid=step.parent_uuid, generation=generation)


def _rename(session: PlacementSession, step: RenameProvider) -> None:
    body = {"name": step.name, "parent_provider_uuid": step.parent_uuid}
    answer = session.write("PUT", f"/resource_providers/{step.uuid}", body)
    if answer.code == _DUPLICATE:
        _clash(session, answer, step.uuid, step.name)
    _check(answer)


def _clash(session: PlacementSession, answer: Answer, uuid: str, name: str) -> NoReturn:
    """Another process of ours made the provider first: read again. Or the name is another provider's: give up."""
    others = [there for there in list_named(session, name) if there.uuid != uuid]
    if not others:
        raise _conflict(answer)
    raise NameTaken(uuid, others[0])


def _set_inventories(session: PlacementSession, step: SetInventories, there: Found) -> Found:
    body = {
        # Steps before this one may have raised it.
        "resource_provider_generation": there.generation,
        "inventories": {name: _fields(inventory) for name, inventory in step.inventories.items()},
    }
    answer = _check(session.write("PUT", f"/resource_providers/{step.uuid}/inventories", body))
    generation = answer.read(_ProviderGeneration).resource_provider_generation
    return replace(there, generation=generation, inventories=step.inventories)


def _set_traits(session: PlacementSession, step: SetTraits, there: Found) -> Found:
    body = {"resource_provider_generation": there.generation, "traits": sorted(step.traits)}
    answer = _check(session.write("PUT", f"/resource_providers/{step.uuid}/traits", body))
    generation = answer.read(_ProviderGeneration).resource_provider_generation
    return replace(there, generation=generation, traits=step.traits)


def _fields(inventory: Inventory) -> dict[str, int | float]:
    return {
        "total": inventory.total,
        "reserved": inventory.reserved,
        "min_unit": inventory.min_unit,
        "max_unit": inventory.max_unit,
        "step_size": inventory.step_size,
        "allocation_ratio": inventory.allocation_ratio,
    }


def _check(answer: Answer) -> Answer:
    if answer.fine:
        return answer
    if answer.code in _STALE or answer.status == 404:
        raise _conflict(answer)
    raise answer.refused()


def _conflict(answer: Answer) -> PlacementConflict:
    words = " ".join(answer.detail.split())
    remedy = "Another program keeps writing to this provider; it is tried again at every refresh."
    return PlacementConflict(f"the provider changed meanwhile: {words}", where=answer.request, remedy=remedy)
