"""The two backends to a real Placement: embedded in this process, and served over HTTP."""

from collections.abc import Iterator

import pytest

from stocktake.placement import Scheduler
from tests.placement.schedulers import Backend, embedded_backend, http_backend


@pytest.fixture(params=["embedded", "http"])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    if request.param == "embedded":
        made = embedded_backend(request.getfixturevalue("embedded_connection"))
    else:
        made = http_backend(request.getfixturevalue("placement_server"))
    yield made
    made.other.close()


@pytest.fixture
def scheduler(backend: Backend) -> Iterator[Scheduler]:
    opened = backend.open()
    opened.ping()
    yield opened
    opened.close()
