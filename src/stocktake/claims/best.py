"""
Claim on the best node there is. Invariant: who lost a race for one goes on to the next, and is told of all if none is
left.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

from stocktake.accounting.fit.fit import Wanted
from stocktake.claims.candidates import Candidate, candidates
from stocktake.claims.nouns import Claimed, Refused
from stocktake.errors import ClaimRefused
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
    Claim on the node that was named, by its uuid, or (None) on the best: there limits narrow each one's capacity down.

    Raises:
        ClaimRefused: there is no room; every reason, of every node that was asked.
    """
    if node is None:
        done = claim_best(ledger, settings, wanted, claim, limits=limits, now=now)
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
    limits: Limits | None = None,
    now: datetime,
) -> Claimed | tuple[Refused, ...]:
    """
    Claim on the best node that has room, by its capacity, or say of each node what it lacks.

    Args:
        claim: claims on a node, by uuid, within limits.
        limits: narrow down what each node's capacity allows.
    """
    found = candidates(ledger, settings, wanted, now=now)
    lost: list[Refused] = []
    for candidate in found.fitting:
        done = claim(candidate.node.uuid, narrowed(limits_of(candidate), limits))
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


def narrowed(limits: Limits, further: Limits | None) -> Limits:
    """Give the narrower of each limit; None is unlimited."""
    if further is None:
        return limits
    pairs = {name: (getattr(limits, name), getattr(further, name)) for name in Limits.__struct_fields__}
    return Limits(
        **{name: min((most for most in pair if most is not None), default=None) for name, pair in pairs.items()}
    )
