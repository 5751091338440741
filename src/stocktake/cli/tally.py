"""
`tally`: add up documents that say all there is to know of a node. Invariant: no database, no hypervisor, no settings.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from stocktake.cli.options import Command
from stocktake.cli.session import Session

if TYPE_CHECKING:
    from stocktake.cli.tables import Row


@click.command(
    "tally",
    short_help="Add up documents, without ledger or hypervisor.",
    cls=Command,
    example="""
    $ stocktake tally node.jsonl
    $ stocktake tally node.jsonl --json | jq .compute_node.memory_mb_used
    """,
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.pass_obj
def tally_command(session: Session, file: Path) -> int:
    """Add up the nodes that FILE describes, or stdin for `-`: a JSON document a line.

    A document holds what the hypervisor reports, the instances, the migrations
    and the settings, so that a support case can be worked out anywhere. With
    --json a line each: id, compute_node, entries, problems,
    migrations_set_to_error, placement. Exit code 1 if one could not be tallied.
    """
    import msgspec

    from stocktake.cli.case import read_documents, tally_document

    session.command = "tally"
    session.json_lines = True
    results: list[dict[str, Any]] = []
    code = 0
    for document in read_documents(file):
        result = tally_document(document)
        code = max(code, 1 if "error" in result else 0)
        if session.json:
            click.echo(msgspec.json.encode(result))
        else:
            results.append(result)
    if not session.json:
        _write(session, results)
    return code


def _write(session: Session, results: list[dict[str, Any]]) -> None:
    from stocktake.cli.screen import clean, screen_of, write, write_prose
    from stocktake.cli.tables import Column, write_table

    screen = screen_of(session)
    if not results:
        write(screen, "There is no document in it.")
        return
    columns = (
        Column("ID"),
        Column("NODE", shrinks=True),
        Column("VCPUS", right=True),
        Column("MEMORY MiB", right=True),
        Column("DISK GB", right=True, weight=2),
        Column("VMS", right=True, weight=3),
        Column("PROBLEMS", right=True, weight=4),
        Column("STALE MIGRATIONS", weight=1),
    )
    write_table(screen, columns, [_row(result) for result in results])
    for result in results:
        for reason in result.get("error", ()):
            write_prose(screen, clean(f"{result['id']}: {reason}"), colour="red")
    if len(results) == 1:
        for problem in results[0].get("problems", ()):
            write_prose(
                screen, clean(f"{problem['severity']} {problem['code']} ({problem['about']}): {problem['text']}")
            )


def _row(result: dict[str, Any]) -> "Row":
    from stocktake.cli.tables import Cell

    if "error" in result:
        return (str(result["id"]), Cell("refused", "red"), "", "", "", "", "", "")
    node = result["compute_node"]
    return (
        str(result["id"]),
        node["hypervisor_hostname"],
        f"{node['vcpus_used']}/{node['vcpus']}",
        f"{node['memory_mb_used']:,}/{node['memory_mb']:,}",
        f"{node['local_gb_used']:,}/{node['local_gb']:,}",
        str(node["running_vms"]),
        str(len(result["problems"])),
        ", ".join(map(str, result["migrations_set_to_error"])),
    )
