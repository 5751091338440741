"""
What a consumer holds in the scheduler. Invariant: an instance holds where it is, its migration what the move leaves
behind.
"""

from collections.abc import Mapping
from typing import Literal

from stocktake.model.provider import ProviderTree
from stocktake.model.value import Value

ConsumerKind = Literal["INSTANCE", "MIGRATION"]
# The project and user of whoever has none: what Placement itself takes for consumers that do not say.
NOBODY = "00000000-0000-0000-0000-000000000000"

# Amounts in each class's own unit, by class, by the provider's uuid.
Resources = Mapping[str, Mapping[str, int]]


class Allocation(Value, frozen=True, kw_only=True):
    """
    What one consumer should hold.

    Attributes:
        consumer: an instance's uuid, or a migration's.
        resources: by provider and class; nothing at all is allowed, an amount of 0 is not.
    """

    consumer: str
    kind: ConsumerKind = "INSTANCE"
    project_id: str = NOBODY
    user_id: str = NOBODY
    resources: Resources = {}


class Holdings(Value, frozen=True, kw_only=True):
    """All that should be held of one node: its providers, and the consumers' allocations on them, by consumer."""

    tree: ProviderTree
    allocations: Mapping[str, Allocation]
