"""What the front is tested on: a made-up fleet in a ledger, on both databases."""

import shutil
from pathlib import Path

import pytest

from tests.ledger.conftest import (
    empty_url,
    postgres,
    postgres_template,
    postgres_url,
    sqlite_template,
    url,
)
from tests.servers.fleets import stocked

__all__ = ["empty_url", "postgres", "postgres_template", "postgres_url", "sqlite_template", "url"]


@pytest.fixture
def fleet_url(url: str, tmp_path: Path) -> str:
    """A ledger with the fleet of `compute-1`."""
    stocked(tmp_path, url)
    return url


@pytest.fixture(scope="session")
def sqlite_fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Such a ledger in an SQLite file, made once."""
    directory = tmp_path_factory.mktemp("fleet")
    stocked(directory, f"sqlite:///{directory / 'ledger.db'}")
    return directory / "ledger.db"


@pytest.fixture
def books(sqlite_fleet: Path, tmp_path: Path) -> str:
    """A copy of it, by its URL: for what does not depend on the database."""
    shutil.copy(sqlite_fleet, tmp_path / "ledger.db")
    return f"sqlite:///{tmp_path / 'ledger.db'}"
