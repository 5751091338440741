"""
Whose a node is, where several services may report it. Invariant: the ledger's row says who has it, and a living owner
gives it away himself.

Services of one pool (the same Ironic, shard and conductor group) divide its nodes by a hash ring of those that live. A
node without an owner, or whose owner is dead, is taken by the one that the ring names; a living owner reports it once
more and then hands it over. So no node is taken while its owner reports it, and none is without a report for longer
than an interval. A node with instances stays with its owner while he lives.
"""

import hashlib
import logging
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from stocktake.accounting.node_availability import is_alive
from stocktake.drivers.base import Driver, Shared
from stocktake.ledger import Ledger
from stocktake.model.hypervisor import Candidate
from stocktake.model.value import Value
from stocktake.model.workload import Service

LOG = logging.getLogger(__name__)
POINTS = 32

Pool = Mapping[str, str]


class Division(Value, frozen=True, kw_only=True):
    """
    Whose the nodes of a driver are.

    Attributes:
        mine: the names of those that this service reports now.
        leaving: of these, by uuid, those that another one is to have, and which.
    """

    mine: tuple[str, ...]
    leaving: Mapping[str, str] = {}


def divided(
    ledger: Ledger, driver: Driver, names: tuple[str, ...], *, me: str, now: datetime, down_time_s: float
) -> Division:
    """Settle which of the nodes that the driver lists are ours; all, unless it shares them with other services."""
    if not isinstance(driver, Shared):
        return Division(mine=names)
    others = [one for one in ledger.services() if one.host != me and is_alive(one, now, down_time_s)]
    return divide(driver.candidates(), ledger.owners(), me=me, pool=driver.pool, others=others)


def divide(
    candidates: Mapping[str, Candidate], owners: Mapping[str, str], *, me: str, pool: Pool, others: Sequence[Service]
) -> Division:
    """
    Divide nodes.

    Args:
        candidates: all nodes of our pool, by name.
        owners: who has nodes, by uuid.
        others: the other services that live, whatever their pools.
    """
    members = {me.lower(): me, **{one.host.lower(): one.host for one in others if one.pool == pool}}
    ring = Ring(members)
    pools = {one.host: one.pool for one in others}
    mine: list[str] = []
    leaving: dict[str, str] = {}
    for name, candidate in candidates.items():
        owner = owners.get(candidate.uuid)
        chosen = members[ring.owner(candidate.uuid)] if len(members) > 1 else me
        if owner == me:
            mine.append(name)
            if chosen != me:
                leaving[candidate.uuid] = chosen
        elif chosen == me and (owner not in pools or gives_way(pools[owner], pool)):
            mine.append(name)
    return Division(mine=tuple(mine), leaving=leaving)


def gives_way(theirs: Pool | None, mine: Pool) -> bool:
    """
    Say whether a living service of another pool can't have a node that ours lists.

    That is so if the pools have no node in common, as those of two shards, or if ours is a part of theirs: else two
    services whose settings overlap would take it from each other for ever.
    """
    if theirs is None:
        return True
    apart = any(mine[name] != value for name, value in theirs.items() if name in mine)
    return apart or theirs.items() < mine.items()


def join(ledger: Ledger, driver: Driver, service: Service) -> None:
    """Tell the other services of our pool that we are one of it, or no longer."""
    pool = driver.pool if isinstance(driver, Shared) else None
    if service.pool != pool:
        ledger.join_pool(service.host, pool)


def hand_over(ledger: Ledger, division: Division, me: str) -> dict[str, str]:
    """Give nodes to the services that are to have them, now that they are reported; those with instances stay."""
    if not division.leaving:
        return {}
    given = {uuid: division.leaving[uuid] for uuid in sorted(ledger.give_nodes(division.leaving, me))}
    for host, count in sorted(Counter(given.values()).items()):
        LOG.warning("handed %d nodes over to %s", count, host, extra={"to": host, "nodes": count})
    return given


def still_ours(ledger: Ledger, nodes: Sequence[str], uuids: Mapping[str, str], me: str) -> tuple[str, ...]:
    """Leave out nodes that another service took while we counted."""
    owners = ledger.owners([uuids[node] for node in nodes])
    return tuple(node for node in nodes if owners.get(uuids[node], me) == me)


class Ring:
    """
    Who of several has what, without anybody being asked: who has the same members gets the same answer.

    When a member comes or goes, only what it gets or had changes hands. It gives what tooz's consistent hash ring
    gives, and so what Nova's and Ironic's give (32 points a member, MD5), for the same members and keys.

    Args:
        members: their names; at least one.
    """

    def __init__(self, members: Iterable[str]) -> None:
        self._owners: dict[int, str] = {}
        for member in sorted(set(members)):
            name = member.encode()
            digest = hashlib.md5(name, usedforsecurity=False)
            for _ in range(POINTS):
                digest.update(name)
                self._owners[int.from_bytes(digest.digest())] = member
        assert self._owners, "a ring has members"
        self._points = sorted(self._owners)

    def owner(self, key: str) -> str:
        """Say which member has this key."""
        at = bisect(self._points, int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()))
        return self._owners[self._points[at % len(self._points)]]
