"""
Step 7a, the agents' rows: when each last reported, whether it may be given more. Invariant: one row a host.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from sqlalchemy import Connection, select, update

from stocktake.errors import NotFound
from stocktake.ledger.calls import Calls, ledger_call
from stocktake.ledger.engine import tell
from stocktake.ledger.mapping import SERVICE, insert_into
from stocktake.ledger.tables import SERVICES
from stocktake.model.access import AGENTS, ANY_TOKEN, OPERATORS
from stocktake.model.value import Value, encode
from stocktake.model.workload import Service

BINARY = "stocktake-agent"


def read_services(connection: Connection, host: str | None = None) -> tuple[Service, ...]:
    """Read the agents' rows, by host."""
    query = select(*SERVICE.select).where(SERVICES.c.binary == BINARY).order_by(SERVICES.c.host)
    if host is not None:
        query = query.where(SERVICES.c.host == host)
    return SERVICE.read_all(connection.execute(query).all())


class Beat(Value, frozen=True, kw_only=True):
    """
    What became of a sign of life.

    Attributes:
        other: another run of this host's agent that gave one since the last of this one, and lives; None if none does.
    """

    service: Service
    other: str | None = None


class ServiceCalls(Calls):
    """The calls about services."""

    @ledger_call(roles=ANY_TOKEN)
    def service(self, host: str) -> Service | None:
        """Read an agent's row."""
        return next(iter(read_services(self.connection, host)), None)

    @ledger_call(roles=ANY_TOKEN)
    def services(self, *, host: str | None = None) -> tuple[Service, ...]:
        """Read all agents' rows, by host, or a host's."""
        return read_services(self.connection, host)

    @ledger_call(roles=AGENTS, writes=True, routine=True)
    def register(self, host: str, *, version: str, machine: str | None = None) -> Service:
        """Give the service of a host, made if it is new; that is no sign of life of an agent."""
        new = Service(uuid=self.ids.uuid(), host=host, version=version, machine=machine, created_at=self.now)
        statement = insert_into(self.connection, SERVICES).values(SERVICE.values(new))
        self.connection.execute(statement.on_conflict_do_nothing(index_elements=["host", "binary"]))
        (service,) = read_services(self.connection, host)
        return service

    @ledger_call(roles=AGENTS, writes=True, routine=True)
    def heartbeat(
        self,
        host: str,
        *,
        version: str,
        run: str | None = None,
        since: datetime | None = None,
        down_time_s: float = 60.0,
    ) -> Beat:
        """
        Say that the agent of a host lives now; its row is made if it is new.

        Who finds another run there says all the same that it lives: so the other finds it too.

        Args:
            run: the id of the agent's process; None says nothing of it.
            since: when it last said so; None if it is the first time: whoever was there before is its predecessor.
            down_time_s: who gave no sign of life for so long does not live.
        """
        now, columns = self.now, SERVICES.c
        count, mine = columns.report_count, (columns.host == host, columns.binary == BINARY)
        there = self.connection.execute(
            select(columns.run, columns.last_seen_up).where(*mine).with_for_update()
        ).one_or_none()
        other = None
        if run is not None and since is not None and there is not None and there.run not in {None, run}:
            lives = since < there.last_seen_up and now - there.last_seen_up < timedelta(seconds=down_time_s)
            other = there.run if lives else None
        new = Service(uuid=self.ids.uuid(), host=host, version=version, run=run, last_seen_up=now, created_at=now)
        statement = insert_into(self.connection, SERVICES).values(SERVICE.values(new) | {"report_count": 1})
        beat = {"report_count": count + 1, "last_seen_up": now, "version": version, "updated_at": now}
        beat |= {} if run is None else {"run": run}
        statement = statement.on_conflict_do_update(index_elements=["host", "binary"], set_=beat)
        service = SERVICE.reader()(self.connection.execute(statement.returning(*SERVICE.select)).one())
        return Beat(service=service, other=other)

    @ledger_call(roles=AGENTS, writes=True)
    def note_machine(self, host: str, machine: str) -> None:
        """
        Say which machine has a host's name.

        Raises:
            NotFound: no such service.
        """
        self._write_service(host, {"machine": machine})

    @ledger_call(roles=OPERATORS, writes=True)
    def set_service(
        self,
        host: str,
        *,
        disabled: bool | None = None,
        reason: str | None = None,
        forced_down: bool | None = None,
    ) -> Service:
        """
        Enable or disable an agent for the scheduler, or say that its host is down whatever the agent says.

        Args:
            disabled: None leaves it, and its reason, as it is.
            reason: why it is disabled; an enabled one has none.
            forced_down: None leaves it as it is.

        Raises:
            NotFound: no agent of that host ever reported.
        """
        values: dict[str, object] = {}
        if disabled is not None:
            values |= {"disabled": disabled, "disabled_reason": reason}
        if forced_down is not None:
            values |= {"forced_down": forced_down}
        tell(self.connection, [host])
        return self._write_service(host, values, remedy="`stocktake services` lists those there are.")

    @ledger_call(roles=AGENTS, writes=True)
    def join_pool(self, host: str, pool: Mapping[str, str] | None) -> None:
        """
        Say which nodes a service divides with others of the same pool; None: none.

        Raises:
            NotFound: no such service.
        """
        self._write_service(host, {"pool": None if pool is None else encode(pool)})

    def _write_service(self, host: str, values: Mapping[str, object], *, remedy: str = "") -> Service:
        columns = SERVICES.c
        written = update(SERVICES).where(columns.host == host, columns.binary == BINARY)
        written = written.values(updated_at=self.now, **values)
        row = self.connection.execute(written.returning(*SERVICE.select)).one_or_none()
        if row is None:
            raise NotFound(f"no service on {host!r}", where="ledger", remedy=remedy)
        return SERVICE.reader()(row)
