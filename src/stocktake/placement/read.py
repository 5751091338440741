"""
Step 7b: what Placement has. Invariant: as few requests as its API allows, and only what is needed is decoded.
"""

from collections.abc import Mapping

from msgspec import Struct

from stocktake.model.provider import Found, Inventory
from stocktake.placement.session import Answer, Session


class Listed(Struct, frozen=True):
    """A provider as the list has it: without its content, but with the generation that tells whether that changed."""

    uuid: str
    name: str
    generation: int
    parent_provider_uuid: str | None
    root_provider_uuid: str


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


def list_all(session: Session) -> tuple[Listed, ...]:
    """List all providers that there are, in one request."""
    return _list(session, "/resource_providers")


def list_tree(session: Session, uuid: str) -> tuple[Listed, ...]:
    """List the tree that a provider is in; empty if there is no such provider."""
    return _list(session, f"/resource_providers?in_tree={uuid}")


def list_named(session: Session, name: str) -> tuple[Listed, ...]:
    """List the provider of a name; empty if there is none."""
    from urllib.parse import quote

    return _list(session, f"/resource_providers?name={quote(name, safe='')}")


def read_found(session: Session, listed: Listed) -> Found | None:
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


def read_used(session: Session, uuid: str) -> frozenset[str]:
    """Read which classes of a provider have allocations."""
    answer = _content(session.get(f"/resource_providers/{uuid}/usages"))
    usages: Mapping[str, int] = answer.read(_Usages).usages if answer else {}
    return frozenset(name for name, amount in usages.items() if amount)


def _list(session: Session, path: str) -> tuple[Listed, ...]:
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
