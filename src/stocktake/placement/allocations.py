"""
Step 7b: what consumers hold of providers, read and written. Invariant: every write carries the consumer's generation.

So what somebody else wrote meanwhile is never lost: it is read again. Only `clear` takes everything, whoever wrote it.
"""

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from stocktake.errors import PlacementConflict
from stocktake.model.provider import Allocation, Resources
from stocktake.placement.apply import delete_provider
from stocktake.placement.read import Listed, list_tree
from stocktake.placement.session import CONSUMER_TYPES, Answer, Session

CONFLICT = "placement.concurrent_update"
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


def read_held(session: Session, uuids: Iterable[str]) -> tuple[Held, dict[str, int]]:
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


def read_consumer(session: Session, consumer: str, *, generation: int | None = None) -> Consumer:
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


def write(session: Session, wanted: Iterable[Allocation], generations: Mapping[str, int | None]) -> Answer:
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


def clear(session: Session, consumer: str) -> None:
    """Take everything from a consumer; one that holds nothing is fine."""
    answer = session.write("DELETE", f"/allocations/{consumer}")
    if answer.status != 404:
        check(answer)


def release_one(session: Session, consumer: str, uuids: Collection[str], *, generation: int | None = None) -> None:
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


def delete_tree(session: Session, root_uuid: str) -> None:
    """
    Delete a provider and all below it, children first, with the allocations on them; one that is gone is fine.

    Raises:
        PlacementConflict: somebody allocated meanwhile.
    """
    doomed = _below(list_tree(session, root_uuid), root_uuid)
    uuids = {provider.uuid for provider in doomed}
    for consumer in sorted(read_held(session, uuids)[0]):
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
    remedy = "Somebody else keeps changing these allocations; it is tried again at every refresh."
    told = f": {words}" if words else ""
    return PlacementConflict(f"the allocations changed meanwhile{told}", where=answer.request, remedy=remedy)


def _body(resources: Resources, project_id: str, user_id: str, generation: int | None) -> dict[str, object]:
    return {
        "allocations": {uuid: {"resources": amounts} for uuid, amounts in resources.items()},
        "project_id": project_id,
        "user_id": user_id,
        "consumer_generation": generation,
    }
