"""How the agent does, as systemd and Prometheus are told it; the clock is the test's, the sockets are real."""

import json
import logging
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stocktake.agent.health import AgentHealth, silence_max_s
from stocktake.errors import DriverUnreachable, LedgerUnreachable, PlacementUnreachable
from stocktake.refresh.context import Pass
from stocktake.settings import Settings, Supervisor, read_settings
from stocktake.telemetry import CONFLICTS, DELETED, ERRORS, PASSES, SAVES, Telemetry
from tests.agent.metrics.test_life import told
from tests.agent.test_loop import SteppedClock
from tests.servers.systemd import Systemd, listening, status_of

LOCKED = LedgerUnreachable("the database is locked", where="ledger.db")
FOR_A_LONG_TIME_S = 3600.0


def settings_of(**flags: object) -> Settings:
    return read_settings(None, {}, {"host": "alpha", "my_ip": "192.0.2.7", "placement": {"mode": "none"}, **flags})


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with listening(tmp_path) as opened:
        yield opened


@pytest.fixture
def clock() -> SteppedClock:
    return SteppedClock()


def watch_of(clock: SteppedClock, systemd: Systemd, **asked: Any) -> AgentHealth:
    health = AgentHealth(clock, asked.pop("telemetry", None), Supervisor(systemd.address, FOR_A_LONG_TIME_S))
    health.settled(settings_of(**asked))
    return health


def test_given_an_agent_that_starts_when_its_first_pass_is_over_then_it_is_ready_and_not_before(
    clock: SteppedClock, systemd: Systemd
) -> None:
    health = watch_of(clock, systemd)
    health.alive()
    health.begins()
    clock.now_s += 2.5
    health.alive()
    assert systemd.drain() == [["EXTEND_TIMEOUT_USEC=180000000"], ["EXTEND_TIMEOUT_USEC=180000000"]]
    health.passed(told("one", "two"), None)
    assert systemd.drain() == [["READY=1", "STATUS=2 nodes; the last pass took 2.5 s"]]
    clock.now_s += 5
    health.alive()
    assert systemd.drain() == [["WATCHDOG=1"]]


def test_given_a_first_pass_that_fails_in_order_when_it_is_over_then_the_agent_is_ready_and_says_what_it_waits_for(
    clock: SteppedClock, systemd: Systemd
) -> None:
    health = watch_of(clock, systemd)
    health.begins()
    health.passed(Pass(), LOCKED)
    assert systemd.drain() == [["READY=1", "STATUS=Trying again: ledger.db: the database is locked"]]


def test_given_a_part_that_cant_be_opened_when_it_is_waited_for_then_systemd_waits_too(
    clock: SteppedClock, systemd: Systemd
) -> None:
    health = watch_of(clock, systemd)
    health.waits(LOCKED)
    assert systemd.drain() == [
        ["EXTEND_TIMEOUT_USEC=180000000", "STATUS=Waiting: ledger.db: the database is locked"],
    ]
    assert [reason["code"] for reason in health_of(health)["reasons"]] == ["no-pass", "ledger-away"]


def test_given_a_pass_that_hangs_when_time_goes_by_then_no_sign_is_given(clock: SteppedClock, systemd: Systemd) -> None:
    health = watch_of(clock, systemd)
    health.begins()
    health.passed(told("one"), None)
    health.alive()
    systemd.drain()
    health.begins()
    clock.now_s += 10_000
    assert systemd.drain() == []


def test_given_signs_in_quick_succession_when_given_then_systemd_gets_one_a_second(
    clock: SteppedClock, systemd: Systemd
) -> None:
    health = watch_of(clock, systemd)
    health.passed(told("one"), None)
    systemd.drain()
    for _ in range(50):
        clock.now_s += 0.0625
        health.alive()
    assert systemd.drain() == [["WATCHDOG=1"]] * 4


def test_given_a_watchdog_shorter_than_a_lawful_step_when_settled_then_it_is_made_longer_and_said_so(
    clock: SteppedClock, systemd: Systemd, caplog: pytest.LogCaptureFixture
) -> None:
    health = AgentHealth(clock, None, Supervisor(systemd.address, 30.0))
    health.settled(settings_of(driver_timeout_s=100))
    assert systemd.drain() == [["WATCHDOG_USEC=260000000"]]
    assert "WatchdogSec is 30 s" in caplog.text
    assert health.sign_s == 65
    # Once is enough; a shorter step later changes nothing.
    health.settled(settings_of(driver_timeout_s=10))
    assert systemd.drain() == []


@pytest.mark.parametrize(
    ("flags", "longest_s"),
    [
        ({}, 120.0),
        ({"driver_timeout_s": 5.0}, 70.0),
        ({"placement": {"mode": "embedded"}}, 120.0),
        ({"placement": {"mode": "remote", "url": "http://p", "timeout_s": 10.0, "retries_max": 2}}, 150.0),
    ],
)
def test_given_settings_when_the_longest_silence_is_worked_out_then_it_has_all_that_a_step_may_wait_for(
    flags: dict[str, object], longest_s: float
) -> None:
    assert silence_max_s(settings_of(**flags)) == longest_s


def test_given_nobody_who_waits_for_signs_when_asked_then_none_is_ever_due(clock: SteppedClock) -> None:
    assert AgentHealth(clock).sign_s == float("inf")


def test_given_a_reload_when_settled_then_systemd_hears_of_its_beginning_and_its_end(
    clock: SteppedClock, systemd: Systemd
) -> None:
    health = watch_of(clock, systemd)
    health.reloads()
    assert systemd.drain() == [], "before it is ready there is nothing to reload for systemd"
    health.passed(told("one"), None)
    systemd.drain()
    health.reloads()
    health.settled(settings_of(update_resources_interval=5))
    begun, over = systemd.drain()
    assert begun[:2] == ["RELOADING=1", "MONOTONIC_USEC=1000000000"]
    assert over[0] == "READY=1"
    health.settled(settings_of())
    assert systemd.drain() == []


def test_given_an_end_when_told_then_systemd_knows_why_it_takes_a_while(clock: SteppedClock, systemd: Systemd) -> None:
    watch_of(clock, systemd).stops()
    assert systemd.drain() == [["STOPPING=1", "STATUS=Stopping after the current step"]]


def test_given_troubles_when_a_pass_is_over_then_the_status_has_them(clock: SteppedClock, systemd: Systemd) -> None:
    health = watch_of(clock, systemd, placement={"mode": "embedded"})
    health.passed(told("one", "two"), None)
    away = PlacementUnreachable("answered 503", where="http://p")
    health.passed(told("two", known=("one", "two"), failed={"one": LOCKED}, unsynced={"two": away}), None)
    assert (
        status_of(systemd.drain()[-1])
        == "2 nodes, 1 stale, placement: http://p: answered 503; the last pass took 0.0 s"
    )


def health_of(health: AgentHealth) -> dict[str, Any]:
    page = health.healthz()
    answer: dict[str, Any] = json.loads(b"".join(page.body))
    assert answer["healthy"] == (page.status == 200)
    return answer


def test_given_passes_when_asked_for_health_then_it_is_fine_until_they_stop(
    clock: SteppedClock, systemd: Systemd
) -> None:
    health = watch_of(clock, systemd)
    assert [reason["code"] for reason in health_of(health)["reasons"]] == ["no-pass"]
    health.passed(told("one"), None)
    clock.now_s += 10
    answer = health_of(health)
    assert (answer["healthy"], answer["last_completed_pass_age_s"], answer["limit_s"]) == (True, 10, 180)
    assert answer["parts"] == {"driver": "up", "ledger": "up", "state": "up"}
    clock.now_s += 171
    assert [reason["code"] for reason in health_of(health)["reasons"]] == ["stale-pass"]


def test_given_a_failing_heartbeat_when_asked_for_health_then_the_ledger_is_away_until_it_answers(
    clock: SteppedClock, systemd: Systemd
) -> None:
    health = watch_of(clock, systemd)
    health.passed(told("one"), None)
    health.failed(LOCKED)
    assert health_of(health)["parts"]["ledger"] == "ledger.db: the database is locked"
    health.answered("ledger")
    assert health_of(health)["healthy"]


def test_given_passes_when_counted_then_what_they_did_is_in_the_totals(clock: SteppedClock, systemd: Systemd) -> None:
    telemetry = Telemetry()
    health = watch_of(clock, systemd, telemetry=telemetry)
    away = DriverUnreachable("no answer")
    health.passed(told("one", saves=3, conflicts=1, deleted=["two"], seconds={"audit": 0.5}), None)
    health.passed(told("one", failed={"two": away}, unsynced={"one": PlacementUnreachable("503")}), None)
    health.passed(Pass(), LOCKED)
    counts = telemetry.counts()
    assert {key: number for key, number in counts.totals.items() if number} == {
        (PASSES, "fine"): 1,
        (PASSES, "partial"): 1,
        (PASSES, "failed"): 1,
        (SAVES, ""): 3,
        (CONFLICTS, ""): 1,
        (DELETED, ""): 1,
        (ERRORS, "DriverUnreachable"): 1,
        (ERRORS, "PlacementUnreachable"): 1,
        (ERRORS, "LedgerUnreachable"): 1,
    }
    assert (sum(counts.passes.counts), counts.steps["audit"].sum_s) == (3, 0.5)


def test_given_a_scheduler_that_is_not_wanted_any_more_when_settled_then_it_is_no_part(
    clock: SteppedClock, systemd: Systemd
) -> None:
    health = watch_of(clock, systemd, placement={"mode": "embedded"})
    health.passed(told("one", unsynced={"one": PlacementUnreachable("503")}), None)
    assert health_of(health)["parts"]["placement"] == "503"
    health.settled(settings_of())
    assert set(health_of(health)["parts"]) == {"driver", "ledger", "state"}


def fetched(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as answer:
        text: str = answer.read().decode()
        return text


def told_url(caplog: pytest.LogCaptureFixture) -> str:
    """Give the last place that the log names."""
    lines = [record.getMessage() for record in caplog.records]
    return next(line for line in reversed(lines) if "are served" in line).rpartition(" ")[2]


def test_given_settings_that_change_when_settled_then_the_metrics_are_shown_where_they_say(
    clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    health = AgentHealth(clock, serve=True)
    first = settings_of(metrics={"listen": "127.0.0.1:0"})
    health.first(first)
    health.first(settings_of(metrics={"listen": ""}))
    url = told_url(caplog)
    assert "stocktake_build_info" in fetched(url)
    health.settled(first)
    health.passed(told("one"), None)
    assert 'stocktake_node_info{hypervisor="",node="one"' in fetched(url), "the same settings keep the same port"
    health.settled(settings_of(metrics={"listen": ""}))
    with pytest.raises(urllib.error.URLError):
        fetched(url)
    health.settled(settings_of(metrics={"listen": "[::1]:0"}))
    assert told_url(caplog).startswith("http://[::1]:")
    assert fetched(told_url(caplog).replace("/metrics", "/healthz"))
    health.close()


def test_given_a_port_in_use_when_settled_then_it_is_said_once_and_tried_again_after_every_pass(
    clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    health = AgentHealth(clock, serve=True)
    with socket.create_server(("127.0.0.1", 0)) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        health.settled(settings_of(metrics={"listen": listen}))
        health.passed(told("one"), None)
        health.passed(told("one"), None)
        (said,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert f"metrics are not served: {listen}: Address already in use" in said.getMessage()
    health.passed(told("one"), None)
    assert "stocktake_node_info" in fetched(f"http://{listen}/metrics")
    health.close()


def test_given_a_watch_that_does_not_serve_when_settled_then_it_listens_nowhere(
    clock: SteppedClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    health = AgentHealth(clock)
    health.settled(settings_of(metrics={"listen": "127.0.0.1:0"}))
    assert "are served" not in caplog.text
