"""
`history`: what a node had and promised over time. Invariant: the ledger is read, nobody else is asked.
"""

import click

from stocktake.cli.commands import Command
from stocktake.cli.options import complete_node
from stocktake.cli.screen import Column, Row, hint, screen_of, write, write_json, write_table
from stocktake.cli.session import Session
from stocktake.model.history import Moment
from stocktake.views.finding import find_node
from stocktake.views.quantities import moment, span_of


@click.command(
    "history",
    cls=Command,
    example="""
    $ stocktake history compute-7
    $ stocktake history compute-7 --since 30d --json | jq '.data[] | [.at, .memory_mb_used]'
    """,
)
@click.argument("node_name", metavar="NODE", shell_complete=complete_node)
@click.option("--since", metavar="SPAN", default="1d", show_default=True, help="How far back: 90m, 12h, 30d.")
@click.pass_obj
def history_command(session: Session, node_name: str, since: str) -> int:
    """Show what NODE had and promised over time, the oldest first.

    There is a line for each interval (history.interval_s) in which a figure
    changed; it holds until the next one. What is older is kept by the hour, then
    by the day, then dropped: see the settings of the section history.
    """
    back = span_of(since, where="--since")
    node = find_node(session.ledger, node_name)
    found = session.ledger.history(node.uuid, since_s=back.total_seconds())
    if session.json:
        write_json(session, found)
        return 0
    screen = screen_of(session)
    if not found:
        write(screen, f"Nothing is remembered of {node.hypervisor_hostname}.")
        hint(session, "A refresh in which a figure changes remembers it, unless history.interval_s is 0.")
        return 0
    columns = (
        Column("FROM"),
        Column("VCPUS", right=True),
        Column("MEMORY MiB", right=True),
        Column("DISK GiB", right=True),
        Column("RUNNING", right=True, weight=1),
    )
    write_table(screen, columns, [_row(one) for one in found])
    return 0


def _row(one: Moment) -> Row:
    return (
        moment(one.at),
        f"{one.vcpus_used}/{one.vcpus}",
        f"{one.memory_mb_used:,}/{one.memory_mb:,}",
        f"{one.local_gb_used:,}/{one.local_gb:,}",
        str(one.running_vms),
    )
