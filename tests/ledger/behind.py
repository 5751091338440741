"""A ledger behind a server, which is the real application over a real socket."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stocktake.claims.opening import claims_with
from stocktake.client import RemoteLedger, Transport
from stocktake.clock import RandomIds, SystemClock
from stocktake.ledger import DatabaseLedger, open_ledger
from stocktake.placement.opening import open_scheduler
from stocktake.settings import read_settings
from stocktake.web.context import Web
from tests.ledger.making import opened
from tests.servers.serve import add_tokens, secret_of, served_in_thread


@contextmanager
def a_server(url: str, directory: Path) -> Iterator[tuple[str, DatabaseLedger]]:
    """Serve the ledger at a database URL with the tests' clock and ids; give the server's URL, and the ledger."""
    clock, ids = SystemClock(), RandomIds()
    with contextlib.closing(open_ledger(url, clock=clock, ids=ids)) as first:
        # Not by the tests' clock, which goes on whenever it is asked.
        add_tokens(first, clock)
    flags = {"host": "h", "state_path": directory, "placement.mode": "none", "server.rate_per_s": 0}
    settings = read_settings(None, environ={}, overrides=flags)
    scheduler = open_scheduler(settings.placement, clock, state_path=directory)
    with contextlib.closing(opened(url)) as ledger:
        claims = claims_with(settings, ledger, scheduler, clock, ids)
        web = Web(settings=settings, ledger=ledger, scheduler=scheduler, claims=claims, clock=clock, ids=ids)
        with served_in_thread(web) as at:
            yield at, ledger


def connected_to(at: str, token: str = "operator") -> RemoteLedger:  # a test's name of one
    """Connect to a server as somebody."""
    clock = SystemClock()
    return RemoteLedger(Transport(at, token=secret_of(token), cafile=None, clock=clock), clock)


@contextmanager
def behind_a_server(url: str, directory: Path) -> Iterator[RemoteLedger]:
    """Open the ledger at a database URL behind a server."""
    with a_server(url, directory) as (at, _), contextlib.closing(connected_to(at)) as remote:
        yield remote
