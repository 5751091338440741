"""The pages' server: the real program, over a fleet with something of everything."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.serve import Served, served
from tests.web.pages.fleet import DOWN_S, fill


@pytest.fixture(scope="session")
def looked_at(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fleet's ledger, made once."""
    directory = tmp_path_factory.mktemp("looked-at")
    fill(directory, f"sqlite:///{directory / 'ledger.db'}")
    return directory / "ledger.db"


@pytest.fixture(scope="module")
def server(looked_at: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server of a copy of it."""
    directory = tmp_path_factory.mktemp("served")
    shutil.copy(looked_at, directory / "ledger.db")
    with served(directory, service_down_time=DOWN_S) as running:
        yield running


@pytest.fixture
def books(looked_at: Path, tmp_path: Path) -> str:
    """A copy of it, by its URL, for a server in this process."""
    shutil.copy(looked_at, tmp_path / "ledger.db")
    return f"sqlite:///{tmp_path / 'ledger.db'}"
