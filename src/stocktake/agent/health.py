"""
How the agent does, for those who watch it: systemd, Prometheus, whoever asks for its health.

Invariant: a sign of life is given only where work goes on: between passes, and between the steps of one. A pass that
hangs gives none, and systemd ends it.
"""

import logging
import socket
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING

from stocktake import __version__
from stocktake.agent.metrics import Life, after, health, limit_s, parts_after
from stocktake.clock import Clock
from stocktake.errors import StocktakeError
from stocktake.model.value import encode, replace
from stocktake.refresh.context import Pass
from stocktake.settings import Settings, Supervisor, parse_listen, placement_of
from stocktake.telemetry import Outcome, Telemetry

if TYPE_CHECKING:
    from stocktake.agent.metrics.server import HttpAnswer, Server

LOG = logging.getLogger(__name__)

# Signs of life are not given more often than that.
_SIGN_S = 1.0
# What a step may take beside its waiting for the driver or for Placement.
_OTHER_S = 60.0
# The longest pause before a part that is away at the start is tried again.
_PAUSE_S = 60.0
# How long systemd is waited for, and how much of a status it is told.
_SOCKET_S = 1.0
_STATUS_MAX = 500


class Notifier:
    """
    The way to systemd, by the protocol of sd_notify(3): `NAME=value` lines in a datagram. It never fails.

    Args:
        address: what $NOTIFY_SOCKET says, a path or `@` and an abstract name; empty if nobody listens.
    """

    def __init__(self, address: str = "") -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def tell(self, *lines: str, status: str = "") -> None:
        """Send lines, such as `READY=1`, and a sentence for `systemctl status`; one that can't be sent is lost."""
        if not self._address:
            return
        if status:
            lines = (*lines, f"STATUS={' '.join(status.split())[:_STATUS_MAX]}")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
                out.settimeout(_SOCKET_S)
                out.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            LOG.debug("systemd did not get %s: %s", lines, error)


def silence_max_s(settings: Settings) -> float:
    """
    Say for how many seconds the agent may give no sign of life by its settings.

    Between two signs the driver is asked for its nodes and for what they have, or Placement is told of one node.
    """
    placement = settings.placement
    told_s = placement.timeout_s * (placement.retries_max + 1) if placement.mode == "remote" else 0.0
    return 2 * settings.driver_timeout_s + told_s + _OTHER_S


class AgentHealth:
    """
    What the agent tells of itself. The agent's thread tells it; threads of the HTTP server read what is there.

    Args:
        telemetry: what was counted, here and elsewhere.
        supervisor: what systemd asks.
        serve: whether to listen where the settings say.
    """

    def __init__(
        self,
        clock: Clock,
        telemetry: Telemetry | None = None,
        supervisor: Supervisor | None = None,
        *,
        serve: bool = False,
    ) -> None:
        asked = supervisor or Supervisor()
        self._clock = clock
        self._telemetry = telemetry or Telemetry()
        self._notifier = Notifier(asked.notify_socket)
        self._watchdog_s = asked.watchdog_s
        self._serves = serve
        # Replaced as a whole, never changed: who reads it needs no lock.
        self._life = Life(started_s=clock.monotonic_s(), started_at_s=clock.now().timestamp())
        self._settings: Settings | None = None
        self._server: Server | None = None
        self._listens = ""
        self._refused = ""
        self._ready = False
        self._reloading = False
        self._signed_s = float("-inf")

    @property
    def life(self) -> Life:
        """How the agent does."""
        return self._life

    @property
    def sign_s(self) -> float:
        """How often a sign of life has to be given, at least, in seconds; infinite if nobody waits for one."""
        return self._watchdog_s / 4 if self._watchdog_s else float("inf")

    def first(self, settings: Settings) -> None:
        """Take the settings that the agent starts with, before it can do anything with them."""
        if self._settings is None:
            self.settled(settings)

    def settled(self, settings: Settings) -> None:
        """Take the settings that hold from now on."""
        self._settings = settings
        interval_s = settings.refresh_interval_s
        self._life = replace(
            self._life,
            interval_s=interval_s,
            limit_s=limit_s(interval_s, settings.metrics.healthy_within_s),
            parts=self._of_use(self._life.parts),
            own_placement=placement_of(settings).mode == "embedded",
        )
        self._lengthen_watchdog(silence_max_s(settings))
        if self._reloading:
            self._reloading = False
            self._notifier.tell("READY=1", status=self._status(None))
        self._listen()

    def waits(self, error: StocktakeError) -> None:
        """A part can't be opened, and is tried again."""
        self.failed(error)
        self._notifier.tell(self._sign(), status=f"Waiting: {error}")

    def begins(self) -> None:
        """A pass begins."""
        self._life = replace(self._life, began_s=self._clock.monotonic_s())

    def passed(self, result: Pass, error: StocktakeError | None) -> None:
        """
        A pass is over.

        Args:
            error: what ended it; None if it went through all its steps.
        """
        now_s, now_at_s = self._clock.monotonic_s(), self._clock.now().timestamp()
        before = self._life
        took_s = now_s - (before.began_s if before.began_s is not None else now_s)
        self._count(result, error, took_s)
        self._life = replace(
            before,
            began_s=None,
            completed_s=before.completed_s if error else now_s,
            completed_at_s=before.completed_at_s if error else now_at_s,
            ended_at_s=now_at_s,
            took_s=took_s,
            parts=self._of_use(parts_after(before.parts, result, error)),
            nodes=after(before.nodes, result, error, now_at_s),
        )
        # Ready is who has tried: what is away then is told of by the status, and waited for by nobody else.
        lines = (self._sign(),) if self._ready else ("READY=1",)
        self._ready = True
        self._notifier.tell(*lines, status=self._status(error))
        self._listen()

    def refused(self, error: StocktakeError) -> None:
        """The agent ends by itself: this is no host to keep books of. A service that ends so was never ready."""
        self._telemetry.error(error.code)
        self._notifier.tell(status=f"Ended: {error}")

    def failed(self, error: StocktakeError) -> None:
        """Something beside a pass failed."""
        self._telemetry.error(error.code)
        self._life = replace(self._life, parts=self._of_use(parts_after(self._life.parts, Pass(), error)))

    def answered(self, part: str) -> None:
        """A part answered beside a pass."""
        if self._life.parts.get(part):
            self._life = replace(self._life, parts={**self._life.parts, part: ""})

    def alive(self) -> None:
        """The loop runs, or a pass goes on."""
        now_s = self._clock.monotonic_s()
        if now_s >= self._signed_s + _SIGN_S:
            self._signed_s = now_s
            self._notifier.tell(self._sign())

    def reloads(self) -> None:
        """The settings are to be read again before the next pass; may be called by a signal."""
        if self._ready:
            self._reloading = True
            usec = int(self._clock.monotonic_s() * 1e6)
            self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={usec}", status="Reading the settings again")

    def stops(self) -> None:
        """The agent was told to end, and does after the step at hand; may be called by a signal."""
        self._notifier.tell("STOPPING=1", status="Stopping after the current step")

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def healthz(self) -> "HttpAnswer":
        """Say whether the agent is healthy: 200, or 503 with the reasons."""
        from stocktake.agent.metrics.server import HttpAnswer

        life, now_s = self._life, self._clock.monotonic_s()
        verdict = health(life, now_s)
        body = {
            "healthy": verdict.healthy,
            "reasons": [{"code": reason.code, "text": reason.text} for reason in verdict.reasons],
            "parts": {part: wrong or "up" for part, wrong in life.parts.items()},
            "last_completed_pass_age_s": None if life.completed_s is None else round(now_s - life.completed_s, 3),
            "limit_s": life.limit_s,
            "version": __version__,
        }
        status = HTTPStatus.OK if verdict.healthy else HTTPStatus.SERVICE_UNAVAILABLE
        return HttpAnswer("application/json", [encode(body).encode(), b"\n"], status)

    def scrape(self) -> Iterator[bytes]:
        """Write the metrics."""
        # The library is loaded by the first scrape: an agent that nobody scrapes does without.
        from stocktake.agent.metrics.exposition import exposition
        from stocktake.agent.metrics.table import ScrapeView

        return exposition(ScrapeView(life=self._life, counts=self._telemetry.counts(), now_s=self._clock.monotonic_s()))

    def _count(self, result: Pass, error: StocktakeError | None, took_s: float) -> None:
        outcome: Outcome = "failed" if error is not None else "fine" if result.fine else "partial"
        self._telemetry.passed(outcome, took_s, result.seconds)
        self._telemetry.saved(result.saves, conflicts=result.conflicts)
        self._telemetry.deleted(len(result.deleted))
        for one in (*result.failed.values(), *result.unsynced.values(), *([error] if error else ())):
            self._telemetry.error(one.code)

    def _of_use(self, parts: Mapping[str, str]) -> dict[str, str]:
        """Leave out Placement if there is none."""
        none = self._settings is not None and self._settings.placement.mode == "none"
        return {part: wrong for part, wrong in parts.items() if not (none and part == "placement")}

    def _sign(self) -> str:
        """Give the line that says that work goes on; before the first pass is over systemd has another clock."""
        if self._ready or self._settings is None:
            return "WATCHDOG=1"
        return f"EXTEND_TIMEOUT_USEC={int((silence_max_s(self._settings) + _PAUSE_S) * 1e6)}"

    def _lengthen_watchdog(self, longest_s: float) -> None:
        """See to it that no step that the settings allow takes longer than systemd waits."""
        if self._watchdog_s is None or self._watchdog_s >= longest_s:
            return
        LOG.warning(
            "WatchdogSec is %g s, and with these settings one step may take %g s: that is what systemd now waits for",
            self._watchdog_s,
            longest_s,
        )
        self._watchdog_s = longest_s
        self._notifier.tell(f"WATCHDOG_USEC={int(longest_s * 1e6)}")

    def _status(self, error: StocktakeError | None) -> str:
        """Put into a sentence how the agent does."""
        if error is not None:
            return f"Trying again: {error}"
        nodes = self._life.nodes.values()
        told = [_several(len(nodes), "node")]
        stale = sum(node.stale for node in nodes)
        problems = sum(sum(node.problems.values()) for node in nodes)
        if stale:
            told.append(f"{stale} stale")
        if problems:
            told.append(_several(problems, "problem"))
        told += [f"{part}: {wrong}" for part, wrong in self._life.parts.items() if wrong]
        took = "" if self._life.took_s is None else f"; the last pass took {self._life.took_s:.1f} s"
        return f"{', '.join(told)}{took}"

    def _listen(self) -> None:
        """Listen where the settings say; where that fails, say so once and try again after the next pass."""
        wanted = self._settings.metrics.listen if self._serves and self._settings is not None else ""
        if wanted == self._listens and (self._server is not None or not wanted):
            return
        self.close()
        self._listens = wanted
        address = parse_listen(wanted)
        if address is None:
            return
        from stocktake.agent.metrics.server import Server, pages_of

        try:
            self._server = Server(*address, pages_of(self.scrape, self.healthz), self._clock)
        except OSError as error:
            said = f"{wanted}: {error.strerror or error}"
            if said != self._refused:
                LOG.error(  # noqa: TRY400 - the message says it all
                    "metrics are not served: %s. It is tried again after every pass; set metrics.listen to another "
                    "address:port, or leave it empty",
                    said,
                )
            self._refused = said
        else:
            self._refused = ""
            LOG.info("metrics are served on http://%s/metrics", self._server.address)


def _several(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
