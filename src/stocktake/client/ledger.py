"""
The ledger behind a server. Invariant: each call means what it means in a database, and a pass in which
nothing happened is one.

What a pass reads is kept with its digest: the server says "the same" and sends nothing, and nothing is decoded.
"""

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from stocktake.client.listen import RemoteWatch
from stocktake.client.transport import Transport
from stocktake.clock import Clock
from stocktake.ledger import Job, NodeSave, SaveOutcome, Snapshot
from stocktake.ledger.nouns import strangers_to
from stocktake.ledger.protocol import T
from stocktake.ledger.rpc import CALLS, ROOT, SnapshotAsked, SnapshotSaid
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.history import Moment
from stocktake.model.pci import PciRecord
from stocktake.model.problem import Problem
from stocktake.model.value import UUID, replace
from stocktake.model.workload import Instance, Migration, NodeWork, Service

# For how long what the last pass read serves who says that it may be old; a server's replica may lag as much.
KEPT_S = 300.0
# How much of a save is sent at once. A node is never in two.
BATCH_BYTES = 1024 * 1024
HOSTS_KEPT = 4


class _Kept:
    """What a host's last pass read."""

    def __init__(self, asked: SnapshotAsked, said: SnapshotSaid, standing: Snapshot, since_s: float) -> None:
        self.asked = asked
        self.digest = said.digest
        self.standing = standing
        self.since_s = since_s

    @property
    def nodes(self) -> tuple[ComputeNode, ...]:
        """The host's nodes, by name."""
        records = (work.record for work in self.standing.works.values())
        found = [*(record for record in records if record is not None), *self.standing.others]
        return tuple(sorted(found, key=lambda node: node.hypervisor_hostname))


class RemoteLedger:
    """A ledger behind a server. Threads may share one."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._kept: dict[str, _Kept] = {}
        self._lock = threading.Lock()
        self._watch: RemoteWatch | None = None

    @property
    def name(self) -> str:
        """The server's URL."""
        return self._transport.url

    def close(self) -> None:
        """Close the connections."""
        if self._watch is not None:
            self._watch.close()
        self._transport.close()

    def watch(self, host: str, wake: Callable[[], None]) -> None:
        """Call `wake` soon after somebody changed promises on a host, or its service, until this is closed; once."""
        self._watch = RemoteWatch(self._transport, self._clock, host, wake)

    @property
    def owners(self) -> "RemoteOwners":
        """Whose the nodes are."""
        return RemoteOwners(self._ask)

    def nodes(self, *, host: str | None = None, replica: bool = False) -> tuple[ComputeNode, ...]:
        """Read nodes; if they may be old, those that the host's last pass saw."""
        kept = self._recent(host) if replica else None
        return kept.nodes if kept is not None else self._ask("nodes", host=host, replica=replica)

    def nodes_in_brief(
        self, *, host: str | None = None, uuids: Collection[str] | None = None, replica: bool = False
    ) -> tuple[ComputeNode, ...]:
        """Read nodes without what is large; if they may be old, those that the host's last pass saw, as a whole."""
        kept = self._recent(host) if replica and uuids is None else None
        if kept is not None:
            return kept.nodes
        return self._ask("nodes_in_brief", host=host, uuids=uuids, replica=replica)

    def node(self, name_or_uuid: str) -> ComputeNode:
        """Read one node."""
        return self._ask("node", name_or_uuid=name_or_uuid)

    def node_uuid(self, name_or_uuid: str) -> str:
        """Give a node's uuid."""
        return name_or_uuid if UUID.fullmatch(name_or_uuid) else self.node(name_or_uuid).uuid

    def deleted_nodes(self, host: str) -> tuple[ComputeNode, ...]:
        """Read deleted nodes."""
        return self._ask("deleted_nodes", host=host)

    def entries(self, node_uuid: str) -> tuple[Entry, ...]:
        """Read what makes a node's figures."""
        return self._ask("entries", node_uuid=node_uuid)

    def all_entries(self, node_uuids: Collection[str]) -> dict[str, tuple[Entry, ...]]:
        """Read what makes the figures of many nodes."""
        return self._ask("all_entries", node_uuids=node_uuids)

    def devices(self, node_uuids: Collection[str]) -> dict[str, tuple[PciRecord, ...]]:
        """Read devices."""
        return self._ask("devices", node_uuids=node_uuids)

    def unmanaged(self, node_uuids: Collection[str], *, reserves: bool = False) -> dict[str, tuple[Entry, ...]]:
        """Read the entries of guests that nobody promised."""
        return self._ask("unmanaged", node_uuids=node_uuids, reserves=reserves)

    def service(self, host: str) -> Service | None:
        """Read an agent's row."""
        return self._ask("service", host=host)

    def services(self) -> tuple[Service, ...]:
        """Read all agents' rows."""
        return self._ask("services")

    def register(self, host: str, *, version: str) -> Service:
        """Give the service of a host."""
        return self._ask("register", host=host, version=version)

    def heartbeat(self, host: str, *, version: str) -> Service:
        """Say that the agent of a host lives."""
        return self._ask("heartbeat", keeps=True, host=host, version=version)

    def set_service(
        self,
        host: str,
        *,
        disabled: bool | None = None,
        reason: str | None = None,
        forced_down: bool | None = None,
    ) -> Service:
        """Enable or disable an agent, or say that its host is down."""
        return self._ask("set_service", host=host, disabled=disabled, reason=reason, forced_down=forced_down)

    def work(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> dict[str, NodeWork]:
        """Read what is promised on nodes."""
        return self._ask("work", host=host, nodes=nodes, guests=guests)

    def snapshot(self, host: str, nodes: Collection[str], guests: Mapping[str, frozenset[str]]) -> Snapshot:
        """Read all that a pass needs, or learn that it is what was read last."""
        kept = self._kept.get(host)
        asked = SnapshotAsked(host=host, nodes=tuple(sorted(nodes)), guests=guests)
        body = asked
        if kept is not None and kept.asked == asked:
            body = replace(asked, known=kept.digest, strangers=strangers_to(kept.standing, guests))
        said: SnapshotSaid = self._transport.ask("POST", f"{ROOT}/standing", body, SnapshotSaid, again=True)
        standing = said.standing
        if standing is None:
            assert kept is not None, "nobody says that nothing changed to one who has nothing"
            standing = kept.standing
        with self._lock:
            self._kept.pop(host, None)
            self._kept[host] = _Kept(asked, said, standing, self._clock.monotonic_s())
            while len(self._kept) > HOSTS_KEPT:
                del self._kept[next(iter(self._kept))]
        return standing

    def save(self, saves: Sequence[NodeSave]) -> SaveOutcome:
        """Save nodes; many are sent in parts, each of them all or nothing."""
        saved: dict[str, ComputeNode] = {}
        conflicts: set[str] = set()
        for part in batches(saves):
            outcome: SaveOutcome = self._ask("save", saves=part)
            saved |= outcome.saved
            conflicts |= outcome.conflicts
        return SaveOutcome(saved=saved, conflicts=frozenset(conflicts))

    def note_failures(self, failures: Mapping[str, Problem | None]) -> None:
        """Write why nodes could not be refreshed."""
        if failures:
            self._ask("note_failures", failures=failures)

    def note_released(self, uuids: Collection[str]) -> None:
        """Remember what the scheduler let go."""
        self._ask("note_released", uuids=uuids)

    def delete_node(self, uuid: str) -> None:
        """Delete a node."""
        self._ask("delete_node", uuid=uuid)

    def note_provider_deleted(self, uuids: Collection[str]) -> None:
        """Remember that providers are gone."""
        self._ask("note_provider_deleted", uuids=uuids)

    def instances(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        named: str | None = None,
        deleted: bool = False,
    ) -> tuple[Instance, ...]:
        """Read instances."""
        return self._ask("instances", host=host, node=node, named=named, deleted=deleted)

    def instances_page(
        self, *, after: int, limit: int, host: str | None = None, node: str | None = None, deleted: bool = False
    ) -> tuple[tuple[Instance, ...], int | None]:
        """Read some instances."""
        found: tuple[tuple[Instance, ...], int | None] = self._ask(
            "instances_page", after=after, limit=limit, host=host, node=node, deleted=deleted
        )
        return found

    def put_instances(self, instances: Sequence[Instance]) -> None:
        """Insert instances."""
        self._ask("put_instances", instances=instances)

    def change_instances(self, instances: Sequence[Instance]) -> None:
        """Write instances that are there."""
        self._ask("change_instances", instances=instances)

    def delete_instances(self, uuids: Collection[str], *, released: bool = False) -> None:
        """Delete instances."""
        self._ask("delete_instances", uuids=uuids, released=released)

    def migrations(
        self,
        *,
        host: str | None = None,
        node: str | None = None,
        all: bool = False,  # noqa: A002  # as `DatabaseLedger` has it
    ) -> tuple[Migration, ...]:
        """Read migrations."""
        return self._ask("migrations", host=host, node=node, all=all)

    def put_migrations(self, migrations: Sequence[Migration]) -> None:
        """Insert migrations."""
        self._ask("put_migrations", migrations=migrations)

    def known_consumers(self, uuids: Collection[str]) -> frozenset[str]:
        """Say which consumers are known."""
        return self._ask("known_consumers", uuids=uuids) if uuids else frozenset()

    def history(self, node_uuid: str, *, since_s: float) -> tuple[Moment, ...]:
        """Read a node's history."""
        return self._ask("history", node_uuid=node_uuid, since_s=since_s)

    def thin_history(self, node_uuids: Collection[str]) -> int:
        """Thin nodes' history."""
        return self._ask("thin_history", keeps=True, node_uuids=node_uuids)

    def held(self, job: Job[T]) -> T:
        """Have a job done where the database is."""
        self._forget()
        path = f"{ROOT}/held/{type(job).__name__.lower()}"
        return self._transport.ask("POST", path, job, job.answer, again=True)

    def _ask(self, name: str, /, *, keeps: bool = False, **arguments: Any) -> Any:
        call = CALLS[name]
        if call.writes and not keeps:
            self._forget()
        return self._transport.ask("POST", call.path, arguments, call.answer, again=call.again)

    def _recent(self, host: str | None) -> _Kept | None:
        """Give what a host's last pass read, if it is not too old."""
        kept = self._kept.get(host) if host is not None else None
        return kept if kept is not None and self._clock.monotonic_s() - kept.since_s < KEPT_S else None

    def _forget(self) -> None:
        """Let who may be told what is old be told what is new."""
        with self._lock:
            for kept in self._kept.values():
                kept.since_s = float("-inf")


class RemoteOwners:
    """Whose the nodes are, behind a server."""

    def __init__(self, ask: Callable[..., Any]) -> None:
        self._ask = ask

    def read(self, uuids: Collection[str] | None = None) -> dict[str, str]:
        """Name the hosts that have nodes."""
        return self._ask("owners.read", uuids=uuids)

    def join(self, host: str, pool: Mapping[str, str] | None) -> None:
        """Say with whom a service divides nodes."""
        self._ask("owners.join", host=host, pool=pool)

    def take(self, expected: Mapping[str, str], host: str) -> frozenset[str]:
        """Take nodes from others."""
        return self._ask("owners.take", expected=expected, host=host)

    def give(self, wanted: Mapping[str, str], host: str) -> frozenset[str]:
        """Give nodes to others."""
        return self._ask("owners.give", wanted=wanted, host=host)


def batches(saves: Sequence[NodeSave]) -> list[list[NodeSave]]:
    """Cut a save into parts that a server takes."""
    parts: list[list[NodeSave]] = []
    size = BATCH_BYTES
    for one in saves:
        mine = len(msgspec.json.encode(one))
        if size + mine > BATCH_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += mine
    return parts
