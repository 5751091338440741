"""
Claim on the best node there is. Law: who lost a race for one goes on to the next, and is told of all if none is left.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from stocktake.accounting.fit import Wanted
from stocktake.candidates import Candidate, candidates
from stocktake.claims.nouns import Claimed, Refused
from stocktake.errors import ClaimRefused, InvalidInput
from stocktake.ledger import Ledger
from stocktake.model.fitting import Limits
from stocktake.settings import Settings

_SHOWN_MAX = 5


def claim_on(
    ledger: Ledger,
    settings: Settings,
    node: str | None,
    wanted: Wanted,
    *,
    limits: Limits | None,
    claim: Callable[[str, Limits | None], Claimed | Refused],
    now: datetime,
) -> Claimed:
    """
    Claim on the node that was named, by its uuid, or (None) on the best.

    Raises:
        InvalidInput: limits without a named node.
        ClaimRefused: there is no room; every reason, of every node that was asked.
    """
    if node is None:
        if limits is not None:
            raise InvalidInput("a limit goes with a named node: auto fills each by its capacity", where="limits")
        done = claim_best(ledger, settings, wanted, claim, now=now)
    else:
        one = claim(node, limits)
        done = one if isinstance(one, Claimed) else (one,)
    if isinstance(done, Claimed):
        return done
    raise refusal(done)


def refusal(refused: Sequence[Refused]) -> ClaimRefused:
    """Gather every reason of every node; many nodes are counted, `stocktake fit` lists them all."""
    if not refused:
        remedy = "`stocktake refresh` takes stock of this machine."
        return ClaimRefused(["there is no node"], where="ledger", remedy=remedy)
    if len(refused) == 1:
        return refused[0].error()
    reasons = [f"{one.node}: {'; '.join(reason.text for reason in one.reasons)}" for one in refused[:_SHOWN_MAX]]
    if len(refused) > _SHOWN_MAX:
        reasons.append(f"and {len(refused) - _SHOWN_MAX} nodes more")
    remedy = "`stocktake fit` with the same options lists all."
    return ClaimRefused(reasons, where="no node has room", remedy=remedy, refused=refused)


def claim_best(
    ledger: Ledger,
    settings: Settings,
    wanted: Wanted,
    claim: Callable[[str, Limits], Claimed | Refused],
    *,
    now: datetime,
) -> Claimed | tuple[Refused, ...]:
    """
    Claim on the best node that has room, by its capacity, or say of each node what it lacks.

    Args:
        claim: claims on a node, by uuid, within limits.
    """
    found = candidates(ledger, settings, wanted, now=now)
    lost: list[Refused] = []
    for candidate in found.fitting:
        done = claim(candidate.node.uuid, limits_of(candidate))
        if isinstance(done, Claimed):
            return done
        lost.append(done)
    never = (Refused(node=one.node.hypervisor_hostname, reasons=one.reasons) for one in found.refused)
    return (*lost, *never)


def limits_of(candidate: Candidate) -> Limits:
    """Give how far a node may be filled, so that no more is promised than the scheduler would grant."""
    most = {room.what: room.limit for room in candidate.rooms}
    return Limits(
        vcpus=most["VCPU"],
        pcpus=most["PCPU"],
        memory_mb=most["MEMORY_MB"],
        disk_gb=most["DISK_GB"],
        numa_cpu_ratio=candidate.node.cpu_allocation_ratio,
        numa_ram_ratio=candidate.node.ram_allocation_ratio,
    )
