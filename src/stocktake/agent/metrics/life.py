"""
What is kept of the passes for those who watch: a few numbers per node. Invariant: pure; a pass in, the new figures out.

Records are large and many; between passes only what is shown is kept.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stocktake.accounting.capacity import ResourceTotals, resources_of
from stocktake.errors import DriverUnreachable, LedgerUnreachable, PlacementUnreachable, StateLost, StocktakeError
from stocktake.model.books import ComputeNode, Entry
from stocktake.model.value import Value, replace
from stocktake.refresh.context import Pass, failure_of
from stocktake.views.problems import own_problems

HOLDERS = ("instance", "migration", "orphan", "misplaced")


class NodeFigures(Value, frozen=True, kw_only=True):
    """
    One node as it is shown: MiB, GiB, whole CPUs.

    Attributes:
        uuid: empty for a node that was never refreshed, of which there is no record.
        resources: by name; of a record that this agent has not tallied yet only totals and ratios are known.
        holders: how many entries of each kind; empty for such a record.
        problems: how many of each code and severity, without the failure.
        failure: code and severity of why it could not be refreshed; None if it was.
        running_guests: None if the driver can't list guests.
        stale: the last try to refresh it failed; the figures are older.
        updated_at_s: when the record last changed, seconds since 1970.
        refreshed_at_s: when this agent last refreshed it well, seconds since 1970; None for never.
    """

    uuid: str = ""
    hypervisor_type: str = ""
    disk_available_least: int | None = None
    resources: Mapping[str, ResourceTotals] = {}
    holders: Mapping[str, int] = {}
    problems: Mapping[tuple[str, str], int] = {}
    failure: tuple[str, str] | None = None
    running_guests: int | None = None
    stale: bool = False
    updated_at_s: float | None = None
    refreshed_at_s: float | None = None

    @property
    def wrong(self) -> Mapping[tuple[str, str], int]:
        """Count all that is wrong with it by code and severity, the failed refresh too."""
        return Counter(self.problems) + Counter([self.failure] if self.failure else ())


class Life(Value, frozen=True, kw_only=True):
    """
    How the agent does. Ages are by a steady clock (`_s`), times by the calendar (`_at_s`, seconds since 1970).

    Attributes:
        started_s, started_at_s: when the agent started.
        interval_s: the time between passes; None if the periodic pass is off.
        limit_s: after how long without a completed pass the agent is not healthy.
        began_s: when the pass under way began; None if none is.
        completed_s, completed_at_s: when a pass last ended without an error of its own.
        ended_at_s, took_s: when a pass last ended, however, and how long it took.
        parts: what is wrong with the driver, the ledger, Placement and the state path; empty text if nothing.
        own_placement: Placement is embedded in this agent, which is not healthy without it.
        nodes: by name.
    """

    started_s: float
    started_at_s: float
    interval_s: float | None = None
    limit_s: float = 0.0
    began_s: float | None = None
    completed_s: float | None = None
    completed_at_s: float | None = None
    ended_at_s: float | None = None
    took_s: float | None = None
    parts: Mapping[str, str] = {}
    own_placement: bool = False
    nodes: Mapping[str, NodeFigures] = {}


def after(
    before: Mapping[str, NodeFigures], result: Pass, error: StocktakeError | None, now_at_s: float
) -> dict[str, NodeFigures]:
    """
    Work out the nodes' figures after a pass.

    Args:
        error: what ended the pass; None if it completed.
        now_at_s: the time, in seconds since 1970.
    """
    figures = dict(before)
    for row in result.known:
        figures.setdefault(row.hypervisor_hostname, _figures(row, stale=row.failure is not None))
    if error is not None:
        return {name: replace(one, stale=True) for name, one in figures.items()}
    for name, record in result.nodes.items():
        figures[name] = _figures(
            record,
            entries=result.entries.get(name, ()),
            running_guests=result.guests.get(name),
            refreshed_at_s=now_at_s,
        )
    for name, failed in result.failed.items():
        problem = failure_of(failed)
        # One that was never refreshed has no record.
        before_it = figures.get(name, NodeFigures())
        figures[name] = replace(before_it, stale=True, failure=(problem.code, problem.severity))
    for name in result.kept.keys() & figures.keys():
        figures[name] = replace(figures[name], stale=True)
    ours = {row.hypervisor_hostname for row in result.known} | result.nodes.keys() | result.failed.keys()
    return {name: one for name, one in figures.items() if name in ours and name not in result.deleted}


def parts_after(before: Mapping[str, str], result: Pass, error: StocktakeError | None) -> dict[str, str]:
    """
    Say which parts answered in a pass, and what is wrong with those that did not.

    A pass that ended early says nothing of the parts that it did not come to.
    """
    if error is not None:
        # These steps go through only with an answer.
        steps = (("state", "read"), ("ledger", "read"), ("driver", "list"))
        answered = {part: "" for part, step in steps if step in result.seconds}
        return {**before, **answered, **_away(error)}
    parts = {**before, "driver": "", "ledger": "", "state": ""}
    if result.nodes:
        # Without a saved record nobody asks Placement.
        parts["placement"] = ""
    silent = [one for one in result.failed.values() if isinstance(one, DriverUnreachable)]
    # One machine of many that does not answer is that node's trouble.
    if silent and len(silent) == len(result.failed) and not result.nodes:
        parts |= _away(silent[0])
    for one in result.unsynced.values():
        if isinstance(one, PlacementUnreachable):
            parts |= _away(one)
    return parts


def _away(error: StocktakeError) -> dict[str, str]:
    kinds = {
        "driver": DriverUnreachable,
        "ledger": LedgerUnreachable,
        "placement": PlacementUnreachable,
        "state": StateLost,
    }
    return {part: str(error) for part, kind in kinds.items() if isinstance(error, kind)}


def _figures(
    record: ComputeNode,
    *,
    entries: Sequence[Entry] = (),
    running_guests: int | None = None,
    stale: bool = False,
    refreshed_at_s: float | None = None,
) -> NodeFigures:
    kinds: Counter[str] = Counter(entry.kind for entry in entries)
    resources = resources_of(record, entries)
    # Without entries nobody knows what of a record is reserved.
    problems = own_problems(replace(record, failure=None), entries, resources if entries else ())
    failure = record.failure
    return NodeFigures(
        uuid=record.uuid,
        hypervisor_type=record.hypervisor_type or "",
        disk_available_least=record.disk_available_least,
        resources={one.name: one for one in resources},
        holders={kind: kinds[kind] for kind in HOLDERS} if entries else {},
        problems=dict(Counter((problem.code, problem.severity) for problem in problems)),
        failure=(failure.code, failure.severity) if failure else None,
        running_guests=running_guests,
        stale=stale,
        updated_at_s=record.updated_at.timestamp() if record.updated_at else None,
        refreshed_at_s=refreshed_at_s,
    )


# How many intervals may pass without a completed pass, and how short that may be: a busy host takes its time.
_INTERVALS_MAX = 3
_LIMIT_LEAST_S = 180.0


@dataclass(frozen=True, slots=True)
class Reason:
    """Why not: a stable code, and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Health:
    """The verdict; healthy without reasons."""

    reasons: tuple[Reason, ...]

    @property
    def healthy(self) -> bool:
        """Say whether there is nothing to complain of."""
        return not self.reasons


def limit_s(interval_s: float | None, asked_s: float) -> float:
    """Give the seconds within which a pass has to complete: those asked for; for 0 three intervals, at least 180."""
    return asked_s or max(_LIMIT_LEAST_S, _INTERVALS_MAX * (interval_s or 0.0))


def health(life: Life, now_s: float) -> Health:
    """Judge; `now_s` is the steady clock's."""
    return Health(tuple(_reasons(life, now_s)))


def _reasons(life: Life, now_s: float) -> Iterator[Reason]:
    if life.completed_s is None:
        yield Reason("no-pass", f"no pass has completed yet; the agent started {now_s - life.started_s:.0f} s ago")
    elif life.interval_s is not None and now_s - life.completed_s > life.limit_s:
        age_s = now_s - life.completed_s
        yield Reason("stale-pass", f"no pass has completed for {age_s:.0f} s; the limit is {life.limit_s:g} s")
    elif life.began_s is not None and now_s - life.began_s > life.limit_s:
        age_s = now_s - life.began_s
        yield Reason("long-pass", f"a pass has been running for {age_s:.0f} s; the limit is {life.limit_s:g} s")
    for part in ("state", "ledger", "driver", *(["placement"] if life.own_placement else [])):
        if life.parts.get(part):
            yield Reason(f"{part}-away", life.parts[part])
