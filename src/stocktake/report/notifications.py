"""
Notifications: what was measured and what changed, told on a message bus. Invariant: no bus holds a pass up or fails it.

Metrics are told as Nova tells them (release 34: `nova/compute/resource_tracker.py`, `_get_host_metrics`, and
`nova/notifications/objects/metrics.py`), records in a form of our own; docs/reference/notifications.md has both. They
wait in a queue with an end; one thread sends them through oslo.messaging, for as long as it takes.
"""

import logging
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

from stocktake.clock import Clock, Ids
from stocktake.errors import SettingsError
from stocktake.model.books import ComputeNode, Metric
from stocktake.model.value import Value, plain
from stocktake.settings import NotificationsSection, redact_url

LOG = logging.getLogger(__name__)

QUEUE_MAX: Final = 10_000
FLUSH_S: Final = 3.0
BACK_OFF_FIRST_S: Final = 1.0
BACK_OFF_LONGEST_S: Final = 30.0
PRIORITY: Final = "INFO"

# What a notification tells of a record; a change of any other field is none of its business.
TOLD: Final = (
    "uuid",
    "host",
    "hypervisor_hostname",
    "host_ip",
    "hypervisor_type",
    "hypervisor_version",
    "vcpus",
    "vcpus_used",
    "memory_mb",
    "memory_mb_used",
    "free_ram_mb",
    "local_gb",
    "local_gb_used",
    "free_disk_gb",
    "disk_available_least",
    "running_vms",
    "current_workload",
    "cpu_allocation_ratio",
    "ram_allocation_ratio",
    "disk_allocation_ratio",
    "pci_device_pools",
    "stats",
    "traits",
    "problems",
    "failure",
)
# Nova keeps these as whole per cents, and tells the first format fractions of them.
_PERCENTS = frozenset({"cpu.percent", *(f"cpu.{kind}.percent" for kind in ("user", "kernel", "idle", "iowait"))})
_STRTIME = "%Y-%m-%dT%H:%M:%S.%f"
_BINARY = "stocktake-agent"

Payload = Mapping[str, object]


class Event(Value, frozen=True, kw_only=True):
    """What happened, in one of Nova's two formats."""

    event_type: str
    payload: Payload


def events(
    before: Mapping[str, ComputeNode],
    after: Mapping[str, ComputeNode],
    measured: Iterable[ComputeNode] = (),
    *,
    versioned: bool = False,
) -> list[Event]:
    """
    Work out what there is to tell.

    Args:
        before, after: the records by uuid.
        measured: nodes whose metrics were read just now; one without any says nothing.
        versioned: in Nova's second format, in which a payload says its own name and version.
    """
    metrics = _versioned_metrics if versioned else _metrics
    told = [metrics(node) for node in measured if node.metrics]
    for kind, payload in _changes(before, after):
        data = _object("ComputeNodePayload", payload, namespace="stocktake") if versioned else payload
        told.append(Event(event_type=f"compute_node.{kind}", payload=data))
    return told


def _changes(
    before: Mapping[str, ComputeNode], after: Mapping[str, ComputeNode]
) -> Iterator[tuple[str, dict[str, object]]]:
    for uuid in sorted(before.keys() | after.keys()):
        old, new = before.get(uuid), after.get(uuid)
        if old is None and new is not None:
            yield "create", _record(new)
        elif new is None and old is not None:
            yield "delete", _record(old)
        elif new is not None and old is not None and new != old:
            was, now = _record(old), _record(new)
            changes = {name: [was[name], now[name]] for name in TOLD if was[name] != now[name]}
            if changes:
                yield "update", {**now, "changes": changes}


def _record(node: ComputeNode) -> dict[str, object]:
    return {name: plain(getattr(node, name)) for name in (*TOLD, "created_at", "updated_at")}


def _metrics(node: ComputeNode) -> Event:
    """Tell metrics in Nova's first format: per cents as fractions, times without a zone."""
    told = [
        {
            "name": metric.name,
            "timestamp": metric.timestamp.astimezone(UTC).strftime(_STRTIME),
            "source": metric.source,
            "value": metric.value,
        }
        for metric in node.metrics
    ]
    return Event(event_type="compute.metrics.update", payload={**_who(node), "metrics": told})


def _versioned_metrics(node: ComputeNode) -> Event:
    """Tell metrics in Nova's second format: whole numbers only, per cents as such, times to the second."""
    told = [
        _object(
            "MetricPayload",
            {
                "name": metric.name,
                "value": _whole(metric),
                "numa_membw_values": None,
                "timestamp": metric.timestamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
                "source": metric.source,
            },
        )
        for metric in node.metrics
    ]
    payload = _object("MetricsPayload", {**_who(node), "metrics": told})
    return Event(event_type="metrics.update", payload=payload)


def _whole(metric: Metric) -> int:
    """Give a value as Nova's field holds it, cut down; a fraction that was hundredths is exact."""
    return round(metric.value * 100) if metric.name in _PERCENTS else int(metric.value)


def _who(node: ComputeNode) -> dict[str, object]:
    return {"host": node.host, "host_ip": node.host_ip, "nodename": node.hypervisor_hostname}


def _object(name: str, data: Payload, *, namespace: str = "nova") -> dict[str, object]:
    about = {"name": name, "namespace": namespace, "version": "1.0", "data": data}
    return {f"nova_object.{key}": value for key, value in about.items()}


class Message(NamedTuple):
    """What is sent, and under which topic."""

    topic: str
    body: dict[str, Any]


# Sends one message or raises whatever the library raises; and lets go of the connection.
Send = Callable[[Message], None]
Close = Callable[[], None]


class Bus:
    """
    A queue before the message bus, and the thread that empties it.

    When the queue is full the oldest notification gives way: what is true now is worth more than what was.

    Args:
        name: the bus as a log may show it.
        send, close: talk to the bus; only the thread calls them.
        size, longest_s, flush_s: how many may wait, the longest pause between tries, the longest that `close` takes.
    """

    def __init__(
        self,
        section: NotificationsSection,
        host: str,
        clock: Clock,
        ids: Ids,
        *,
        name: str,
        send: Send,
        close: Close,
        size: int = QUEUE_MAX,
        longest_s: float = BACK_OFF_LONGEST_S,
        flush_s: float = FLUSH_S,
    ) -> None:
        self.dropped = 0
        self._section = section
        self._publisher_id = section.publisher_id or f"{_BINARY}:{host}"
        self._clock = clock
        self._ids = ids
        self._name = name
        self._send = send
        self._close = close
        self._size = size
        self._longest_s = longest_s
        self._flush_s = flush_s
        self._known: dict[str, ComputeNode] | None = None
        self._changed = threading.Condition()
        self._waiting: deque[Message] = deque()
        self._in_hand = 0
        self._dropped_now = 0
        self._away = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifications", daemon=True)
        self._thread.start()

    def begin(self, nodes: Iterable[ComputeNode]) -> None:
        """Take these records for told; only the first call counts, from then on `announce` knows better."""
        if self._known is None:
            self._known = {node.uuid: node for node in nodes}

    def announce(self, nodes: Iterable[ComputeNode], measured: Sequence[ComputeNode] = ()) -> None:
        """Tell how these records, all that the ledger has of the host, differ from those told before."""
        before, after = self._known or {}, {node.uuid: node for node in nodes}
        self._known = after
        section = self._section
        if section.notification_format != "versioned":
            self._put(section.topics, events(before, after, measured))
        if section.notification_format != "unversioned":
            self._put(section.versioned_notifications_topics, events(before, after, measured, versioned=True))

    def close(self) -> None:
        """Send what waits, as long as that goes well and takes no longer than the limit; say how much was left."""
        with self._changed:
            self._closing.set()
            self._changed.notify()
        self._thread.join(self._flush_s)
        with self._changed:
            left = len(self._waiting) + self._in_hand
        if left:
            LOG.warning("message bus %s: notifications that were not sent: %d", self._name, left)

    def _put(self, topics: Sequence[str], told: Sequence[Event]) -> None:
        now = self._clock.now()
        messages = [
            Message(f"{topic}.{PRIORITY.lower()}", self._body(event, now)) for event in told for topic in topics
        ]
        with self._changed:
            for message in messages:
                if len(self._waiting) >= self._size:
                    self._waiting.popleft()
                    self._note_drop()
                self._waiting.append(message)
            self._changed.notify()

    def _body(self, event: Event, now: datetime) -> dict[str, Any]:
        """Put an event into the form of oslo.messaging's notifications."""
        return {
            "message_id": self._ids.uuid(),
            "publisher_id": self._publisher_id,
            "event_type": event.event_type,
            "priority": PRIORITY,
            "payload": event.payload,
            "timestamp": str(now.astimezone(UTC).replace(tzinfo=None)),
        }

    def _note_drop(self) -> None:
        self.dropped += 1
        self._dropped_now += 1
        if self._dropped_now == 1:
            LOG.warning("message bus %s: %d notifications wait, the oldest are dropped", self._name, self._size)

    def _run(self) -> None:
        while (message := self._next()) is not None and self._delivered(message):
            with self._changed:
                self._in_hand = 0
                if self._dropped_now and not self._waiting:
                    LOG.warning("message bus %s: notifications that were dropped: %d", self._name, self._dropped_now)
                    self._dropped_now = 0
        try:
            self._close()
        except Exception as error:
            # As for `_sent`; and nothing more is to be done.
            LOG.debug("the message bus can't be closed", exc_info=error)

    def _next(self) -> Message | None:
        """Wait for a message; None once closing with nothing left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing.is_set())
            if not self._waiting:
                return None
            self._in_hand = 1
            return self._waiting.popleft()

    def _delivered(self, message: Message) -> bool:
        """Send a message, trying until it is out; False if that did not go well while closing."""
        pause_s = BACK_OFF_FIRST_S
        while not self._sent(message):
            if self._closing.is_set() or self._clock.wait(self._closing, min(pause_s, self._longest_s)):
                return False
            pause_s *= 2
        return True

    def _sent(self, message: Message) -> bool:
        try:
            self._send(message)
        except Exception as error:
            # The library, and the driver that the URL names, may raise anything.
            LOG.debug("a notification can't be sent", exc_info=error)
            if not self._away:
                LOG.warning("message bus %s: %s; notifications wait", self._name, " ".join(str(error).split()))
            self._away = True
            return False
        if self._away:
            LOG.info("message bus %s: fine again", self._name)
            self._away = False
        return True


def open_bus(
    section: NotificationsSection, host: str, clock: Clock, ids: Ids, *, longest_s: float = BACK_OFF_LONGEST_S
) -> Bus | None:
    """
    Open the message bus that `notifications.transport_url` names; None if it names none. Nothing is sent yet.

    Args:
        longest_s: the longest pause between tries while it is away.

    Raises:
        SettingsError: oslo.messaging is not installed, or can't use the URL.
    """
    if section.transport_url is None:
        return None
    name = redact_url(section.transport_url)
    oslo = _Oslo(section.transport_url, section.control_exchange, name)
    return Bus(section, host, clock, ids, name=name, send=oslo.send, close=oslo.close, longest_s=longest_s)


class _Oslo:
    """Sends through oslo.messaging, by a new transport after every failure: it would leave the broken one open."""

    def __init__(self, url: str, exchange: str, name: str) -> None:
        where = "notifications.transport_url"
        try:
            # What it warns of is that libraries below it will change, which is nothing to an operator.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import oslo_messaging
                from oslo_config import cfg
        except ImportError as error:
            remedy = "Install stocktake[notifications], or take the setting out."
            raise SettingsError(f"oslo.messaging is missing: {error}", where=where, remedy=remedy) from error
        options = cfg.ConfigOpts()
        options([], project="stocktake", default_config_files=[], default_config_dirs=[])
        self._open = partial(oslo_messaging.get_notification_transport, options, url=url)
        self._target = partial(oslo_messaging.Target, exchange=exchange)
        try:
            self._transport = self._open()
        except (oslo_messaging.MessagingException, cfg.Error, ImportError, RuntimeError, ValueError) as error:
            told = " ".join(str(error).replace(url, name).split())
            remedy = "Give rabbit://user:password@host:5672/vhost; options of oslo.messaging's driver may follow a `?`."
            raise SettingsError(f"oslo.messaging can't use {name}: {told}", where=where, remedy=remedy) from error

    def send(self, message: Message) -> None:
        """Send one message, or raise."""
        if self._transport is None:
            self._transport = self._open()
        target = self._target(topic=message.topic)
        try:
            # The library's public Notifier swallows failures, and then nobody knows what to send again.
            self._transport._send_notification(target, {}, message.body, version=2.0, retry=0)  # noqa: SLF001
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections, if there are any."""
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.cleanup()
