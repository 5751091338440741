"""
Step 4, the monitor `cpu`: what this machine's CPUs are busy with. Invariant: names, units and rounding are Nova's.

Times in nanoseconds since the machine started, summed over all CPUs; frequency in MHz; percents are fractions of the
time since the reading before (the first: since the start), cut to whole hundredths. Source: Nova release 34,
nova/compute/monitors/cpu/virt_driver.py, and how libvirt divides the kernel's counters into four.
"""

from typing import NamedTuple

import psutil

from stocktake.clock import Clock
from stocktake.errors import DriverError
from stocktake.model.books import Metric
from stocktake.settings import Settings

SOURCE = "host"
_NS = 1_000_000_000
# Asked again sooner, for another node of this host, the last reading is given: there would be nothing to divide by.
_SHORTEST_S = 1.0


class CpuTimes(NamedTuple):
    """Nanoseconds since the machine started."""

    user: int
    kernel: int
    idle: int
    iowait: int


def open_monitor(settings: Settings, clock: Clock) -> "CpuMonitor":  # noqa: ARG001 (the protocol's form)
    """Open the monitor for the machine that this runs on."""
    return CpuMonitor(clock)


class CpuMonitor:
    """Keeps the reading before, to tell what the time since went into."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._times = CpuTimes(0, 0, 0, 0)
        self._read_s: float | None = None
        self._metrics: tuple[Metric, ...] = ()

    def read(self, node: str) -> tuple[Metric, ...]:
        """
        Read this machine's CPU metrics; the same for every node.

        Raises:
            DriverError: the kernel's counters can't be read.
        """
        now_s = self._clock.monotonic_s()
        if self._read_s is not None and now_s - self._read_s <= _SHORTEST_S:
            return self._metrics
        try:
            times, frequency_mhz = read_times(), read_frequency_mhz()
        except (OSError, ValueError, RuntimeError) as error:
            raise DriverError(f"CPU counters can't be read: {error}", where=node) from error
        now = self._clock.now()
        values = {"cpu.frequency": frequency_mhz, **time_values(times), **percent_values(self._times, times)}
        self._metrics = tuple(
            Metric(name=name, value=value, timestamp=now, source=SOURCE) for name, value in values.items()
        )
        self._times, self._read_s = times, now_s
        return self._metrics


def read_times() -> CpuTimes:
    """Read the kernel's counters, divided as libvirt does: nice is user, interrupts are kernel; steal is left out."""
    times = psutil.cpu_times()
    return CpuTimes(
        user=round((times.user + times.nice) * _NS),
        kernel=round((times.system + times.irq + times.softirq) * _NS),
        idle=round(times.idle * _NS),
        iowait=round(times.iowait * _NS),
    )


def read_frequency_mhz() -> int:
    """Read the CPUs' frequency in MHz, rounded down; 0 if the machine does not tell."""
    frequency = psutil.cpu_freq()
    return int(frequency.current) if frequency is not None else 0


def time_values(times: CpuTimes) -> dict[str, int | float]:
    """Name the counters as Nova does."""
    return {f"cpu.{name}.time": value for name, value in times._asdict().items()}


def percent_values(before: CpuTimes, after: CpuTimes) -> dict[str, int | float]:
    """
    Work out the shares of the time between two readings; 0 where there is none.

    A counter that went backwards (a CPU was taken offline) counts as nothing.
    """
    spent = CpuTimes(*(max(new - old, 0) for new, old in zip(after, before, strict=True)))
    total = sum(spent)
    shares = {f"cpu.{name}.percent": _fraction(value, total) for name, value in spent._asdict().items()}
    return {**shares, "cpu.percent": _fraction(total - spent.idle, total)}


def _fraction(part: int, total: int) -> float:
    return part * 100 // total / 100 if total else 0.0
