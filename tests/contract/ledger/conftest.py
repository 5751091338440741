"""The doors: each test runs over a SQLite file and over a database of a real PostgreSQL."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stocktake.ledger import Ledger
from tests.contract.ledger.making import opened
from tests.servers.postgres import PrivatePostgres, postgres, postgres_url

__all__ = ["postgres", "postgres_url"]

DOORS = ("sqlite", "postgresql")


@pytest.fixture(params=DOORS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a database with nothing in it."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/books/ledger.db"
    url: str = request.getfixturevalue("postgres_url")
    return url


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an empty ledger once; a copy is faster than the scripts."""
    path = tmp_path_factory.mktemp("template") / "ledger.db"
    opened(f"sqlite:///{path}").close()
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres: PrivatePostgres) -> str:
    """Make an empty ledger once in a database of PostgreSQL."""
    url = postgres.create_database()
    opened(url).close()
    return url.rpartition("/")[2]


@pytest.fixture(params=DOORS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a ledger with nothing in it."""
    if request.param == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ledger.db")
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    template = request.getfixturevalue("postgres_template")
    server: PrivatePostgres = request.getfixturevalue("postgres")
    copied = server.create_database(template)
    yield copied
    server.drop_database(copied)


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    """Open an empty ledger."""
    with_books = opened(url)
    yield with_books
    with_books.close()
