"""Step 3: one sweep, with a time limit; nothing said is believed, and nobody's trouble is another's."""

import json
import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from stocktake.audit import TimeLimit, audit, stamped
from stocktake.clock import SystemClock
from stocktake.drivers.fake import FakeDriver
from stocktake.errors import DriverError, DriverUnreachable, NodeNotFound
from stocktake.model.books import Metric
from stocktake.model.hypervisor import HostView
from stocktake.settings import read_settings

SOUND: Mapping[str, object] = {
    "vcpus": 8,
    "memory_mb": 1024,
    "local_gb": 10,
    "vcpus_used": 0,
    "memory_mb_used": 0,
    "local_gb_used": 0,
    "cpu_info": None,
    "numa_topology": None,
}


def a_driver(tmp_path: Path, **nodes: Mapping[str, object]) -> FakeDriver:
    """A fleet of the nodes given, by name: what is special about each."""
    fleet = {"nodes": [{"name": name, "resources": SOUND, **special} for name, special in nodes.items()]}
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps(fleet))
    settings = read_settings(None, {}, {"state_path": tmp_path, "compute_driver": "fake", "fake": {"fleet": path}})
    return FakeDriver(settings, SystemClock())


def a_limit(seconds: float = 10) -> TimeLimit:
    return TimeLimit(seconds, "the driver")


class BrokenMonitor:
    """A monitor whose sensor is gone."""

    def read(self, node: str) -> tuple[Metric, ...]:
        raise DriverError("no sensor", where=node)


def test_given_one_bad_node_when_audited_then_only_it_fails(tmp_path: Path) -> None:
    driver = a_driver(tmp_path, good={}, bad={"fault": {"raise": "DriverError", "text": "it burns"}})
    views = audit(driver, (), ("good", "bad", "gone"), my_ip="192.0.2.1", limit=a_limit())
    good = views["good"]
    assert isinstance(good, HostView)
    assert (good.host_ip, good.report["cpu_info"]) == ("192.0.2.1", "")
    assert isinstance(views["bad"], DriverError)
    assert isinstance(views["gone"], NodeNotFound)


def test_given_a_hanging_driver_when_audited_then_it_is_unreachable_in_time_and_threads_do_not_pile_up(
    tmp_path: Path,
) -> None:
    driver = a_driver(tmp_path, slow={"fault": {"hang_s": 3600}})
    limit = a_limit(0.05)
    before = threading.active_count()
    for _ in range(5):
        view = audit(driver, (), ("slow",), my_ip=None, limit=limit)["slow"]
        assert isinstance(view, DriverUnreachable)
    assert threading.active_count() <= before + 1
    driver.close()


def test_given_a_hang_that_ends_when_asked_again_then_the_driver_is_back(tmp_path: Path) -> None:
    ended = threading.Event()
    limit = a_limit(0.05)
    with pytest.raises(DriverUnreachable):
        limit.call(ended.wait)
    ended.set()
    patient = a_limit(10)
    patient._hanging = limit._hanging
    assert limit._hanging is not None
    assert limit._hanging.done.wait(10)
    assert patient.call(lambda: 7) == 7


def test_given_a_failing_call_when_limited_then_its_own_error_comes_out() -> None:
    def fails() -> None:
        raise DriverError("no", where="there")

    with pytest.raises(DriverError, match="there: no"):
        a_limit().call(fails)


def test_given_a_broken_monitor_when_audited_then_the_node_is_seen_and_carries_the_problem(tmp_path: Path) -> None:
    view = audit(a_driver(tmp_path, one={}), (BrokenMonitor(),), ("one",), my_ip=None, limit=a_limit())["one"]
    assert isinstance(view, HostView)
    assert [problem.code for problem in view.problems] == ["monitor-unreadable"]


@pytest.mark.parametrize(
    ("said", "recorded"),
    [({}, ""), ({"cpu_info": None}, ""), ({"cpu_info": "x"}, "x"), ({"cpu_info": {"b": 1, "a": 2}}, '{"a":2,"b":1}')],
)
def test_given_cpu_info_when_stamped_then_it_is_text(said: Mapping[str, object], recorded: str) -> None:
    assert stamped(said)["cpu_info"] == recorded


def test_given_a_node_when_audited_then_what_the_hypervisor_sees_as_free_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    driver = a_driver(tmp_path, one={"fault": {"lie": {"memory_mb_used": 1000, "vcpus_used": "some"}}})
    audit(driver, (), ("one",), my_ip=None, limit=a_limit())
    (view,) = [vars(record) for record in caplog.records if record.getMessage() == "hypervisor resource view"]
    assert (view["node"], view["free_ram_mb"], view["free_disk_gb"], view["free_vcpus"]) == ("one", 24, 10, None)
