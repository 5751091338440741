"""
What nodes had, and what of it was allocated, over time. Invariant: one row for a node and an interval, only where a
figure changed, and fewer the older they are.

A row says what was true at the end of its interval and, until the next row, after it. `at` is when its interval began.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Connection, delete, select

from stocktake.ledger.calls import Calls, Rows, ledger_call
from stocktake.ledger.mapping import insert_into
from stocktake.ledger.tables import COMPUTE_NODE_HISTORY, is_in
from stocktake.model.access import AGENTS, ANY_TOKEN
from stocktake.model.books import ComputeNode
from stocktake.model.history import Ages, Moment

FIGURES: Final = (
    "vcpus",
    "vcpus_used",
    "memory_mb",
    "memory_mb_used",
    "local_gb",
    "local_gb_used",
    "running_vms",
)
HOUR_S: Final = 3600
DAY_S: Final = 24 * HOUR_S
# Rows that one step of thinning reads, or drops of nodes that nobody asked for any more.
STEP_ROWS: Final = 20_000
ROWS_MAX: Final = 100_000
# A century: nothing is older.
_LONGEST_S: Final = 100 * 366 * 86_400.0


def note(
    connection: Connection,
    nodes: Iterable[tuple[tuple[int, ...] | None, ComputeNode]],
    now: datetime,
    ages: Ages,
) -> None:
    """
    Remember nodes whose figures differ from what they were (None: they were not there); the last of an interval stays.
    """
    if not ages.interval_s:
        return
    at = floor(now, ages.interval_s)
    rows = [
        {"node_uuid": node.uuid, "at": at} | dict(zip(FIGURES, figures(node), strict=True))
        for before, node in nodes
        if before != figures(node)
    ]
    if rows:
        table = COMPUTE_NODE_HISTORY
        insert = insert_into(connection, table)
        new = {name: insert.excluded[name] for name in FIGURES}
        connection.execute(insert.on_conflict_do_update(index_elements=["node_uuid", "at"], set_=new), rows)


def figures(node: ComputeNode) -> tuple[int, ...]:
    """Pick what is remembered of a record, in the order of `FIGURES`."""
    return tuple(getattr(node, name) for name in FIGURES)


def doomed(
    connection: Connection, node_uuids: Collection[str], now: datetime, ages: Ages
) -> frozenset[tuple[str, datetime]]:
    """
    Pick the rows of these nodes that are too old to be kept, and the oldest of any; a bounded step, to be taken often.
    """
    columns = COMPUTE_NODE_HISTORY.c
    old = columns.at < now - timedelta(days=ages.full_days)
    query = select(columns.node_uuid, columns.at).where(is_in(columns.node_uuid, node_uuids), old)
    times: dict[str, list[datetime]] = {}
    for uuid, at in connection.execute(query.order_by(columns.node_uuid, columns.at).limit(STEP_ROWS)):
        times.setdefault(uuid, []).append(at)
    late = {(uuid, at) for uuid, several in times.items() for at in too_many(several, now, ages)}
    oldest = select(columns.node_uuid, columns.at).where(columns.at < now - timedelta(days=ages.daily_days))
    late |= {(row[0], row[1]) for row in connection.execute(oldest.order_by(columns.at).limit(STEP_ROWS))}
    return frozenset(late)


def too_many(times: Sequence[datetime], now: datetime, ages: Ages) -> tuple[datetime, ...]:
    """
    Pick the rows of one node that are not kept any more.

    Args:
        times: when their intervals began, the first first.
    """
    last: dict[tuple[int, datetime], datetime] = {}
    for at in times:
        for length_s in (HOUR_S, DAY_S):
            last[length_s, floor(at, length_s)] = at
    return tuple(at for at in times if not _is_kept(at, now, ages, last))


def _is_kept(at: datetime, now: datetime, ages: Ages, last: Mapping[tuple[int, datetime], datetime]) -> bool:
    age = now - at
    if age <= timedelta(days=ages.full_days):
        return True
    if age > timedelta(days=ages.daily_days):
        return False
    length_s = HOUR_S if age <= timedelta(days=ages.hourly_days) else DAY_S
    return last[length_s, floor(at, length_s)] == at


def floor(moment: datetime, length_s: int) -> datetime:
    """Give the beginning of the interval that a time is in, counted from 1970 in UTC."""
    seconds = int(moment.timestamp())
    return datetime.fromtimestamp(seconds - seconds % length_s, UTC)


def _nothing_doomed(tx: Calls, it: Any) -> int | None:
    return None if doomed(tx.connection, it.node_uuids, tx.now, tx.ages) else 0


class HistoryCalls(Calls):
    """The calls about history."""

    @ledger_call(roles=ANY_TOKEN, rows=lambda it: Rows(nodes=[it.node_uuid], deleted_nodes=[it.node_uuid]))
    def history(self, node_uuid: str, *, since_s: float) -> tuple[Moment, ...]:
        """
        Read what a node had and what was allocated in the last `since_s` seconds, the oldest first.

        The row before them is the first, for it still held when they began.
        """
        since = self.now - timedelta(seconds=min(max(since_s, 0.0), _LONGEST_S))
        columns = COMPUTE_NODE_HISTORY.c
        fields = [columns[name] for name in Moment.__struct_fields__]
        mine = select(*fields).where(columns.node_uuid == node_uuid)
        newest = columns.at.desc()
        before = self.connection.execute(mine.where(columns.at < since).order_by(newest).limit(1)).all()
        later = self.connection.execute(mine.where(columns.at >= since).order_by(newest).limit(ROWS_MAX)).all()
        return tuple(Moment(**row._mapping) for row in (*before, *reversed(later)))  # noqa: SLF001  # SQLAlchemy's name

    @ledger_call(
        roles=AGENTS,
        rows=lambda it: Rows(nodes=it.node_uuids, deleted_nodes=it.node_uuids),
        writes=True,
        routine=True,
        first=_nothing_doomed,
    )
    def thin_history(self, node_uuids: Collection[str]) -> int:
        """Drop rows of these nodes' history that are too old to be kept, in a bounded step; give how many went."""
        columns = COMPUTE_NODE_HISTORY.c
        rows = doomed(self.connection, node_uuids, self.now, self.ages)
        by_time: dict[datetime, list[str]] = {}
        for uuid, at in rows:
            by_time.setdefault(at, []).append(uuid)
        for at, uuids in by_time.items():
            old = delete(COMPUTE_NODE_HISTORY).where(columns.at == at, is_in(columns.node_uuid, uuids))
            self.connection.execute(old)
        return len(rows)
