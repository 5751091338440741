"""Two machines of one name on one ledger: the second takes nothing of the first's, and two that live both say so."""

import json
from functools import partial
from pathlib import Path

import pytest

from tests.context import Fleet, a_guest
from tests.servers.postgres import postgres, postgres_url
from tests.system.running import Host

__all__ = ["postgres", "postgres_url"]

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
NAME = "alpha"
NODE = "alpha.example"


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Host, Host]:
    """Two machines of one name and one ledger, each with a state path of its own; the second runs no guest."""
    url = f"sqlite:///{tmp_path}/ledger.db"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    made: list[Host] = []
    for machine, guests in (("first", [a_guest(GUEST)]), ("second", [])):
        fleet = Fleet(tmp_path / f"{machine}.json").has(NODE, guests=guests)
        settings: dict[str, object] = {
            "host": NAME,
            "machine_id": machine,
            "compute_driver": "fake",
            "fake.fleet": str(fleet.path),
            "database.connection": url,
            "placement.mode": "none",
            "adopt": "auto",
            "report_interval": 1,
        }
        made.append(Host(tmp_path / machine, settings))
    return made[0], made[1]


def books(host: Host) -> list[str]:
    """All that the ledger has but for the service's row, which each heartbeat changes."""
    lines = host.dump().splitlines()
    return [line for line in lines if json.loads(line)["table"] not in {"services", "ledger", "end"}]


def beats(host: Host) -> int:
    with host.ledger() as ledger:
        service = ledger.service(NAME)
        return service.report_count if service is not None else 0


def beats_from(host: Host, count: int) -> bool:
    return beats(host) >= count


def test_given_a_living_agent_when_another_machine_of_its_name_starts_then_that_stops_and_nothing_changes(
    pair: tuple[Host, Host],
) -> None:
    first, second = pair
    with first.agent() as agent:
        agent.until(lambda: beats(first) >= 1)
        before = books(first)
        assert any(GUEST in line for line in before)
        for words in (("refresh",), ("agent", "--once"), ("agent",)):
            result = second.run(*words)
            assert result.code == 2, result
            assert "another machine" in result.err
            assert "`host`" in result.err
        assert not (second.state / "compute_id").exists()
        assert books(first) == before
        count = beats(first)
        agent.until(lambda: beats(first) > count)


def test_given_an_agent_that_was_killed_when_it_starts_again_at_once_then_it_goes_on(pair: tuple[Host, Host]) -> None:
    first, _ = pair
    with first.agent() as agent:
        agent.until(lambda: beats(first) >= 1)
    for _ in range(2):
        count = beats(first)
        with first.agent() as agent:
            # Its own second heartbeat would find anybody else.
            agent.until(partial(beats_from, first, count + 3))
            assert agent.count("another agent") == 0


def test_given_a_machine_that_was_replaced_when_it_is_told_so_then_it_has_the_name_and_the_old_one_stops(
    pair: tuple[Host, Host],
) -> None:
    first, second = pair
    first.ask("refresh")
    (node,) = first.ask("nodes")
    refused = second.run("refresh")
    assert (refused.code, "--adopt-identity" in refused.err) == (2, True), refused
    assert not (second.state / "compute_id").exists()
    with second.agent("--adopt-identity") as agent:
        agent.until(lambda: beats(second) >= 2)
        assert (second.state / "compute_id").read_text().strip() == node["uuid"]
        before = books(second)
        old = first.run("refresh")
        assert (old.code, "another machine" in old.err) == (2, True), old
        assert books(second) == before
    # From now on it needs no word of anybody.
    second.ask("refresh")


def test_given_two_agents_with_one_identity_when_both_live_then_both_say_so_and_stop(pair: tuple[Host, Host]) -> None:
    first, second = pair
    second.set(machine_id="first", fake__fleet=first.settings["fake.fleet"])
    with first.agent() as one:
        one.until(lambda: beats(first) >= 1)
        (second.state / "compute_id").write_text((first.state / "compute_id").read_text())
        with second.agent() as other:
            for agent in (one, other):
                assert agent.end() == 2, agent.text
                assert "another agent lives as host 'alpha'" in agent.text
    assert any(GUEST in line for line in books(first))
