"""
Claim on the best node there is. Law: who lost a race for one goes on to the next, and is told of all if none is left.
"""

from collections.abc import Callable
from datetime import datetime

from stocktake.accounting.fit import Wanted
from stocktake.candidates import Candidate, candidates
from stocktake.claims.nouns import Claimed, Refused
from stocktake.ledger import Ledger
from stocktake.model.fitting import Limits
from stocktake.settings import Settings


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
