"""A made-up fleet in a ledger: nodes with instances in all states, migrations, orphans and misplaced guests."""

from pathlib import Path

from stocktake import __version__
from stocktake.clock import Clock, RandomIds, SystemClock
from stocktake.drivers.fake.work import generate_work
from stocktake.ledger import open_ledger
from stocktake.model.value import replace
from stocktake.refresh.run import refresh
from tests.context import context_of

SEED = 1


def stocked(
    directory: Path,
    url: str,
    *,
    host: str = "compute-1",
    nodes: int = 8,
    clock: Clock | None = None,
    **more: object,
) -> None:
    """
    Fill a ledger with the fleet of a host, its agent alive; names of nodes begin with the host's.

    Args:
        more: settings.
    """
    clock = clock or SystemClock()
    ledger = open_ledger(url, clock=clock, ids=RandomIds())
    work = generate_work(SEED, nodes, host=host, now=clock.now(), prefix=host)
    ledger.put_instances(work.instances)
    first = max((one.id for one in ledger.migrations(all=True)), default=0)
    ledger.put_migrations([replace(one, id=first + one.id) for one in work.migrations])
    settings = {"host": host, "fake": {"nodes": nodes, "seed": SEED, "prefix": host}, **more}
    state = directory / host
    state.mkdir(exist_ok=True)
    with context_of(state, clock=clock, ledger=ledger, **settings) as context:
        result = refresh(context)
        assert result.fine, result
        ledger.heartbeat(host, version=__version__)
