"""The whole way: the agent, a real Prometheus that scrapes it, the alert rules and every query of the dashboard."""

from pathlib import Path

import pytest

from tests.context import Fleet, a_guest
from tests.packaging.queries import expressions, rules
from tests.servers.placement import PlacementServer
from tests.servers.prometheus import Prometheus, private_prometheus
from tests.system.readback import remote
from tests.system.running import Host
from tests.system.scraping import url_of

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
# What asks for problems, of which there are none while all is well.
QUIET = ("Problems by code", "Nodes I ")


def alerts(prometheus: Prometheus) -> set[str]:
    """Give the names of the alerts that are on their way."""
    return {rule["name"] for rule in prometheus.rules() if rule["state"] != "inactive"}


def test_given_an_agent_that_prometheus_scrapes_when_asked_then_every_query_has_an_answer_and_alerts_come_and_go(
    tmp_path: Path, fleet: Fleet, server: PlacementServer
) -> None:
    fleet.has("one", guests=[a_guest(GUEST)]).has("two", guests=[])
    settings: dict[str, object] = {"host": "alpha", "compute_driver": "fake", "fake.fleet": str(fleet.path)}
    settings |= {f"placement.{name}": value for name, value in remote(server).items()}
    settings |= {"update_resources_interval": 1, "report_interval": 1, "metrics.listen": "127.0.0.1:0"}
    with (
        Host(tmp_path / "state", settings).agent() as agent,
        private_prometheus(tmp_path, [url_of(agent).removeprefix("http://")]) as prometheus,
    ):
        agent.until(lambda: prometheus.query("stocktake_passes_total > 3"))
        agent.until(lambda: {rule["health"] for rule in prometheus.rules()} == {"ok"})
        assert {rule["name"] for rule in prometheus.rules()} == rules().keys()
        assert alerts(prometheus) == set()
        asked = expressions()
        # A rate needs two scrapes, a percentile two passes between them.
        agent.until(lambda: not [where for where in asked if silent(prometheus, where, asked[where])])
        assert prometheus.query("sum(stocktake_node_running_guests)")[0]["value"][1] == "1"

        fleet.has("one", fault={"raise": "DriverError", "text": "it burns"})
        agent.until(lambda: alerts(prometheus) == {"StocktakeNodeStale"})
        fleet.has("one", guests=[])
        agent.until(lambda: alerts(prometheus) == set())

        server.misbehave("*", "/", status=503)
        agent.until(lambda: alerts(prometheus) == {"StocktakePlacementUnreachable"})
        server.behave()
        agent.until(lambda: alerts(prometheus) == set())


def silent(prometheus: Prometheus, where: str, expression: str) -> bool:
    """Say whether a query of a panel that always has something to show gives nothing."""
    return not where.startswith(QUIET) and not prometheus.query(expression)
