"""
`ledger`: the database itself: make, upgrade, export and import it. Invariant: all or nothing.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from stocktake.cli.commands import Commands
from stocktake.cli.screen import answer
from stocktake.cli.session import Session
from stocktake.errors import InvalidData, InvalidInput
from stocktake.settings.state_files import disk_of, replaced

# No record is nearly as long; a line without an end must not fill the memory.
_LINE_BYTES_MAX = 64 * 1024 * 1024


@click.group(
    "ledger",
    cls=Commands,
    example="""
    $ stocktake ledger export books.jsonl
    $ stocktake --set database.connection=postgresql://stocktake@db/stocktake ledger import books.jsonl
    """,
)
def ledger_command() -> None:
    """Make, upgrade, export and import the ledger."""


@ledger_command.command("init", example="$ stocktake --set database.connection=postgresql://me@db/books ledger init")
@click.pass_obj
def init_command(session: Session) -> int:
    """Make the ledger where database.connection says; an existing one keeps its data."""
    return _upgrade(session)


@ledger_command.command("upgrade", example="$ stocktake ledger upgrade")
@click.pass_obj
def upgrade_command(session: Session) -> int:
    """Upgrade the ledger's schema to the version that this program needs."""
    return _upgrade(session)


def _upgrade(session: Session) -> int:
    ledger = session.database
    ledger.upgrade()
    version = ledger.schema_version()
    data = {"connection": ledger.name, "schema_version": version}
    return answer(session, data, f"The ledger {ledger.name} is ready, schema version {version}.")


@ledger_command.command(
    "export", example="$ stocktake ledger export books.jsonl\n$ stocktake ledger export | gzip > books.jsonl.gz"
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True), default="-")
@click.pass_obj
def export_command(session: Session, file: Path) -> int:
    """Write every table as JSON lines to FILE, or to stdout, for `ledger import`.

    All tables are of one moment. FILE is written completely or not at all, for
    its owner alone.
    """
    session.json_lines = str(file) == "-"
    if str(file) == "-":
        session.database.export(lambda line: click.echo(line.rstrip("\n")))
        return 0
    lines = 0
    try:
        with replaced(file) as out:

            def write(line: str) -> None:
                nonlocal lines
                lines += 1
                out.write(f"{line.rstrip(chr(10))}\n")

            session.database.export(write)
    except OSError as error:
        what = f"can't be written: {error.strerror} (disk {disk_of(file)})"
        raise InvalidInput(what, where=str(file)) from error
    return answer(session, {"file": str(file), "lines": lines}, f"Wrote {lines:,} lines to {file}.")


@ledger_command.command(
    "import", example="$ stocktake ledger import books.jsonl\n$ zcat books.jsonl.gz | stocktake ledger import -"
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.pass_obj
def import_command(session: Session, file: Path) -> int:
    """Read JSON lines from FILE, or from stdin for `-`, into the ledger.

    All or nothing: a line that is not valid is named, and nothing is imported.
    """
    number = session.database.import_(_lines(file))
    return answer(session, {"file": str(file), "rows": number}, f"Imported {number:,} rows.")


def _lines(file: Path) -> Iterator[str]:
    """Read text lines of limited length."""
    where = "stdin" if str(file) == "-" else str(file)
    try:
        source = sys.stdin.buffer if str(file) == "-" else file.open("rb")
        with source:
            while line := source.readline(_LINE_BYTES_MAX + 1):
                if len(line) > _LINE_BYTES_MAX:
                    raise InvalidData(f"a line is longer than {_LINE_BYTES_MAX // 2**20} MiB", where=where)
                yield line.decode()
    except OSError as error:
        raise InvalidInput(f"can't be read: {error.strerror}", where=where) from error
    except UnicodeDecodeError as error:
        raise InvalidData(f"is not UTF-8 text: {error.reason}", where=where) from error
