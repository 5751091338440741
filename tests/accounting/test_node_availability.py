"""Which nodes take new machines at all."""

from datetime import timedelta

import pytest

from stocktake.accounting.node_availability import is_alive, obstacles
from stocktake.model.problem import Problem
from stocktake.model.value import replace
from stocktake.model.workload import Service
from tests.accounting.making import HOST, NOON, count, uuid_of

DOWN_TIME_S = 60
NODE = count().node
STALE = replace(NODE, failure=Problem(code="DriverUnreachable", about="a", text="no answer"))
ALIVE = Service(uuid=uuid_of(1), host=HOST, last_seen_up=NOON - timedelta(seconds=5))
SILENT = replace(ALIVE, last_seen_up=NOON - timedelta(seconds=3000))
BY_HAND = replace(ALIVE, last_seen_up=None)


def disabled(service: Service, reason: str | None = "new memory") -> Service:
    return replace(service, disabled=True, disabled_reason=reason)


@pytest.mark.parametrize(("age_s", "alive"), [(0, True), (60, True), (60.001, False), (-30, True)])
def test_given_a_sign_of_life_when_it_is_as_old_as_service_down_time_then_the_service_is_still_up(
    age_s: float, *, alive: bool
) -> None:
    service = replace(ALIVE, last_seen_up=NOON - timedelta(seconds=age_s))
    assert is_alive(service, NOON, DOWN_TIME_S) is alive


@pytest.mark.parametrize(
    ("service", "told"),
    [
        (ALIVE, {}),
        (BY_HAND, {}),
        (SILENT, {"state.down": f"the agent of {HOST} has not reported for 3,000 s"}),
        (replace(ALIVE, forced_down=True), {"state.down": f"the agent of {HOST} was forced down"}),
        (replace(BY_HAND, forced_down=True), {"state.down": f"the agent of {HOST} was forced down"}),
        (None, {"state.down": f"there is no service {HOST!r}"}),
        (disabled(ALIVE), {"state.disabled": f"{HOST} is disabled: new memory"}),
        (disabled(BY_HAND, None), {"state.disabled": f"{HOST} is disabled: no reason was given"}),
        (
            disabled(SILENT),
            {
                "state.down": f"the agent of {HOST} has not reported for 3,000 s",
                "state.disabled": f"{HOST} is disabled: new memory",
            },
        ),
    ],
)
def test_given_a_service_when_its_node_is_asked_for_then_every_obstacle_is_told(
    service: Service | None, told: dict[str, str]
) -> None:
    found = obstacles(NODE, service, NOON, DOWN_TIME_S)
    assert {one.what: one.text for one in found} == told
    assert all((one.asked, one.free, one.total) == (1, 0, 1) for one in found)


def test_given_a_node_that_could_not_be_refreshed_when_asked_for_then_its_figures_are_not_believed() -> None:
    (found,) = obstacles(STALE, ALIVE, NOON, DOWN_TIME_S)
    assert (found.what, found.text) == ("state.stale", "the last refresh failed: no answer")
