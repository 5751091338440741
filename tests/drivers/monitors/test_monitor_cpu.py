"""The monitor `cpu`: Nova's names and units, shares of the time between two readings."""

from datetime import UTC, datetime

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktake.clock import SystemClock
from stocktake.drivers.monitors.cpu import (
    CpuMonitor,
    CpuTimes,
    percent_values,
    read_frequency_mhz,
    read_times,
    time_values,
)
from stocktake.errors import DriverError

NAMES = {
    "cpu.frequency",
    "cpu.user.time",
    "cpu.kernel.time",
    "cpu.idle.time",
    "cpu.iowait.time",
    "cpu.user.percent",
    "cpu.kernel.percent",
    "cpu.idle.percent",
    "cpu.iowait.percent",
    "cpu.percent",
}
NOTHING = CpuTimes(0, 0, 0, 0)
TIMES = st.builds(CpuTimes, *[st.integers(0, 2**60)] * 4)


class Stepped(SystemClock):
    """A clock that stands still until it is set."""

    def __init__(self) -> None:
        self.at_s = 100.0

    def now(self) -> datetime:
        return datetime.fromtimestamp(1_700_000_000 + self.at_s, UTC)

    def monotonic_s(self) -> float:
        return self.at_s


def test_given_this_machine_then_all_of_novas_metrics_are_read() -> None:
    clock = Stepped()
    metrics = CpuMonitor(clock).read("any")
    assert {metric.name for metric in metrics} == NAMES
    assert {metric.timestamp for metric in metrics} == {clock.now()}
    assert {metric.source for metric in metrics} == {"host"}
    values = {metric.name: metric.value for metric in metrics}
    up_ns = sum(values[f"cpu.{name}.time"] for name in ("user", "kernel", "idle", "iowait"))
    assert 0 < up_ns < 10**18
    assert all(isinstance(values[name], int) for name in NAMES if name.endswith("time"))
    assert all(0 <= values[name] <= 1 for name in NAMES if name.endswith("percent"))


def test_given_readings_within_a_second_then_the_last_is_given_again() -> None:
    clock = Stepped()
    monitor = CpuMonitor(clock)
    first = monitor.read("a")
    clock.at_s += 0.5
    assert monitor.read("b") == first
    clock.at_s += 5
    assert monitor.read("b")[0].timestamp == clock.now()


@pytest.mark.parametrize(
    ("before", "after", "percents"),
    [
        (NOTHING, CpuTimes(10, 20, 60, 10), (0.1, 0.2, 0.6, 0.1, 0.4)),
        (CpuTimes(5, 5, 5, 5), CpuTimes(5, 5, 105, 5), (0.0, 0.0, 1.0, 0.0, 0.0)),
        # Cut to whole hundredths, as Nova cuts its percents.
        (NOTHING, CpuTimes(1, 1, 1, 0), (0.33, 0.33, 0.33, 0.0, 0.66)),
        (NOTHING, NOTHING, (0.0, 0.0, 0.0, 0.0, 0.0)),
        # A CPU was taken offline, and its counters with it.
        (CpuTimes(100, 100, 100, 100), CpuTimes(50, 110, 50, 50), (0.0, 1.0, 0.0, 0.0, 1.0)),
    ],
)
def test_given_two_readings_then_percents_are_shares_of_the_time_between(
    before: CpuTimes, after: CpuTimes, percents: tuple[float, ...]
) -> None:
    names = ("cpu.user.percent", "cpu.kernel.percent", "cpu.idle.percent", "cpu.iowait.percent", "cpu.percent")
    assert percent_values(before, after) == dict(zip(names, percents, strict=True))


@given(TIMES, TIMES)
def test_given_any_readings_then_shares_are_shares(before: CpuTimes, after: CpuTimes) -> None:
    values = percent_values(before, after)
    assert all(0 <= value <= 1 for value in values.values())
    parts = [values[f"cpu.{name}.percent"] for name in ("user", "kernel", "idle", "iowait")]
    assert sum(parts) <= 1.0000001


def test_given_the_kernels_counters_then_they_are_parted_in_four() -> None:
    low, times, high = psutil.cpu_times(), read_times(), psutil.cpu_times()
    assert low.idle * 1e9 - 1e9 <= times.idle <= high.idle * 1e9 + 1e9
    assert (low.user + low.nice) * 1e9 - 1e9 <= times.user <= (high.user + high.nice) * 1e9 + 1e9
    assert time_values(times)["cpu.idle.time"] == times.idle
    assert read_frequency_mhz() >= 0


def test_given_counters_that_can_not_be_read_then_a_driver_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "PROCFS_PATH", "/nowhere")
    with pytest.raises(DriverError, match="CPU counters can't be read"):
        CpuMonitor(Stepped()).read("a")
