"""Consumers for the tests of allocations, and one node's way through a pass."""

import uuid
from collections.abc import Mapping

from stocktake.model.provider import Allocation, Holdings, ProviderTree
from stocktake.placement import Scheduler, SyncedAllocations
from stocktake.placement.allocations import read_held
from stocktake.placement.scheduler import Ask
from tests.placement.schedulers import EVERYBODY, Backend, agreed

DEVICE = "CUSTOM_PCI_10DE_1DB6"


def some_consumer() -> str:
    return str(uuid.uuid4())


def knowing(*known: str) -> Ask:
    """A ledger that knows these consumers."""
    return lambda _, unknown: unknown & set(known)


def holdings(node: ProviderTree, held: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Holdings:
    made = {consumer: Allocation(consumer=consumer, resources=resources) for consumer, resources in held.items()}
    return Holdings(tree=node, allocations=made)


def healed(
    scheduler: Scheduler,
    node: ProviderTree,
    held: Mapping[str, Mapping[str, Mapping[str, int]]],
    ask: Ask | None = None,
) -> SyncedAllocations:
    """Take one node through a pass."""
    agreed(scheduler.sync({"n": node}, EVERYBODY)["n"])
    answer = scheduler.sync_allocations({"n": holdings(node, held)}, ask or knowing())["n"]
    assert isinstance(answer, SyncedAllocations), answer
    return answer


def on(backend: Backend, node: ProviderTree) -> dict[str, dict[str, dict[str, int]]]:
    """Who holds what of a node's root, read past the scheduler that is tested."""
    return read_held(backend.other, [node.root.uuid])[0]
