"""
Step 7b: what consumers hold of our providers. Law: what a consumer holds of other providers is never touched.

Every write carries the consumer's generation: one that changed meanwhile is read again.
"""

from collections.abc import Collection

from msgspec import Struct

from stocktake.errors import PlacementConflict
from stocktake.placement.apply import delete_provider
from stocktake.placement.read import Listed, list_tree
from stocktake.placement.session import CONSUMER_TYPES, Answer, Session

_CONFLICT = "placement.concurrent_update"
# What Placement calls a consumer that was made without a type; it can't be written, only left as it is.
_NO_TYPE = "unknown"


class _Held(Struct):
    resources: dict[str, int]


class _ProviderAllocations(Struct):
    allocations: dict[str, _Held]


class _Consumer(Struct):
    allocations: dict[str, _Held]
    project_id: str = ""
    user_id: str = ""
    consumer_generation: int | None = None
    consumer_type: str = _NO_TYPE


def read_allocations(session: Session, uuid: str) -> dict[str, dict[str, dict[str, int]]]:
    """Read who holds how much of a provider: consumer, provider, class, amount; empty if it is gone."""
    answer = session.get(f"/resource_providers/{uuid}/allocations")
    if answer.status == 404:
        return {}
    if not answer.fine:
        raise answer.refused()
    held = answer.read(_ProviderAllocations).allocations
    return {consumer: {uuid: there.resources} for consumer, there in held.items()}


def release_one(session: Session, consumer: str, uuids: Collection[str]) -> int:
    """
    Remove what one consumer holds of these providers; gives the number of writes.

    Raises:
        PlacementConflict: the consumer's allocations changed meanwhile.
    """
    answer = session.get(f"/allocations/{consumer}")
    if not answer.fine:
        raise answer.refused()
    there = answer.read(_Consumer)
    kept = {uuid: {"resources": held.resources} for uuid, held in there.allocations.items() if uuid not in uuids}
    if len(kept) == len(there.allocations):
        return 0
    body: dict[str, object] = {
        "allocations": kept,
        "project_id": there.project_id,
        "user_id": there.user_id,
        "consumer_generation": there.consumer_generation,
    }
    version = None
    if session.version() >= CONSUMER_TYPES:
        if there.consumer_type == _NO_TYPE:
            version = (CONSUMER_TYPES[0], CONSUMER_TYPES[1] - 1)
        else:
            body["consumer_type"] = there.consumer_type
    _check(session.write("PUT", f"/allocations/{consumer}", body, version=version))
    return 1


def delete_tree(session: Session, root_uuid: str) -> None:
    """
    Delete a provider and all below it, children first, with the allocations on them; one that is gone is fine.

    Raises:
        PlacementConflict: somebody allocated meanwhile.
    """
    doomed = _below(list_tree(session, root_uuid), root_uuid)
    uuids = {provider.uuid for provider in doomed}
    consumers = {consumer for uuid in uuids for consumer in read_allocations(session, uuid)}
    for consumer in sorted(consumers):
        release_one(session, consumer, uuids)
    for provider in reversed(doomed):
        delete_provider(session, provider.uuid)


def _below(listed: Collection[Listed], root_uuid: str) -> list[Listed]:
    """Give a provider and all below it, parents before children."""
    children: dict[str | None, list[Listed]] = {}
    for provider in listed:
        children.setdefault(provider.parent_provider_uuid, []).append(provider)
    result = [provider for provider in listed if provider.uuid == root_uuid]
    for provider in result:
        result += children.get(provider.uuid, [])
    return result


def _check(answer: Answer) -> None:
    if answer.fine:
        return
    if answer.code == _CONFLICT:
        words = " ".join(answer.detail.split())
        remedy = "Somebody else keeps changing these allocations; it is tried again at every refresh."
        raise PlacementConflict(f"the allocations changed meanwhile: {words}", where=answer.request, remedy=remedy)
    raise answer.refused()
