"""
Claim room: for a build, an unshelve, a move. Invariant: no promise is made twice, whoever claims at once, from
wherever.

Each call is one transaction on the rows of the nodes it touches; the scheduler, if it is ours to tell, is told after
it, and what it refuses is taken back. A crash between the two is put right by the next refresh.
"""

from datetime import timedelta

from stocktake.accounting import lifecycle
from stocktake.accounting.lifecycle import Location, MoveKind, Step
from stocktake.claims.base import Done, Nodes
from stocktake.claims.books import count_anew, location_of
from stocktake.claims.nouns import Claimed, Refused, Request
from stocktake.claims.room import find_room
from stocktake.claims.settling import Settling
from stocktake.errors import NotNow
from stocktake.ledger import Transaction
from stocktake.model.fitting import Limits
from stocktake.model.value import replace
from stocktake.model.workload import Flavor, Instance, Migration


class Claims(Settling):
    """
    Promises on the nodes of a ledger. Threads may share one; processes on any machine may claim at once.

    Every call raises LedgerUnreachable or LedgerError as the ledger's calls do; then nothing was promised.
    """

    def build(
        self, node: str, request: Request, *, limits: Limits | None = None, expires_s: float | None = None
    ) -> Claimed | Refused:
        """
        Claim room for a machine that is to be built.

        Args:
            node: its name or uuid.
            limits: how far the node may be filled; None is unlimited but for NUMA cells and PCI devices.
            expires_s: after how long the claim is given back if nobody settles it; None takes the setting's time,
                `NEVER_S` keeps it for ever.

        Raises:
            NotFound: no such node.
            InvalidData: an extra spec of the flavor can't be read.
            AlreadyThere: an instance of that uuid is there already.
            PlacementUnreachable, PlacementError: the scheduler could not be told; nothing was promised.
        """
        node_uuid = self._ledger.node_uuid(node)
        flavor = replace(request.flavor, id=lifecycle.flavor_id(request.flavor))
        uuid = request.uuid or self._ids.uuid()

        def claim(books: Transaction) -> Done | Refused:
            nodes = books.hold([node_uuid])
            record = nodes[node_uuid]
            room = find_room(books, record, flavor, self._rules, limits, volume_backed=request.volume_backed)
            if isinstance(room, Refused):
                return room
            instance = Instance(
                uuid=uuid,
                name=request.name,
                host=record.host,
                node=record.hypervisor_hostname,
                vm_state="building",
                task_state="spawning",
                project_id=request.project_id,
                user_id=request.user_id,
                os_type=request.os_type,
                flavor=flavor,
                instance_type_id=flavor.id,
                numa_topology=room.numa,
                volume_backed=request.volume_backed,
                pci_devices=room.addresses,
                claim_expires_at=self.expiry(books.now, expires_s),
                created_at=books.now,
            )
            books.put_instances([instance])
            counted = count_anew(books, nodes, uuid, instance, None, takes={node_uuid: room.takes})
            return Claimed(instance=instance, nodes=tuple(one.node for one in counted)), counted

        with self._ledger.transaction() as books:
            done = claim(books)
        return self.told(done, undo=self.given_back)

    def unshelve(
        self, uuid: str, node: str, *, limits: Limits | None = None, expires_s: float | None = None
    ) -> Claimed | Refused:
        """
        Claim room for an instance that was shelved and offloaded; see `build`.

        Raises:
            NotFound: no such instance or node.
            NotNow: the instance is in another state.
        """
        node_uuid = self._ledger.node_uuid(node)

        def claim(books: Transaction, nodes: Nodes, before: Instance, _migration: Migration | None) -> Done | Refused:
            record, expires_at = nodes[node_uuid], self.expiry(books.now, expires_s)
            lifecycle.unshelving(before, location_of(record), None, expires_at)
            room = find_room(books, record, before.flavor, self._rules, limits, volume_backed=before.volume_backed)
            if isinstance(room, Refused):
                return room
            instance = lifecycle.unshelving(before, location_of(record), room.numa, expires_at)
            return self.counted(books, nodes, Step(instance=instance), takes={node_uuid: room.takes})

        done = self.on(uuid, claim, also=(node_uuid,))
        return self.told(done, undo=self.given_back)

    def move(
        self,
        uuid: str,
        kind: MoveKind,
        node: str,
        *,
        flavor: Flavor | None = None,
        limits: Limits | None = None,
        expires_s: float | None = None,
        force: bool = False,
    ) -> Claimed | Refused:
        """
        Claim room at the destination of a move, which may be the node that the instance is on; see `build`.

        Args:
            flavor: of a resize, what it is to have; other kinds keep theirs.
            force: evacuate although the agent of the source is alive.

        Raises:
            NotFound: no such instance or node.
            NotNow: the instance's state does not go with this kind of move.
            InvalidInput: the destination or the flavor does not.
        """
        node_uuid = self._ledger.node_uuid(node)

        def claim(books: Transaction, nodes: Nodes, before: Instance, _migration: Migration | None) -> Done | Refused:
            record = nodes[node_uuid]
            source, dest = Location(host=before.host or "", node=before.node or ""), location_of(record)
            lifecycle.check_move(before, kind, source, dest, flavor)
            if kind == "evacuation" and not force:
                self._check_down(source.host)
            same_pages = before.numa_topology if kind == "live-migration" else None
            wanted, backed = flavor or before.flavor, before.volume_backed
            room = find_room(books, record, wanted, self._rules, limits, volume_backed=backed, same_pages=same_pages)
            if isinstance(room, Refused):
                return room
            step = lifecycle.begun(
                before,
                kind,
                dest,
                flavor=flavor,
                numa=room.numa,
                devices=room.addresses,
                migration_id=books.next_migration_id(),
                migration_uuid=self._ids.uuid(),
                expires_at=self.expiry(books.now, expires_s),
            )
            assert step.migration is not None
            books.put_migrations([replace(step.migration, created_at=books.now, updated_at=books.now)])
            return self.counted(books, nodes, step, takes={node_uuid: room.takes})

        done = self.on(uuid, claim, also=(node_uuid,))
        return self.told(done, undo=self.given_back)

    def _check_down(self, host: str) -> None:
        """Refuse to build a machine again whose host lives: it would run twice."""
        service = self._ledger.service(host)
        if service is None or service.forced_down or service.last_seen_up is None:
            return
        if self._clock.now() - service.last_seen_up <= timedelta(seconds=self._rules.down_s):
            remedy = "Stop that agent and fence the host first, or take a live migration; `--force` if you know better."
            raise NotNow("its agent is alive: the machine would run twice", where=host, remedy=remedy)
