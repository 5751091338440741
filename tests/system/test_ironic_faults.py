"""Ironic stopped, failing, slow or losing pages: nothing is deleted, all is told, and then all is right again."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from stocktake.errors import DriverError, DriverUnreachable, StocktakeError
from stocktake.model.books import ComputeNode
from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from tests.servers.between import Between, between
from tests.servers.ironic import IronicServer, private_ironic
from tests.servers.placement import PlacementServer
from tests.system.metal import HOST, look, metal_context, rows
from tests.system.readback import Readback, remote
from tests.system.running import Host

NODES = 12
PAGE = 5
SECOND_PAGE = "marker="
# One page is deleted from in these tests.
FEWER = 3
IMPATIENT = {"timeout_s": 1.0}


@pytest.fixture(scope="module")
def ironic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IronicServer]:
    """A server with three pages of nodes."""
    with private_ironic(tmp_path_factory.mktemp("ironic"), nodes=NODES, page=PAGE) as server:
        yield server


@pytest.fixture(scope="module")
def standing_between(ironic: IronicServer) -> Iterator[Between]:
    """What stands before it."""
    with between(ironic.url) as proxy:
        yield proxy


@pytest.fixture
def proxy(standing_between: Between) -> Iterator[Between]:
    """The same, well-behaved at the start."""
    standing_between.paths.clear()
    yield standing_between
    standing_between.behave()


@pytest.fixture(scope="module")
def there(own_server: PlacementServer) -> Readback:
    """What Placement has."""
    return Readback(own_server.url)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state path of one host, which all tests share: each leaves it as it found it."""
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def opened(state: Path, standing_between: Between, own_server: PlacementServer) -> Iterator[Context]:
    """The context of that host."""
    url, placement = standing_between.url, remote(own_server)
    with metal_context(state, url, placement=placement, ironic=IMPATIENT, driver_timeout_s=5.0) as context:
        yield context


@pytest.fixture
def context(opened: Context, proxy: Between) -> Context:
    """The same, when it has just taken stock."""
    result = refresh(opened)
    assert (result.fine, len(result.nodes) > NODES - FEWER) == (True, True)
    proxy.paths.clear()
    return opened


def html(_body: bytes) -> bytes:
    """What a captive portal says."""
    return b"<html>Sign in</html>"


def no_nodes(_body: bytes) -> bytes:
    """A page that is lost."""
    return b'{"nodes": []}'


def shorter(body: bytes) -> bytes:
    """A page that lost its last nodes."""
    page = json.loads(body)
    return json.dumps({**page, "nodes": page["nodes"][:-3]}).encode()


def anonymous(body: bytes) -> bytes:
    """A page whose nodes have no uuids."""
    page = json.loads(body)
    return json.dumps({**page, "nodes": [{**node, "uuid": None} for node in page["nodes"]]}).encode()


def told(path: str, how: dict[str, Any]) -> str:
    """Name a case the same in every process."""
    words = (f"{key} {getattr(value, '__name__', value)}" for key, value in how.items() if key != "body")
    return f"{path} {' '.join(words)}"


FAULTS: list[tuple[str, dict[str, Any], type[StocktakeError]]] = [
    ("/v1/nodes", {"answer": 500}, DriverUnreachable),
    ("/v1/nodes", {"answer": 503, "body": b"<html>no server</html>"}, DriverUnreachable),
    (SECOND_PAGE, {"answer": 500}, DriverUnreachable),
    ("/v1/nodes", {"delay_s": 5.0}, DriverUnreachable),
    (SECOND_PAGE, {"delay_s": 5.0}, DriverUnreachable),
    (SECOND_PAGE, {"cut": True}, DriverUnreachable),
    ("/v1/nodes", {"answer": 401}, DriverError),
    ("/v1/nodes", {"answer": 403}, DriverError),
    ("/v1/nodes", {"answer": 404, "body": b"no such page"}, DriverError),
    (SECOND_PAGE, {"answer": 404}, DriverError),
    ("/v1/nodes?", {"change": html}, DriverError),
    (SECOND_PAGE, {"change": html}, DriverError),
    (SECOND_PAGE, {"change": no_nodes}, DriverError),
    (SECOND_PAGE, {"change": shorter}, DriverError),
    (SECOND_PAGE, {"change": anonymous}, DriverError),
    ("/v1/nodes?", {"change": no_nodes}, DriverError),
]


@pytest.mark.parametrize(("path", "how", "error"), FAULTS, ids=[told(path, how) for path, how, _ in FAULTS])
def test_given_a_list_that_fails_when_refreshed_then_nothing_goes_all_is_told_and_the_next_pass_puts_it_right(
    *,
    state: Path,
    proxy: Between,
    context: Context,
    there: Readback,
    path: str,
    how: dict[str, Any],
    error: type[StocktakeError],
) -> None:
    before, providers = rows(state), there.everything()
    proxy.misbehave(path, **how)
    with pytest.raises(error) as caught:
        refresh(context)
    assert caught.value.remedy
    assert rows(state) == before
    assert there.everything() == providers
    failures = {row.failure.code for row in context.ledger.nodes() if row.failure}
    assert failures == {error.__name__}
    proxy.behave()
    result = refresh(context)
    assert (result.fine, result.deleted, len(result.nodes)) == (True, [], len(before))
    assert not [row for row in context.ledger.nodes() if row.failure]
    assert there.everything() == providers


@pytest.mark.parametrize("how", [{"answer": 500}, {"delay_s": 2.5}, {"cut": True}], ids=str)
def test_given_one_page_that_fails_once_when_refreshed_then_only_that_page_is_asked_for_again(
    proxy: Between, context: Context, how: dict[str, Any]
) -> None:
    proxy.misbehave(SECOND_PAGE, times=1, **how)
    assert refresh(context).fine
    assert len([path for path in proxy.paths if path.startswith("/v1/nodes?")]) == 4


@pytest.mark.parametrize("change", [no_nodes, shorter], ids=["no_nodes", "shorter"])
def test_given_a_page_that_stays_lost_when_refreshed_again_then_the_rest_is_reported_and_still_nothing_goes(
    state: Path, proxy: Between, context: Context, there: Readback, change: Callable[[bytes], bytes]
) -> None:
    """Each node that the list lacks is asked for by itself, and Ironic still has it."""
    before, providers = rows(state), there.providers().keys()
    proxy.misbehave(SECOND_PAGE, change=change)
    with pytest.raises(DriverError, match="the list lacks"):
        refresh(context)
    result = refresh(context)
    assert result.nodes.keys() | result.kept.keys() == before.keys()
    assert result.kept
    assert rows(state) == before
    assert there.providers().keys() == providers
    assert look(state, there, next(iter(result.kept))).problems == ["orphan-node"]
    proxy.behave()
    assert refresh(context).kept == {}


def test_given_a_lost_page_when_the_program_has_just_started_then_nothing_goes_either(
    state: Path, proxy: Between, context: Context, there: Readback, own_server: PlacementServer
) -> None:
    before = rows(state)
    proxy.misbehave(SECOND_PAGE, change=no_nodes)
    with metal_context(state, proxy.url, placement=remote(own_server)) as fresh:
        result = refresh(fresh)
    assert (len(result.nodes), result.deleted) == (PAGE, [])
    assert rows(state) == before
    assert set(there.providers()) == set(before)


def test_given_a_node_that_a_page_ends_with_when_it_is_deleted_between_then_the_list_begins_anew(
    state: Path, ironic: IronicServer, proxy: Between, context: Context
) -> None:
    gone: list[str] = []

    def delete_last(body: bytes) -> bytes:
        uuid = json.loads(body)["nodes"][-1]["uuid"]
        if not gone:
            ironic.delete(uuid)
            gone.append(uuid)
        return body

    proxy.misbehave("/v1/nodes?limit", change=delete_last, times=1)
    result = refresh(context)
    assert (result.fine, result.deleted) == (True, gone)
    assert gone[0] not in rows(state)


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"answer": 500}, DriverUnreachable),
        ({"delay_s": 5.0}, DriverUnreachable),
        ({"answer": 404, "body": b"<html>no such page</html>"}, None),
        ({"answer": 403}, None),
    ],
    ids=str,
)
def test_given_a_node_that_is_gone_when_ironic_itself_does_not_say_so_then_it_stays(
    *, state: Path, ironic: IronicServer, proxy: Between, own_server: PlacementServer, how: dict[str, Any], error: Any
) -> None:
    uuid = ironic.enrol(f"bm-{abs(hash(str(how)))}")
    with metal_context(state, proxy.url, placement=remote(own_server), ironic=IMPATIENT) as context:
        assert refresh(context).fine
    ironic.delete(uuid)
    # A program that has just started, and knows nothing of the last list.
    with metal_context(state, proxy.url, placement=remote(own_server), ironic=IMPATIENT) as context:
        proxy.misbehave(f"/v1/nodes/{uuid}", **how)
        if error is None:
            result = refresh(context)
            assert "can't be said" in result.kept[uuid]
        else:
            with pytest.raises(error):
                refresh(context)
        assert uuid in rows(state)
        proxy.behave()
        assert refresh(context).deleted == [uuid]
    assert uuid not in rows(state)


@pytest.mark.parametrize(
    ("newest", "shard", "said"),
    [("1.46", None, ""), ("1.72", None, ""), ("1.45", None, "1.46 is needed"), ("1.81", "s1", "1.82 is needed")],
)
def test_given_an_older_ironic_when_listed_then_its_version_is_used_or_the_error_says_which_is_needed(
    state: Path, proxy: Between, newest: str, shard: str | None, said: str
) -> None:
    """The real one refuses a version that it does not know in just this way, and takes the older."""
    headers = {"X-OpenStack-Ironic-API-Maximum-Version": newest}
    proxy.misbehave("/v1/nodes", answer=406, headers=headers, times=1)
    ironic = {"shard": shard} if shard else {}
    with metal_context(state / "x", proxy.url, placement={"mode": "none"}, ironic=ironic) as context:
        if said:
            with pytest.raises(DriverError, match=said):
                context.driver.node_names()
        else:
            assert len(context.driver.node_names()) > NODES - FEWER
            assert "shard" not in proxy.paths[-1]


def test_given_an_agent_when_ironic_is_away_slow_or_failing_then_it_is_right_again_within_one_interval(
    state: Path, ironic: IronicServer, proxy: Between, own_server: PlacementServer, there: Readback
) -> None:
    interval_s = 2
    host = Host(state / "agent")
    host.set(
        host=HOST,
        compute_driver="ironic",
        update_resources_interval=interval_s,
        driver_timeout_s=2.0,
        ironic={"endpoint_override": proxy.url, "timeout_s": 0.4, "api_max_retries": 0},
        placement=remote(own_server),
    )

    def nodes() -> Sequence[ComputeNode]:
        with host.ledger() as ledger:
            return ledger.nodes()

    def failing() -> set[str]:
        return {row.failure.code for row in nodes() if row.failure}

    with host.agent() as agent:
        agent.until(lambda: len(nodes()) > NODES - FEWER)
        before = rows(host.state)
        for begin in (
            ironic.stop,
            lambda: proxy.misbehave("/v1/nodes", answer=500),
            lambda: proxy.misbehave("/v1/nodes", delay_s=30.0),
            lambda: proxy.misbehave(SECOND_PAGE, change=no_nodes),
        ):
            begin()
            agent.until(failing)
            assert rows(host.state) == before
            proxy.behave()
            if ironic.process is None:
                ironic.start()
            asked = len(proxy.paths)
            agent.until(lambda: not failing())
            lists = [path for path in proxy.paths[asked:] if path.startswith("/v1/nodes?") and "marker=" not in path]
            # A pass that was under way may have to fail first, and one may have begun since.
            assert len(lists) <= 3, lists
            assert rows(host.state) == before
            assert set(there.providers()) == set(before)
