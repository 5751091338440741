"""Passes of an agent whose books are behind a server: few requests, and the same books as beside a database."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stocktake.audit import audit
from stocktake.claims import Claimed, ClaimRules, Claims, Request
from stocktake.claims.claims import NEVER_S
from stocktake.client import RemoteLedger
from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import LedgerUnreachable, StocktakeError
from stocktake.ledger import DatabaseLedger
from stocktake.model.workload import Flavor
from stocktake.placement import NoScheduler
from stocktake.placement.overrides import overrides_for
from stocktake.refresh.cache import RefreshCache
from stocktake.refresh.context import Context
from stocktake.refresh.locked import count_locked
from stocktake.refresh.run import refresh
from tests.context import Fleet, a_guest, an_instance, context_of
from tests.ledger.behind import a_server, connected_to
from tests.servers.postgres import postgres, postgres_url
from tests.servers.serve import HOST

__all__ = ["postgres", "postgres_url"]

GUEST = "aaaaaaaa-0000-4000-8000-000000000001"
SMALL = Flavor(vcpus=1, memory_mb=64)


class Sent(logging.Handler):
    """What urllib3 says that it sent."""

    def __init__(self) -> None:
        super().__init__()
        self.paths: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a request."""
        if "HTTP/1" in record.getMessage():
            self.paths.append(record.getMessage().split()[2].removeprefix("/v1/ledger/"))


@contextlib.contextmanager
def requests_sent() -> Iterator[list[str]]:
    """Note what is sent in a block."""
    sent, log = Sent(), logging.getLogger("urllib3.connectionpool")
    before = log.level
    log.addHandler(sent)
    log.setLevel(logging.DEBUG)
    yield sent.paths
    log.setLevel(before)
    log.removeHandler(sent)


@dataclass(frozen=True, slots=True)
class Pair:
    """A host whose books are behind a server, and the ledger that they are in."""

    context: Context
    fleet: Fleet
    ledger: DatabaseLedger

    @property
    def claims(self) -> Claims:
        """Promises, made in the database."""
        return Claims(self.ledger, NoScheduler(), ClaimRules(), SystemClock(), RandomIds())


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    sqlite = request.param == "sqlite"
    url = f"sqlite:///{tmp_path / 'ledger.db'}" if sqlite else request.getfixturevalue("postgres_url")
    fleet = Fleet(tmp_path / "fleet.json").has("one", guests=[a_guest(GUEST)])
    with (
        a_server(url, tmp_path) as (at, ledger),
        contextlib.closing(connected_to(at, "agent")) as remote,
    ):
        ledger.put_instances([an_instance(GUEST, host=HOST, node="one")])
        with context_of(tmp_path, host=HOST, ledger=remote) as context:
            yield Pair(context, fleet, ledger)


def test_given_nothing_that_happened_when_refreshed_then_one_request_is_sent(pair: Pair) -> None:
    cache = RefreshCache()
    first = refresh(pair.context, cache=cache)
    assert first.changed == {"one"}
    refresh(pair.context, cache=cache)
    with requests_sent() as sent:
        again = refresh(pair.context, cache=cache)
    assert sent == ["changed-snapshot"]
    assert (again.changed, again.nodes) == (set(), first.nodes)


@pytest.mark.parametrize("what", ["an instance", "a claim", "a service", "a node", "an unmanaged guest's row"])
def test_given_anything_that_others_changed_when_refreshed_then_it_is_seen(pair: Pair, what: str) -> None:
    """No change escapes the digest."""
    unmanaged = "bbbbbbbb-0000-4000-8000-000000000002"
    pair.fleet.has("one", guests=[a_guest(GUEST), a_guest(unmanaged)])
    for _ in range(3):
        refresh(pair.context)
    node = pair.ledger.node("one")
    if what == "an instance":
        pair.ledger.delete_instances([GUEST])
    elif what == "a claim":
        assert isinstance(pair.claims.build("one", Request(flavor=SMALL), expires_s=NEVER_S), Claimed)
    elif what == "a service":
        pair.ledger.set_service(HOST, disabled=True, reason="x")
    elif what == "a node":
        pair.ledger.delete_node(node.uuid)
    else:
        pair.ledger.put_instances([an_instance(unmanaged, host="elsewhere", node="else")])
    refresh(pair.context)
    kinds = sorted((entry.kind, entry.id) for entry in pair.ledger.entries(node.uuid) if entry.kind != "reserved")
    there = pair.ledger.node("one")
    seen = {
        "an instance": ("orphan", GUEST) in kinds,
        "a claim": there.vcpus_used == node.vcpus_used + 1,
        "a service": True,
        "a node": there.uuid == node.uuid and ("instance", GUEST) in kinds,
        "an unmanaged guest's row": ("misplaced", unmanaged) in kinds,
    }
    assert seen[what], kinds
    with requests_sent() as sent:
        refresh(pair.context)
    assert sent[-1] == "changed-snapshot"


def test_given_a_claim_whose_guest_is_there_when_refreshed_then_it_is_kept_from_afar(pair: Pair) -> None:
    refresh(pair.context)
    claimed = pair.claims.build("one", Request(flavor=SMALL))
    assert isinstance(claimed, Claimed)
    uuid = claimed.instance.uuid
    pair.fleet.has("one", guests=[a_guest(GUEST), a_guest(uuid)])
    refresh(pair.context)
    (found,) = pair.ledger.instances(named=uuid)
    assert (found.vm_state, found.claim_expires_at) == ("active", None)


def test_given_a_claim_that_has_expired_when_refreshed_then_it_is_given_back_from_afar(pair: Pair) -> None:
    refresh(pair.context)
    claimed = pair.claims.build("one", Request(flavor=SMALL), expires_s=0.001)
    assert isinstance(claimed, Claimed)
    assert claimed.instance.uuid in refresh(pair.context).expired
    assert pair.ledger.instances(named=claimed.instance.uuid) == ()
    refresh(pair.context)
    assert pair.ledger.node("one").vcpus_used == 2


def test_given_a_node_counted_with_its_row_held_when_done_from_afar_then_it_is_saved(pair: Pair) -> None:
    refresh(pair.context)
    context, before = pair.context, pair.ledger.node("one")
    pair.ledger.put_instances([an_instance("cccccccc-0000-4000-8000-000000000003", host=HOST, node="one")])
    views = audit(context.driver, context.monitors, ("one",), my_ip=context.settings.my_ip, limit=context.limit)
    view = views["one"]
    assert not isinstance(view, StocktakeError)
    done = count_locked(
        context.ledger,
        host=HOST,
        views={"one": view},
        uuids={"one": before.uuid},
        rules=context.rules,
        overrides={"one": overrides_for(context.overrides, "one", before.uuid)},
        disabled=False,
    )
    after = pair.ledger.node("one")
    assert done.outcome.saved == {before.uuid: after}
    assert (after.vcpus_used, after.generation) == (before.vcpus_used + 2, before.generation + 1)
    assert refresh(context).changed == set()


def test_given_no_server_when_asked_then_it_is_unreachable_in_bounded_time() -> None:
    with contextlib.closing(connected_to("http://127.0.0.1:9")) as nobody:
        assert isinstance(nobody, RemoteLedger)
        with pytest.raises(LedgerUnreachable) as caught:
            nobody.nodes()
    assert "stocktake serve" in caught.value.remedy
