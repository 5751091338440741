"""
What every driver must do, whatever it asks.

A driver's suite subclasses `DriverContract` and gives the fixture `driver`.
"""

from stocktake.audit import stamped
from stocktake.drivers.base import Driver
from stocktake.errors import NodeNotFound
from stocktake.model.hypervisor import Host, HostView, Survey
from stocktake.model.value import encode
from stocktake.verify import verify

UNKNOWN = "no-such-node"


class DriverContract:
    """The suite."""

    def test_given_a_driver_then_it_has_all_parts_of_one(self, driver: Driver) -> None:
        assert isinstance(driver, Driver)
        assert driver.name

    def test_given_nodes_then_each_is_listed_once_and_again_the_same(self, driver: Driver) -> None:
        names = driver.node_names()
        assert names
        assert len(set(names)) == len(names)
        assert driver.node_names() == names

    def test_given_all_nodes_then_one_sweep_answers_for_each(self, driver: Driver) -> None:
        names = driver.node_names()
        surveys = driver.survey(names)
        assert set(surveys) == set(names)
        assert all(isinstance(survey, Survey) for survey in surveys.values())

    def test_given_no_nodes_then_nothing_is_answered(self, driver: Driver) -> None:
        assert driver.survey(()) == {}

    def test_given_an_unknown_node_then_only_it_is_not_found(self, driver: Driver) -> None:
        name = driver.node_names()[0]
        surveys = driver.survey([UNKNOWN, name])
        assert isinstance(surveys[UNKNOWN], NodeNotFound)
        assert isinstance(surveys[name], Survey)

    def test_given_a_report_then_it_is_believed_and_about_its_node(self, driver: Driver) -> None:
        for name, survey in driver.survey(driver.node_names()).items():
            assert isinstance(survey, Survey)
            host = verify(HostView(node=name, report=stamped(survey.report), guests=survey.guests))
            assert isinstance(host, Host), host
            assert host.hypervisor_hostname == name
            assert host.vcpus > 0
            assert host.memory_mb > 0
            assert host.hypervisor_type
            assert not [problem for problem in host.problems if problem.code == "used-negative"]

    def test_given_a_report_then_it_is_plain_data(self, driver: Driver) -> None:
        for survey in driver.survey(driver.node_names()).values():
            assert isinstance(survey, Survey)
            assert encode(survey.report)

    def test_given_guests_then_each_is_told_once(self, driver: Driver) -> None:
        for survey in driver.survey(driver.node_names()).values():
            assert isinstance(survey, Survey)
            uuids = [guest.uuid for guest in survey.guests or ()]
            assert len(set(uuids)) == len(uuids)

    def test_given_a_node_then_it_exists_and_an_unknown_one_does_not(self, driver: Driver) -> None:
        assert all(driver.node_exists(name) for name in driver.node_names())
        assert not driver.node_exists(UNKNOWN)

    def test_given_a_host_then_its_uptime_is_unknown_or_some_seconds(self, driver: Driver) -> None:
        uptime_s = driver.uptime_s()
        assert uptime_s is None or uptime_s >= 0

    def test_given_a_driver_then_it_can_be_closed_twice(self, driver: Driver) -> None:
        driver.close()
        driver.close()
