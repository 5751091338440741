"""The two doors to a real Placement: embedded in this process, and served over HTTP."""

from collections.abc import Iterator

import pytest

from stocktake.placement import Scheduler
from tests.placement.schedulers import Door, embedded_door, http_door


@pytest.fixture(params=["embedded", "http"])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    if request.param == "embedded":
        made = embedded_door(request.getfixturevalue("embedded_connection"))
    else:
        made = http_door(request.getfixturevalue("placement_server"))
    yield made
    made.other.close()


@pytest.fixture
def scheduler(door: Door) -> Iterator[Scheduler]:
    opened = door.open()
    opened.ping()
    yield opened
    opened.close()
