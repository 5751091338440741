"""
Step 3: ask the driver and the monitors, once for all nodes, with a time limit. Invariant: nothing said here is believed
yet.

What the hypervisor sees as used is logged ("hypervisor resource view") and goes no further than the verified host.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Generic, TypeVar

from stocktake.drivers.base import Driver
from stocktake.drivers.monitors import Monitor
from stocktake.errors import DriverError, DriverUnreachable, StocktakeError
from stocktake.model.books import Metric
from stocktake.model.hypervisor import HostView, Survey
from stocktake.model.problem import Problem
from stocktake.model.value import encode

LOG = logging.getLogger(__name__)
_BUG_REMEDY = "That is a bug: its author needs the log of `stocktake -vv refresh`."
T = TypeVar("T")


class _Outcome(Generic[T]):
    """What a call that runs in another thread gave, once it is done."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.value: T | None = None
        self.error: BaseException | None = None


class TimeLimit:
    """
    Runs a driver's calls one at a time, each with a deadline.

    A call that hangs can't be stopped; it keeps its thread, and until it returns every further call fails at once, so
    that threads don't pile up.
    """

    def __init__(self, timeout_s: float, where: str) -> None:
        self._timeout_s = timeout_s
        self._where = where
        self._hanging: _Outcome[object] | None = None

    def call(self, function: Callable[[], T]) -> T:
        """
        Call the function in a thread of its own and wait for it.

        Raises:
            DriverUnreachable: no answer in time, or an earlier call still hangs.
            DriverError: the function raised what is not ours: a bug of the driver, which must not end the agent.
            StocktakeError: what the function raised.
        """
        if self._hanging is not None and not self._hanging.done.is_set():
            raise self._unreachable("an earlier call still has no answer")
        outcome: _Outcome[T] = _Outcome()
        threading.Thread(target=_run, args=(function, outcome), name=f"audit-{self._where}", daemon=True).start()
        if not outcome.done.wait(self._timeout_s):
            self._hanging = outcome  # type: ignore[assignment]
            raise self._unreachable(f"no answer within {self._timeout_s:g} s")
        if isinstance(outcome.error, StocktakeError):
            raise outcome.error
        if outcome.error is not None:
            LOG.debug("the driver failed", exc_info=outcome.error)
            raise DriverError(_bug(outcome.error), where=self._where, remedy=_BUG_REMEDY) from outcome.error
        return outcome.value  # type: ignore[return-value]

    def _unreachable(self, what: str) -> DriverUnreachable:
        remedy = "Check the hypervisor; its nodes keep their last record, marked stale."
        return DriverUnreachable(what, where=self._where, remedy=remedy)


def _bug(error: BaseException) -> str:
    return f"failed with {type(error).__name__}: {' '.join(str(error).split())}"


def _run(function: Callable[[], T], outcome: _Outcome[T]) -> None:
    try:
        outcome.value = function()
    except BaseException as error:  # noqa: BLE001 - it is handed to the caller, whatever it is
        outcome.error = error
    finally:
        outcome.done.set()


def audit(
    driver: Driver, monitors: Sequence[Monitor], nodes: Collection[str], *, my_ip: str | None, limit: TimeLimit
) -> Mapping[str, HostView | StocktakeError]:
    """
    Ask for all nodes in one sweep.

    Returns:
        Per node its view, or why there is none; the trouble of one node is no other's.
    """
    try:
        surveys = limit.call(lambda: driver.survey(nodes))
    except StocktakeError as error:
        return dict.fromkeys(nodes, error)
    views: dict[str, HostView | StocktakeError] = {}
    for node in nodes:
        survey = surveys.get(node)
        if survey is None:
            views[node] = DriverUnreachable("the driver reported nothing for the node", where=node)
        elif isinstance(survey, Survey):
            views[node] = _view(node, survey, monitors, my_ip)
        else:
            views[node] = survey
    return views


def stamped(report: Mapping[str, object]) -> dict[str, object]:
    """Normalise `cpu_info`: None or absent becomes empty, a mapping its JSON text."""
    cpu_info = report.get("cpu_info")
    if cpu_info is None:
        cpu_info = ""
    if isinstance(cpu_info, Mapping):
        cpu_info = encode(cpu_info)
    return {**report, "cpu_info": cpu_info}


def _view(node: str, survey: Survey, monitors: Sequence[Monitor], my_ip: str | None) -> HostView:
    report = stamped(survey.report)
    LOG.info("hypervisor resource view", extra={"node": node, **_seen(report)})
    metrics, problems = _metrics(node, monitors)
    return HostView(
        node=node,
        report=report,
        guests=survey.guests,
        host_ip=my_ip,
        metrics=metrics,
        problems=(*survey.problems, *problems),
    )


def _seen(report: Mapping[str, object]) -> dict[str, object]:
    """Say what the hypervisor itself sees as free: MiB, GB, CPUs; None where it does not say, or not in numbers."""

    def free(total: str, used: str) -> int | None:
        there, taken = report.get(total), report.get(used)
        return there - taken if isinstance(there, int) and isinstance(taken, int) else None

    devices = report.get("pci_passthrough_devices")
    return {
        "free_ram_mb": free("memory_mb", "memory_mb_used"),
        "free_disk_gb": free("local_gb", "local_gb_used"),
        "free_vcpus": free("vcpus", "vcpus_used"),
        "pci_devices": len(devices) if isinstance(devices, Sequence) else 0,
    }


def _metrics(node: str, monitors: Sequence[Monitor]) -> tuple[tuple[Metric, ...], list[Problem]]:
    """Read every monitor; one that can't be read costs its metrics, not the node."""
    metrics: list[Metric] = []
    problems: list[Problem] = []
    for monitor in monitors:
        try:
            metrics.extend(monitor.read(node))
        except StocktakeError as error:
            problems.append(Problem(code="monitor-unreadable", about=error.where or node, text=str(error)))
        except Exception as error:
            # A third party's code may raise anything.
            LOG.debug("a monitor failed", exc_info=error)
            text = f"monitor {type(monitor).__name__} {_bug(error)}"
            problems.append(Problem(code="monitor-unreadable", about=node, text=text, remedy=_BUG_REMEDY))
    return tuple(metrics), problems
