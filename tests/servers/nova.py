"""
Nova's databases, and the parts of the real Nova that need nothing else: `nova-manage`, and what its scheduler asks.

    with nova_beside(directory, postgres, keystone) as nova:
        print(nova.manage("placement", "audit", "--verbose"))
        (query,) = nova.asks({"vcpus": 1, "memory_mb": 512})

The databases are PostgreSQL's. `nova-manage` makes them, which takes a minute: that is done once, and the dump is kept
in the virtualenv. No compute service runs: `nova.add_compute` writes that one does.
"""

import contextlib
import json
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.servers.keystone import HOME, REGION, SERVICE, KeystoneServer, made_of, run, write_settings
from tests.servers.postgres import USER, PrivatePostgres, private_postgres, program_of

DATABASES = ("nova_api", "nova_cell0", "nova")
_ASKER = Path(__file__).with_name("nova_asks.py")
# Filled in by Nova from what its own settings say: so they are right on another port too.
_CELL = "{scheme}://{username}@{hostname}:{port}/"
_TIMEOUT_S = 120.0


@dataclass(frozen=True, slots=True)
class Nova:
    """Nova's settings, and its databases; `directory` holds nova.conf."""

    directory: Path
    postgres: PrivatePostgres

    def manage(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """Run `nova-manage`, insist on how it ends, and give what it says."""
        command = [str(HOME / "bin" / "nova-manage"), "--config-file", str(self.directory / "nova.conf"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        assert done.returncode in codes, f"{words}: {done.returncode} {(done.stdout + done.stderr)[-4000:]}"
        return done.stdout

    def execute(self, database: str, statement: str, parameters: Mapping[str, object]) -> None:
        """Change something in one of the databases."""
        with psycopg.connect(self.postgres.url(database)) as connection:
            connection.execute(statement.encode(), parameters)

    def add_compute(self, host: str, *, version: int) -> None:
        """Write that a compute service of this version runs on a host."""
        statement = (
            'INSERT INTO services (host, "binary", topic, report_count, disabled, deleted, forced_down, version, uuid)'
            " VALUES (%(host)s, 'nova-compute', 'compute', 1, false, 0, false, %(version)s, gen_random_uuid())"
        )
        self.execute("nova", statement, {"host": host, "version": version})

    def set_compute_version(self, version: int) -> None:
        """Write that all compute services are of this version."""
        self.execute("nova", "UPDATE services SET version = %(version)s", {"version": version})

    def asks(self, *requests: Mapping[str, object]) -> list[str]:
        """Give the queries that Nova's scheduler sends to /allocation_candidates; see nova_asks.py."""
        conf = ["--config-file", str(self.directory / "nova.conf")]
        command = [str(HOME / "bin" / "python"), "-P", "-W", "ignore", str(_ASKER), json.dumps(requests), *conf]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        queries: list[str] = json.loads(done.stdout.splitlines()[-1])
        return queries

    def add_aggregate(self, name: str, **metadata: str) -> str:
        """Make an aggregate of no hosts, and give its uuid."""
        made = str(uuid.uuid4())
        statement = (
            "WITH made AS (INSERT INTO aggregates (uuid, name) VALUES (%(uuid)s, %(name)s) RETURNING id)"
            " INSERT INTO aggregate_metadata (aggregate_id, key, value)"
            " SELECT made.id, told.key, told.value FROM made, jsonb_each_text(%(metadata)s::jsonb) AS told"
        )
        self.execute("nova_api", statement, {"uuid": made, "name": name, "metadata": json.dumps(metadata)})
        return made


@contextlib.contextmanager
def nova_beside(directory: Path, postgres: PrivatePostgres, keystone: KeystoneServer) -> Iterator[Nova]:
    """Make Nova's databases in this PostgreSQL; it finds Placement by this Keystone. Its files are in `directory`."""
    dump = _made()
    for database in DATABASES:
        _create(postgres, database)
        restored = subprocess.run(
            [
                program_of("psql"),
                "-q",
                "-v",
                "ON_ERROR_STOP=1",
                "-f",
                str(dump / f"{database}.sql"),
                postgres.url(database),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert restored.returncode == 0, restored.stderr
    directory.mkdir(exist_ok=True)
    sections = _settings(directory, postgres)
    sections["placement"] = {"auth_type": "password", "region_name": REGION, **keystone.auth_of(SERVICE)}
    if keystone.tls is not None:
        sections["placement"]["cafile"] = keystone.tls.authority
    write_settings(directory / "nova.conf", sections)
    try:
        yield Nova(directory, postgres)
    finally:
        for database in DATABASES:
            postgres.drop_database(postgres.url(database))


def _create(postgres: PrivatePostgres, database: str) -> None:
    with psycopg.connect(postgres.url("postgres"), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {database} TEMPLATE template0".encode())


def _made() -> Path:
    """Give a folder with dumps of the databases; made once."""
    made = made_of("nova", DATABASES, _CELL)
    if not made.exists():
        with tempfile.TemporaryDirectory(dir=made.parent) as half, private_postgres() as postgres:
            folder = Path(half) / "nova"
            folder.mkdir()
            for database in DATABASES:
                _create(postgres, database)
            conf = Path(half) / "nova.conf"
            write_settings(conf, _settings(Path(half), postgres))
            options = ("--config-file", str(conf))
            run("nova-manage", *options, "api_db", "sync")
            run("nova-manage", *options, "cell_v2", "map_cell0", "--database_connection", f"{_CELL}nova_cell0")
            cell = ("--name", "cell1", "--database_connection", f"{_CELL}nova", "--transport-url", "fake:///")
            run("nova-manage", *options, "cell_v2", "create_cell", *cell)
            run("nova-manage", *options, "db", "sync")
            for database in DATABASES:
                command = [program_of("pg_dump"), "--no-owner", "-f", str(folder / f"{database}.sql")]
                subprocess.run([*command, postgres.url(database)], check=True, capture_output=True)
            with contextlib.suppress(OSError):
                # Another test process may have been as quick.
                folder.rename(made)
    return made


def _settings(directory: Path, postgres: PrivatePostgres) -> dict[str, dict[str, Any]]:
    def url(database: str) -> str:
        return f"postgresql+psycopg2://{USER}@127.0.0.1:{postgres.port}/{database}"

    return {
        "DEFAULT": {"state_path": directory, "transport_url": "fake:///"},
        "api_database": {"connection": url("nova_api")},
        "database": {"connection": url("nova")},
    }
