"""
Where a machine would go, as it is asked and answered. Invariant: every node that was looked at is in the answer.
"""

from datetime import datetime

from stocktake.accounting.fit.fit import ResourceFit
from stocktake.accounting.fit.placement import Placed
from stocktake.accounting.fit.request import Wanted, wanted
from stocktake.accounting.fit.weigh import Part
from stocktake.claims import Claimed
from stocktake.claims.candidates import Candidates
from stocktake.errors import InvalidInput
from stocktake.model.books import ComputeNode
from stocktake.model.fitting import NoRoom
from stocktake.model.value import Value
from stocktake.model.workload import Flavor, Instance, Migration
from stocktake.placement.names import is_trait, standard_traits
from stocktake.settings import Settings
from stocktake.views.quantities import nearest


class ResourceFitShown(ResourceFit, frozen=True, kw_only=True):
    """One resource class of a node; `free` before the machine comes, `free_after` once it is there."""

    free: float | None
    free_after: float | None


class Fitting(Value, frozen=True, kw_only=True):
    """
    A node that a machine fits.

    Attributes:
        rank: 1 is the best.
        score, weighers: the sum of Nova's weighers, and what each adds.
        placed: the cells and devices that the machine would have there.
    """

    uuid: str
    hypervisor_hostname: str
    host: str
    rank: int
    score: float
    weighers: tuple[Part, ...]
    resources: tuple[ResourceFitShown, ...]
    placed: Placed


class NotFitting(Value, frozen=True, kw_only=True):
    """A node that a machine does not fit, and every reason."""

    uuid: str
    hypervisor_hostname: str
    host: str
    reasons: tuple[NoRoom, ...]


class FitAnswer(Value, frozen=True, kw_only=True):
    """Where a machine would go: the best node first, and what the others lack."""

    wanted: Wanted
    fitting: tuple[Fitting, ...]
    refused: tuple[NotFitting, ...]


def answer_of(asked: Wanted, found: Candidates) -> FitAnswer:
    """Say what was found."""
    return FitAnswer(
        wanted=asked,
        fitting=tuple(
            Fitting(
                uuid=one.node.uuid,
                hypervisor_hostname=one.node.hypervisor_hostname,
                host=one.node.host,
                rank=rank,
                score=one.weighed.score,
                weighers=one.weighed.parts,
                resources=tuple(_shown(resource) for resource in one.resources),
                placed=one.placed,
            )
            for rank, one in enumerate(found.fitting, start=1)
        ),
        refused=tuple(
            NotFitting(
                uuid=one.node.uuid,
                hypervisor_hostname=one.node.hypervisor_hostname,
                host=one.node.host,
                reasons=one.reasons,
            )
            for one in found.refused
        ),
    )


def _shown(resource: ResourceFit) -> ResourceFitShown:
    return ResourceFitShown(
        what=resource.what,
        asked=resource.asked,
        used=resource.used,
        total=resource.total,
        limit=resource.limit,
        free=resource.free,
        free_after=resource.free_after,
    )


def wanted_of(flavor: Flavor, settings: Settings, *, volume_backed: bool) -> Wanted:
    """
    Read all that a flavor asks for, by the settings' aliases.

    Raises:
        InvalidInput: a mistake in an extra spec, or an alias or a trait that there is not; names the nearest.
    """
    asked = wanted(flavor, settings.pci.alias, volume_backed=volume_backed)
    for name in sorted(asked.required | asked.forbidden):
        if not is_trait(name):
            remedy = (
                nearest(name.upper(), sorted(standard_traits())).strip() or "Traits of your own start with CUSTOM_."
            )
            raise InvalidInput(f"there is no trait {name[:60]!r}", where=f"trait:{name[:60]}", remedy=remedy)
    return asked


class ClaimedShown(Value, frozen=True, kw_only=True):
    """
    The promise, or what became of it.

    Attributes:
        nodes: the records of the nodes that it changed, as they are now.
        unsynced: why the scheduler does not have it yet; the next refresh tells it.
        expires_at: when it is given back unless somebody settles it; None once it is settled.
    """

    instance: Instance
    migration: Migration | None
    nodes: tuple[ComputeNode, ...]
    unsynced: str | None
    expires_at: datetime | None


def claimed_shown(claimed: Claimed) -> ClaimedShown:
    """Make the view of a claim."""
    return ClaimedShown(
        instance=claimed.instance,
        migration=claimed.migration,
        nodes=claimed.nodes,
        unsynced=claimed.unsynced,
        expires_at=claimed.expires_at,
    )
