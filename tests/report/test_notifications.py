"""What is told of records and metrics, and a queue that holds nobody up."""

import logging
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.clock import RandomIds, SystemClock
from stocktake.errors import SettingsError
from stocktake.model.books import ComputeNode, Metric
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.report.notifications import TOLD, Bus, Message, events, open_bus
from stocktake.settings import NotificationsSection
from tests.ledger.making import full_node, node

WAIT_S = 10.0
# Not UTC, so that a time that is told as it stands is told wrongly.
AT = datetime(2026, 1, 1, 12, 30, 15, 250_000, timezone(timedelta(hours=2)))
METRICS = (
    Metric(name="cpu.iowait.time", value=6121490000000, timestamp=AT, source="host"),
    Metric(name="cpu.user.percent", value=0.29, timestamp=AT, source="host"),
    Metric(name="thirds.party", value=2.9, timestamp=AT, source="theirs"),
)
MEASURED = node("one.example.org", "one", host_ip="192.0.2.7", metrics=METRICS)


def by_uuid(*nodes: ComputeNode) -> dict[str, ComputeNode]:
    return {one.uuid: one for one in nodes}


def test_given_metrics_when_told_unversioned_then_they_are_novas_legacy_payload() -> None:
    (event,) = events({}, {}, [MEASURED])
    assert event.event_type == "compute.metrics.update"
    at = "2026-01-01T10:30:15.250000"
    assert event.payload == {
        "host": "one",
        "host_ip": "192.0.2.7",
        "nodename": "one.example.org",
        "metrics": [
            {"name": "cpu.iowait.time", "timestamp": at, "source": "host", "value": 6121490000000},
            {"name": "cpu.user.percent", "timestamp": at, "source": "host", "value": 0.29},
            {"name": "thirds.party", "timestamp": at, "source": "theirs", "value": 2.9},
        ],
    }


def test_given_metrics_when_told_versioned_then_they_are_novas_metrics_payload_of_whole_numbers() -> None:
    (event,) = events({}, {}, [MEASURED], versioned=True)
    assert event.event_type == "metrics.update"
    head = {"nova_object.version": "1.0", "nova_object.namespace": "nova"}
    assert event.payload == {
        **head,
        "nova_object.name": "MetricsPayload",
        "nova_object.data": {
            "host": "one",
            "host_ip": "192.0.2.7",
            "nodename": "one.example.org",
            "metrics": [
                {
                    **head,
                    "nova_object.name": "MetricPayload",
                    "nova_object.data": {
                        "name": name,
                        "value": value,
                        "numa_membw_values": None,
                        "timestamp": "2026-01-01T10:30:15Z",
                        "source": source,
                    },
                }
                for name, value, source in (
                    ("cpu.iowait.time", 6121490000000, "host"),
                    ("cpu.user.percent", 29, "host"),
                    ("thirds.party", 2, "theirs"),
                )
            ],
        },
    }


@pytest.mark.parametrize("versioned", [False, True])
def test_given_a_node_without_metrics_then_nothing_is_told_of_them(versioned: bool) -> None:  # noqa: FBT001 - pytest's
    assert events({}, {}, [node()], versioned=versioned) == []


def test_given_records_when_they_come_change_and_go_then_each_is_told_once() -> None:
    stays, goes, comes = node("stays"), node("goes"), node("comes")
    trouble = Problem(code="DriverUnreachable", about="", text="no answer", severity="error")
    after = replace(stays, vcpus_used=3, failure=trouble, generation=9, updated_at=AT, metrics=METRICS)
    told = {event.event_type: event.payload for event in events(by_uuid(stays, goes), by_uuid(after, comes))}
    assert told.keys() == {"compute_node.create", "compute_node.update", "compute_node.delete"}
    assert told["compute_node.create"]["hypervisor_hostname"] == "comes"
    assert told["compute_node.delete"]["hypervisor_hostname"] == "goes"
    assert told["compute_node.update"]["vcpus_used"] == 3
    assert told["compute_node.update"]["updated_at"] == "2026-01-01T12:30:15.250000+02:00"
    failure = {"code": "DriverUnreachable", "about": "", "text": "no answer", "remedy": "", "severity": "error"}
    assert told["compute_node.update"]["changes"] == {"vcpus_used": [0, 3], "failure": [None, failure]}


def test_given_a_record_that_only_its_times_and_measures_changed_then_nothing_is_told() -> None:
    before = node()
    after = replace(before, generation=2, updated_at=AT, metrics=METRICS, entries_digest="other")
    assert events(by_uuid(before), by_uuid(after)) == []


def test_given_a_record_when_told_versioned_then_it_is_wrapped_as_ours() -> None:
    after = by_uuid(full_node())
    (event,) = events({}, after, versioned=True)
    (plain,) = events({}, after)
    assert event.event_type == "compute_node.create"
    assert event.payload["nova_object.name"] == "ComputeNodePayload"
    assert event.payload["nova_object.namespace"] == "stocktake"
    assert event.payload["nova_object.data"] == plain.payload
    assert plain.payload.keys() == {*TOLD, "created_at", "updated_at"}


RECORDS = st.lists(
    st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 2), st.integers(0, 2)),
    unique_by=lambda one: one[0],
).map(lambda rows: {uuid: node(uuid, uuid=uuid, vcpus_used=used, free_ram_mb=free) for uuid, used, free in rows})


@given(before=RECORDS, after=RECORDS)
def test_given_any_two_states_when_their_events_are_played_then_the_first_becomes_the_second(
    before: dict[str, ComputeNode], after: dict[str, ComputeNode]
) -> None:
    known = {uuid: {name: getattr(one, name) for name in TOLD} for uuid, one in before.items()}
    for event in events(before, after):
        uuid = str(event.payload["uuid"])
        if event.event_type == "compute_node.delete":
            del known[uuid]
            continue
        changes: Any = event.payload.get("changes", {})
        assert all(known[uuid][name] == was for name, (was, _now) in changes.items())
        assert uuid not in known or changes
        known[uuid] = {**known.get(uuid, {}), **{name: event.payload[name] for name in ("vcpus_used", "free_ram_mb")}}
    figures = {uuid: (one["vcpus_used"], one["free_ram_mb"]) for uuid, one in known.items()}
    assert figures == {uuid: (one.vcpus_used, one.free_ram_mb) for uuid, one in after.items()}


class Line:
    """The far end of a bus: it takes messages while it is open, hangs while it is held, and fails while it is down."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.closed = threading.Event()
        self.tried = threading.Semaphore(0)
        self.arrived = threading.Semaphore(0)
        self.open = threading.Event()
        self.open.set()
        self.down = False

    def send(self, message: Message) -> None:
        self.tried.release()
        assert self.open.wait(WAIT_S)
        if self.down:
            raise ConnectionRefusedError("nobody there")
        self.got.append(message)
        self.arrived.release()

    def until_tried(self) -> None:
        assert self.tried.acquire(timeout=WAIT_S)

    def until_got(self, number: int) -> list[str]:
        for _ in range(number):
            assert self.arrived.acquire(timeout=WAIT_S)
        return [str(message.body["payload"]["hypervisor_hostname"]) for message in self.got]

    def bus(self, **limits: Any) -> Bus:
        section = NotificationsSection(transport_url="rabbit://nobody/", topics=("theirs", "ours"))
        one = replace(section, topics=("ours",)) if limits.pop("one_topic", True) else section
        return Bus(
            one, "alpha", SystemClock(), RandomIds(), name="the bus", send=self.send, close=self.closed.set, **limits
        )


@pytest.fixture
def line() -> Iterator[Line]:
    made = Line()
    yield made
    made.open.set()


def test_given_a_message_then_it_has_the_form_of_oslo_and_goes_to_every_topic(line: Line) -> None:
    bus = line.bus(one_topic=False)
    bus.announce([node("one")])
    line.until_got(2)
    bus.close()
    assert [message.topic for message in line.got] == ["theirs.info", "ours.info"]
    body = line.got[0].body
    assert body.keys() == {"message_id", "publisher_id", "event_type", "priority", "payload", "timestamp"}
    assert (body["publisher_id"], body["priority"]) == ("stocktake-agent:alpha", "INFO")
    sent = datetime.fromisoformat(body["timestamp"])
    assert sent.tzinfo is None
    assert abs(sent.replace(tzinfo=UTC) - datetime.now(UTC)) < timedelta(seconds=WAIT_S)
    assert line.closed.is_set()


def test_given_records_from_before_when_first_announced_then_only_what_differs_is_told(line: Line) -> None:
    bus, one = line.bus(), node("one", uuid="1")
    bus.begin([one])
    bus.announce([one, node("two", uuid="2")])
    # A later `begin` says nothing new: what was announced counts.
    bus.begin([])
    bus.announce([replace(one, vcpus_used=2)])
    assert line.until_got(3) == ["two", "one", "two"]
    assert [message.body["event_type"].partition(".")[2] for message in line.got] == ["create", "update", "delete"]
    bus.close()


def test_given_a_bus_that_hangs_when_more_is_told_than_may_wait_then_the_oldest_are_dropped_and_that_is_said_once(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    line.open.clear()
    bus = line.bus(size=3)
    bus.announce([node("in hand", uuid="0")])
    line.until_tried()
    bus.announce([node("in hand", uuid="0"), *(node(str(number), uuid=str(number)) for number in range(1, 8))])
    assert bus.dropped == 4
    line.open.set()
    assert line.until_got(4) == ["in hand", "5", "6", "7"]
    bus.close()
    assert [record.getMessage() for record in caplog.records] == [
        "message bus the bus: 3 notifications wait, the oldest are dropped",
        "message bus the bus: notifications that were dropped: 4",
    ]


def test_given_a_bus_that_is_down_when_it_comes_back_then_all_arrives_in_order_and_the_log_says_so_twice(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    line.down = True
    bus = line.bus(longest_s=0.01)
    bus.announce([node(str(number), uuid=str(number)) for number in range(3)])
    for _ in range(5):
        line.until_tried()
    line.down = False
    assert line.until_got(3) == ["0", "1", "2"]
    bus.close()
    said = [record.getMessage() for record in caplog.records]
    assert said == ["message bus the bus: nobody there; notifications wait", "message bus the bus: fine again"]


def test_given_a_bus_that_is_down_when_closed_then_it_ends_at_once_and_counts_what_was_left(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.down = True
    bus = line.bus(flush_s=WAIT_S)
    bus.announce([node(str(number), uuid=str(number)) for number in range(3)])
    line.until_tried()
    bus.close()
    assert line.closed.wait(WAIT_S)
    assert "message bus the bus: notifications that were not sent: 3" in caplog.text
    assert not line.tried.acquire(blocking=False)


def test_given_a_bus_that_hangs_when_closed_then_that_takes_no_longer_than_the_limit(
    line: Line, caplog: pytest.LogCaptureFixture
) -> None:
    line.open.clear()
    bus = line.bus(flush_s=0.05)
    bus.announce([node("one"), node("two")])
    line.until_tried()
    # The bus hangs until the end of the test: without the limit this would never come back.
    bus.close()
    assert not line.open.is_set()
    assert "message bus the bus: notifications that were not sent: 2" in caplog.text


def test_given_much_that_waits_when_closed_then_it_is_sent_first(line: Line) -> None:
    bus = line.bus(flush_s=WAIT_S)
    bus.announce([node(str(number), uuid=str(number)) for number in range(500)])
    bus.close()
    assert len(line.got) == 500
    assert line.closed.is_set()


def test_given_no_url_then_there_is_no_bus() -> None:
    assert open_bus(NotificationsSection(), "alpha", SystemClock(), RandomIds()) is None


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("rabit://user:secret@bus/", "rabit"),
        ("rabbit://user:secret@bus:port/", "port"),
        ("rabbit://user:secret@bus/?no_such_option=1", "no_such_option"),
    ],
)
def test_given_a_url_that_cant_be_used_then_the_error_says_why_and_no_password(url: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        open_bus(NotificationsSection(transport_url=url), "alpha", SystemClock(), RandomIds())
    assert told in caught.value.what
    assert "secret" not in str(caught.value)
    assert caught.value.where == "notifications.transport_url"
    assert caught.value.remedy


def test_given_no_oslo_messaging_then_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    # What Python does where a module can't be found.
    monkeypatch.setitem(sys.modules, "oslo_messaging", None)
    with pytest.raises(SettingsError, match=r"Install stocktake\[notifications\]"):
        open_bus(NotificationsSection(transport_url="rabbit://user:secret@bus/"), "alpha", SystemClock(), RandomIds())
