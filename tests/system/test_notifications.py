"""What is told on a real RabbitMQ, heard by a consumer of its own; and a bus that is away holds nobody up."""

import logging
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stocktake.refresh.context import Context
from stocktake.refresh.run import refresh
from stocktake.report.notifications import Bus, open_bus
from tests.context import Fleet, a_guest, context_of
from tests.servers.rabbitmq import Listener, PrivateRabbit
from tests.system.running import Host

pytestmark = pytest.mark.system

GUEST = "bbbbbbbb-0000-4000-8000-000000000001"
PERCENTS = {"cpu.percent", *(f"cpu.{kind}.percent" for kind in ("user", "kernel", "idle", "iowait"))}
TIMES = {f"cpu.{kind}.time" for kind in ("user", "kernel", "idle", "iowait")}


@pytest.fixture
def host(tmp_path: Path, fleet: Fleet, rabbitmq: PrivateRabbit) -> Host:
    """A host with one fake node, the monitor `cpu`, and the bus."""
    fleet.has("one")
    settings = {"host": "alpha", "compute_driver": "fake", "fake.fleet": str(fleet.path), "placement.mode": "none"}
    settings |= {"notifications.transport_url": rabbitmq.url}
    return Host(tmp_path / "state", {**settings, "compute_monitors": ["cpu"]})


@pytest.fixture
def context(tmp_path: Path, fleet: Fleet, rabbitmq: PrivateRabbit) -> Iterator[Context]:
    """The context of such a host in this process, without metrics; the bus is tried again every tenth of a second."""
    fleet.has("one")
    notifications = {"transport_url": rabbitmq.url, "topics": [topic_of(tmp_path)]}
    with context_of(tmp_path, notifications=notifications) as opened:
        section = opened.settings.notifications
        bus = open_bus(section, "alpha", opened.clock, opened.ids, longest_s=0.1)
        assert bus is not None
        yield replace(opened, bus=bus)
        bus.close()


def topic_of(tmp_path: Path) -> str:
    """Each test its own, so that what one leaves is no other's."""
    return tmp_path.name


def bus_of(context: Context) -> Bus:
    assert context.bus is not None
    return context.bus


def changes(listener: Listener) -> Any:
    """Wait for the next message, which tells of a change, and give what changed."""
    message = listener.get()
    assert message["event_type"] == "compute_node.update"
    return message["payload"]["changes"]


def test_given_the_defaults_when_refreshed_then_nova_s_consumers_hear_the_metrics_and_then_the_record(
    host: Host, rabbitmq: PrivateRabbit
) -> None:
    with rabbitmq.queue("notifications.info") as listener:
        host.ask("refresh")
        metrics, record = listener.get(), listener.get()
        assert listener.rest() == []
        assert {envelope["oslo.version"] for envelope in listener.envelopes} == {"2.0"}
    shown = host.ask("show", "one")

    assert metrics["event_type"] == "compute.metrics.update"
    assert (metrics["priority"], metrics["publisher_id"]) == ("INFO", "stocktake-agent:alpha")
    payload = metrics["payload"]
    assert payload.keys() == {"host", "host_ip", "nodename", "metrics"}
    assert (payload["host"], payload["host_ip"], payload["nodename"]) == ("alpha", "192.0.2.7", "one")
    assert all(one.keys() == {"name", "value", "timestamp", "source"} for one in payload["metrics"])
    values = {one["name"]: one["value"] for one in payload["metrics"]}
    assert values.keys() == PERCENTS | TIMES | {"cpu.frequency"}
    assert values == {one["name"]: one["value"] for one in shown["metrics"]}

    assert record["event_type"] == "compute_node.create"
    assert "changes" not in record["payload"]
    assert record["payload"] == {name: shown[name] for name in record["payload"]}
    assert record["payload"]["memory_mb_used"] == 512


def test_given_both_formats_when_refreshed_then_the_second_is_as_nova_wraps_it(
    host: Host, rabbitmq: PrivateRabbit, tmp_path: Path
) -> None:
    first, second = f"{topic_of(tmp_path)}-first", f"{topic_of(tmp_path)}-second"
    host.set(notifications__notification_format="both", notifications__publisher_id="nova-compute:alpha")
    host.set(notifications__topics=[first], notifications__versioned_notifications_topics=[second])
    host.set(notifications__control_exchange="ours")
    listening = rabbitmq.queue(f"{first}.info", exchange="ours"), rabbitmq.queue(f"{second}.info", exchange="ours")
    with listening[0] as unversioned, listening[1] as versioned:
        host.ask("refresh")
        plain, wrapped = unversioned.get(), versioned.get()
        assert (plain["event_type"], wrapped["event_type"]) == ("compute.metrics.update", "metrics.update")
        assert wrapped["publisher_id"] == "nova-compute:alpha"
        data = wrapped["payload"]["nova_object.data"]
        fractions = {one["name"]: one["value"] for one in plain["payload"]["metrics"] if one["name"] in PERCENTS}
        inner = [one["nova_object.data"] for one in data["metrics"]]
        assert all(isinstance(one["value"], int) and one["numa_membw_values"] is None for one in inner)
        whole = {one["name"]: one["value"] for one in inner if one["name"] in PERCENTS}
        assert whole == {name: round(value * 100) for name, value in fractions.items()}
        assert unversioned.get()["payload"] == versioned.get()["payload"]["nova_object.data"]


def test_given_a_node_when_it_changes_fails_recovers_and_goes_then_each_step_is_told(
    context: Context, fleet: Fleet, rabbitmq: PrivateRabbit, tmp_path: Path
) -> None:
    with rabbitmq.queue(f"{topic_of(tmp_path)}.info") as listener:
        assert refresh(context).fine
        assert listener.get()["event_type"] == "compute_node.create"
        fleet.has("one", guests=[a_guest(GUEST)])
        assert refresh(context).fine
        told = changes(listener)
        assert (told["vcpus_used"], told["memory_mb_used"]) == ([0, 2], [512, 1536])

        fleet.has("one", fault={"raise": "DriverError", "text": "it burns"})
        assert not refresh(context).fine
        ((before, failure),) = changes(listener).values()
        assert (before, failure["code"]) == (None, "DriverError")
        assert "it burns" in failure["text"]

        fleet.has("one", guests=[a_guest(GUEST)])
        assert refresh(context).fine
        assert changes(listener)["failure"] == [failure, None]
        refresh(context)
        fleet.loses("one")
        refresh(context)
        # Nothing was told of the pass in which nothing changed.
        assert listener.get()["event_type"] == "compute_node.delete"
        assert listener.rest() == []


def test_given_an_operator_who_deletes_a_node_then_that_is_told(
    host: Host, rabbitmq: PrivateRabbit, tmp_path: Path
) -> None:
    host.set(notifications__topics=[topic_of(tmp_path)], compute_monitors=[])
    host.ask("refresh")
    with rabbitmq.queue(f"{topic_of(tmp_path)}.info") as listener:
        host.ask("nodes", "--delete", "one", "--yes")
        assert [listener.get()["event_type"] for _ in range(2)] == ["compute_node.create", "compute_node.delete"]


def test_given_a_bus_that_dies_and_comes_back_when_passes_go_on_then_all_that_happened_arrives(
    context: Context, fleet: Fleet, rabbitmq: PrivateRabbit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="stocktake")
    with rabbitmq.queue(f"{topic_of(tmp_path)}.info") as listener:
        assert refresh(context).fine
        assert listener.get()["event_type"] == "compute_node.create"
    rabbitmq.stop()
    try:
        for count in (1, 2, 3):
            guests = [a_guest(GUEST[:-1] + str(number)) for number in range(count)]
            fleet.has("one", guests=guests)
            # Who waited for the bus would wait for ever.
            assert refresh(context).fine
    finally:
        rabbitmq.start()
    with rabbitmq.queue(f"{topic_of(tmp_path)}.info") as listener:
        assert [changes(listener)["vcpus_used"] for _ in range(3)] == [[0, 2], [2, 4], [4, 6]]
    bus_of(context).close()
    said = [record.getMessage() for record in caplog.records if "message bus" in record.getMessage()]
    assert [line.endswith("notifications wait") for line in said] == [True, False], said
    assert said[1].endswith("fine again")
    assert "p%40ss" not in caplog.text


def test_given_a_bus_that_hangs_when_a_pass_runs_and_all_ends_then_neither_waits_for_it(
    context: Context, rabbitmq: PrivateRabbit, fleet: Fleet, tmp_path: Path
) -> None:
    with rabbitmq.queue(f"{topic_of(tmp_path)}.info") as listener:
        assert refresh(context).fine
        assert listener.get()["event_type"] == "compute_node.create"
        rabbitmq.freeze()
        try:
            fleet.has("one", guests=[a_guest(GUEST)])
            # Who waited for the bus would wait for ever: it goes on only after both.
            assert refresh(context).fine
            bus_of(context).close()
        finally:
            rabbitmq.thaw()
        # What was under way when it hung came through.
        assert changes(listener)["vcpus_used"] == [0, 2]


def test_given_no_bus_when_the_agent_starts_runs_and_is_told_to_end_then_it_does_as_without(host: Host) -> None:
    host.set(notifications__transport_url="rabbit://stocktake:secret@127.0.0.1:1/", update_resources_interval=1)
    with host.agent("--verbose") as agent:
        agent.until_said("final resource view", times=3)
        agent.until_said("notifications wait")
        agent.send(signal.SIGTERM)
        assert agent.end() == 0
        assert agent.count("message bus") == 2
        assert agent.count("notifications that were not sent") == 1
        assert "secret" not in agent.text
        assert "Traceback" not in agent.text


def test_given_no_bus_when_refreshed_by_hand_then_the_exit_code_is_that_of_the_pass(host: Host) -> None:
    host.set(notifications__transport_url="rabbit://stocktake:secret@127.0.0.1:1/", compute_monitors=[])
    result = host.run("refresh")
    assert result.code == 0, result
    assert "message bus rabbit://stocktake:***@127.0.0.1:1/: notifications that were not sent: 1" in result.err
    assert len(result.err.splitlines()) <= 3, result.err
