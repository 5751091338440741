"""The schema: made, brought up to date, refused when it is newer; and the scripts make what the code expects."""

import subprocess
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import stocktake.ledger
from stocktake.errors import LedgerError, LedgerUnreachable
from stocktake.ledger import DatabaseLedger
from stocktake.ledger.schema import HEAD, REVISIONS
from stocktake.ledger.tables import METADATA, Utc
from tests.ledger.making import opened, saved


def test_given_the_scripts_when_listed_then_the_program_knows_exactly_those() -> None:
    """In their order."""
    config = Config()
    config.set_main_option("script_location", str(Path(stocktake.ledger.__file__).parent / "alembic"))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(reversed([script.revision for script in scripts.walk_revisions()])) == REVISIONS


def test_given_a_database_of_the_scripts_when_compared_with_the_tables_then_nothing_differs(
    ledger: DatabaseLedger,
) -> None:
    """Columns, types, indexes and constraints."""

    def differs(_context: object, _there: object, _wanted: object, kind: object, wanted: object) -> bool | None:
        # SQLite has no type for times.
        return False if isinstance(wanted, Utc) and "VARCHAR" in str(kind) else None

    with ledger._database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": differs})
        assert compare_metadata(context, METADATA) == []


def test_given_an_empty_database_when_not_upgraded_then_it_has_no_version_and_upgrade_gives_it_one(
    empty_url: str,
) -> None:
    """`stocktake ledger init` and `upgrade`."""
    opened(empty_url).close()
    ledger = opened(empty_url, upgrade=False)
    assert ledger.schema_version() == HEAD
    ledger.upgrade()
    ledger.ping()
    ledger.close()


def test_given_no_sqlite_file_when_opened_without_upgrade_then_none_is_made(tmp_path: Path) -> None:
    """A look must leave nothing behind."""
    ledger = opened(f"sqlite:///{tmp_path}/none/ledger.db", upgrade=False)
    with pytest.raises(LedgerUnreachable, match="the file is not there"):
        ledger.schema_version()
    ledger.close()
    assert list(tmp_path.iterdir()) == []


def test_given_an_empty_database_when_read_without_upgrade_then_the_remedy_is_named(postgres_url: str) -> None:
    """Not a stack of SQL."""
    ledger = opened(postgres_url, upgrade=False)
    assert ledger.schema_version() is None
    with pytest.raises(LedgerError, match="stocktake ledger upgrade"):
        ledger.nodes()
    ledger.upgrade()
    assert ledger.nodes() == ()
    ledger.close()


def test_given_a_newer_schema_when_opened_then_it_is_refused_and_untouched(ledger: DatabaseLedger, url: str) -> None:
    """Whoever wrote it knows better what it means."""
    saved(ledger)
    with ledger._database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(LedgerError, match=r"'9999', which this program .* does not know"):
        opened(url)
    with pytest.raises(LedgerError, match="newer stocktake"):
        ledger.upgrade()
    assert len(ledger.nodes()) == 1


@pytest.mark.parametrize("content", [b"", b"This is no database, whatever its name may say."])
def test_given_a_file_that_is_no_ledger_when_opened_then_it_is_refused_unless_empty(
    tmp_path: Path, content: bytes
) -> None:
    """An empty file is as good as none."""
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    if not content:
        opened(f"sqlite:///{path}").close()
        return
    with pytest.raises(LedgerError, match="not a database"):
        opened(f"sqlite:///{path}")
    assert path.read_bytes() == content


def test_given_a_directory_that_cannot_be_made_when_opened_then_the_remedy_is_named(tmp_path: Path) -> None:
    """A file stands where the directory should."""
    (tmp_path / "file").touch()
    with pytest.raises(LedgerUnreachable, match="Check the directory"):
        opened(f"sqlite:///{tmp_path}/file/ledger.db")


def test_given_a_sqlite_ledger_when_opened_then_it_is_in_wal_mode_with_foreign_keys(tmp_path: Path) -> None:
    """Readers and the writer do not wait for each other; odd characters in the path are nothing special."""
    path = tmp_path / "a b%20#?ö.db"
    ledger = opened(f"sqlite:///{path}".replace("?", "%3F"), wait_s=2.5)
    with ledger._database.reading() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one()
            for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
        }
    assert pragmas == {"journal_mode": "wal", "foreign_keys": 1, "synchronous": 1, "busy_timeout": 2500}
    ledger.close()


def test_given_an_export_when_somebody_reads_with_the_sqlite_shell_then_nova_names_hold(tmp_path: Path) -> None:
    """What an operator knows holds: `deleted = 0`, `hypervisor_hostname`, `pci_stats`."""
    ledger = opened(f"sqlite:///{tmp_path}/l.db")
    saved(ledger)
    query = "SELECT hypervisor_hostname, vcpus, pci_stats, deleted FROM compute_nodes WHERE deleted = 0"
    script = f"import sqlite3; print(sqlite3.connect({str(tmp_path / 'l.db')!r}).execute({query!r}).fetchall())"
    told = subprocess.run(["python3", "-c", script], check=True, capture_output=True, text=True).stdout
    assert told == "[('kvm-1.example.org', 8, '[]', 0)]\n"
    ledger.close()
