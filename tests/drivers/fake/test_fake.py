"""The driver `fake`: fleets of files, faults that they ask for, fleets of a seed."""

import re
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stocktake.clock import Clock, SystemClock
from stocktake.drivers.fake import FAULTS, FakeDriver
from stocktake.errors import DriverError, DriverUnreachable, NodeNotFound, StocktakeError
from stocktake.model.hypervisor import Guest, Host, HostView, Survey
from stocktake.settings import Settings, read_settings
from stocktake.verify import verify

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "fleet.md"
RESOURCES: dict[str, Any] = {"vcpus": 4, "memory_mb": 4096, "local_gb": 20, "numa_topology": None}
TOML = """
uptime_s = 60.0
[[nodes]]
name = "a"
resources = { vcpus = 4, memory_mb = 4096 }
[[nodes.guests]]
uuid = "5f3b1e0c-0000-4000-8000-000000000001"
name = "web"
state = "running"
active = true
vcpus = 2
[[nodes]]
name = "b"
listed = false
resources = { vcpus = 8, hypervisor_hostname = "B" }
"""


class Waits(SystemClock):
    """A clock that notes how long was waited, and waits no longer."""

    def __init__(self) -> None:
        self.waited_s: list[float | None] = []

    def wait(self, event: threading.Event, timeout_s: float | None) -> bool:
        self.waited_s.append(timeout_s)
        return event.is_set()


def settings_of(**flags: object) -> Settings:
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return read_settings(Path("/dev/null"), {}, {"state_path": "/nowhere", "host": "h", **dotted})


def driver_of(path: Path, nodes: object, clock: Clock | None = None, **more: object) -> FakeDriver:
    path.write_bytes(msgspec.json.encode({"nodes": nodes, **more}))
    return FakeDriver(settings_of(fake__fleet=str(path)), clock or SystemClock())


def node(name: str = "a", **more: object) -> dict[str, object]:
    return {"name": name, "resources": RESOURCES, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "fleet.json"


def test_given_a_toml_file_then_it_describes_the_fleet(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(TOML)
    driver = FakeDriver(settings_of(fake__fleet=str(path)), SystemClock())
    assert driver.node_names() == ("a",)
    assert driver.node_exists("b")
    assert driver.uptime_s() == 60.0
    surveys = driver.survey(["a", "b"])
    first, second = surveys["a"], surveys["b"]
    assert isinstance(first, Survey)
    assert isinstance(second, Survey)
    assert first.report == {"vcpus": 4, "memory_mb": 4096, "numa_topology": None, "hypervisor_hostname": "a"}
    assert [guest.name for guest in first.guests or ()] == ["web"]
    assert second.report["hypervisor_hostname"] == "B"
    assert second.guests is None


def test_given_the_references_example_then_it_is_a_fleet(tmp_path: Path) -> None:
    example = re.findall(r"```toml\n(.*?)```", REFERENCE.read_text(encoding="utf-8"), re.DOTALL)[1]
    (tmp_path / "fleet.toml").write_text(example)
    driver = FakeDriver(settings_of(fake__fleet=str(tmp_path / "fleet.toml")), SystemClock())
    surveys = driver.survey(driver.node_names())
    first = surveys["node-a"]
    assert isinstance(first, Survey)
    assert isinstance(verify(HostView(node="node-a", report=first.report, guests=first.guests)), Host)
    assert isinstance(surveys["node-b"], DriverError)


def test_given_the_references_table_of_faults_then_it_names_all() -> None:
    assert f"`raise` ({', '.join(f'`{name}`' for name in sorted(FAULTS))})" in REFERENCE.read_text(encoding="utf-8")


def test_given_two_prefixes_then_no_node_and_no_guest_is_in_both_fleets() -> None:
    fleets = [FakeDriver(settings_of(fake__prefix=prefix), SystemClock()) for prefix in ("red", "blue")]
    names = [set(fleet.node_names()) for fleet in fleets]
    assert not names[0] & names[1]
    guests = [
        {guest.uuid for survey in fleet.survey(fleet.node_names()).values() for guest in guests_of(survey)}
        for fleet in fleets
    ]
    assert guests[0]
    assert not guests[0] & guests[1]


def guests_of(survey: Survey | StocktakeError) -> tuple[Guest, ...]:
    assert isinstance(survey, Survey)
    return survey.guests or ()


def test_given_a_fault_then_only_its_node_has_it(path: Path) -> None:
    driver = driver_of(path, [node(), node("b", fault={"raise": "DriverError", "text": "the disk is on fire"})])
    surveys = driver.survey(driver.node_names())
    assert isinstance(surveys["a"], Survey)
    assert isinstance(surveys["b"], DriverError)
    assert "the disk is on fire" in str(surveys["b"])


def test_given_a_lie_then_it_is_told_and_what_is_omitted_is_missing(path: Path) -> None:
    driver = driver_of(path, [node(fault={"lie": {"memory_mb": -1}, "omit": ["vcpus"]})])
    survey = driver.survey(["a"])["a"]
    assert isinstance(survey, Survey)
    assert survey.report["memory_mb"] == -1
    assert "vcpus" not in survey.report


def test_given_a_hang_then_the_answer_takes_that_long(path: Path) -> None:
    clock = Waits()
    driver = driver_of(path, [node(fault={"hang_s": 7.5})], clock)
    assert isinstance(driver.survey(["a"])["a"], Survey)
    assert clock.waited_s == [7.5]


def test_given_a_hang_then_closing_ends_it(path: Path) -> None:
    driver = driver_of(path, [node(fault={"hang_s": 3600})])
    asking = threading.Thread(target=driver.survey, args=(["a"],))
    asking.start()
    driver.close()
    asking.join(10)
    assert not asking.is_alive()


@pytest.mark.parametrize("error", ["DriverUnreachable", "DriverError"])
def test_given_a_fault_of_the_list_then_it_can_not_be_listed(path: Path, error: str) -> None:
    driver = driver_of(path, [node()], listing={"raise": error})
    with pytest.raises(StocktakeError) as caught:
        driver.node_names()
    assert caught.value.code == error


def test_given_a_list_that_lies_then_other_nodes_are_listed(path: Path) -> None:
    assert driver_of(path, [node()], listing={"lie": {"nodes": ["x"]}}).node_names() == ("x",)


def test_given_a_file_that_changes_then_the_fleet_changes(path: Path) -> None:
    driver = driver_of(path, [node()])
    assert driver.node_names() == ("a",)
    path.write_bytes(msgspec.json.encode({"nodes": [node("other")]}))
    assert driver.node_names() == ("other",)
    assert isinstance(driver.survey(["a"])["a"], NodeNotFound)


def test_given_a_file_that_goes_then_the_driver_is_unreachable_until_it_is_back(path: Path) -> None:
    driver = driver_of(path, [node()])
    text = path.read_bytes()
    path.unlink()
    with pytest.raises(DriverUnreachable, match="No such file"):
        driver.node_names()
    with pytest.raises(DriverUnreachable):
        driver.survey(["a"])
    path.write_bytes(text)
    assert driver.node_names() == ("a",)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("f.json", "{", "truncated"),
        ("f.json", "{}", "missing required field `nodes`"),
        ("f.json", '{"nodes": [{"name": "a"}]}', "missing required field `resources` - at `$.nodes[0]`"),
        ("f.json", '{"nodes": [], "node": []}', "unknown field `node`"),
        ("f.json", '{"nodes": [{"name": "a", "resources": {}, "fault": {"hang": 1}}]}', "unknown field `hang`"),
        ("f.json", '{"nodes": [{"name": "a", "resources": {}, "fault": {"raise": "Oops"}}]}', "a fault raises 'Oops'"),
        ("f.json", '{"nodes": [], "listing": {"raise": "Oops"}}', "it may raise DriverError"),
        ("f.json", '{"nodes": [{"name": "a", "resources": {}}, {"name": "a", "resources": {}}]}', "two nodes 'a'"),
        ("f.toml", "nodes = [", "is not TOML"),
        ("f.toml", "nodes = 1", "array"),
    ],
)
def test_given_a_file_that_is_no_fleet_then_the_error_says_what(
    tmp_path: Path, name: str, content: str, told: str
) -> None:
    (tmp_path / name).write_text(content)
    driver = FakeDriver(settings_of(fake__fleet=str(tmp_path / name)), SystemClock())
    with pytest.raises(DriverError) as caught:
        driver.node_names()
    assert told in str(caught.value)
    assert caught.value.where == str(tmp_path / name)


def test_given_a_seed_then_the_fleet_is_the_same_every_time() -> None:
    one, two, other = (FakeDriver(settings_of(fake__nodes=12, fake__seed=seed), SystemClock()) for seed in (5, 5, 6))
    names = one.node_names()
    assert one.survey(names) == two.survey(names)
    assert one.survey(names) != other.survey(names)


def test_given_no_guests_wanted_then_generated_nodes_are_empty() -> None:
    driver = FakeDriver(settings_of(fake__nodes=5, fake__guests=False), SystemClock())
    surveys = driver.survey(driver.node_names()).values()
    assert all(isinstance(survey, Survey) and survey.guests == () for survey in surveys)


def test_given_ten_thousand_nodes_then_a_survey_takes_well_under_half_a_second() -> None:
    driver = FakeDriver(settings_of(fake__nodes=10_000, fake__guests=False), SystemClock())
    names = driver.node_names()
    begin_s = time.process_time()
    assert len(driver.survey(names)) == 10_000
    assert time.process_time() - begin_s < 0.25
