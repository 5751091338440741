"""The backends: each test runs over SQLite and a database of a real PostgreSQL; most over a server before one."""

import contextlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stocktake.ledger import DatabaseLedger, Ledger
from tests.ledger.behind import behind_a_server
from tests.ledger.making import opened
from tests.servers.postgres import PrivatePostgres, postgres, postgres_url

__all__ = ["postgres", "postgres_url"]

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(params=DATABASES)
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


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the URL of a ledger with nothing in it."""
    with database_of(request, request.param, tmp_path) as made:
        yield made


@contextmanager
def database_of(request: pytest.FixtureRequest, backend: str, tmp_path: Path) -> Iterator[str]:
    """Make a ledger with nothing in it, and give its URL."""
    if backend == "sqlite":
        shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "ledger.db")
        yield f"sqlite:///{tmp_path}/ledger.db"
        return
    template = request.getfixturevalue("postgres_template")
    server: PrivatePostgres = request.getfixturevalue("postgres")
    copied = server.create_database(template)
    yield copied
    server.drop_database(copied)


@pytest.fixture
def ledger(database: DatabaseLedger) -> DatabaseLedger:
    """Open an empty ledger."""
    return database


@pytest.fixture
def database(url: str) -> Iterator[DatabaseLedger]:
    """Open an empty ledger for what can only be done where the database is."""
    with contextlib.closing(opened(url)) as ledger_:
        yield ledger_


@pytest.fixture(params=(*DATABASES, "server"))
def any_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """Open an empty ledger: in a database, or behind a server."""
    behind = request.param == "server"
    with contextlib.ExitStack() as opened_:
        url = opened_.enter_context(database_of(request, "sqlite" if behind else request.param, tmp_path))
        if behind:
            yield opened_.enter_context(behind_a_server(url, tmp_path))
        else:
            yield opened_.enter_context(contextlib.closing(opened(url)))
