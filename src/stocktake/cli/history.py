"""
`history`: how full a node was over time. Invariant: the ledger is read, nobody else is asked.
"""

import click

from stocktake.cli.commands import Command
from stocktake.cli.nodes import RESOURCE_COLUMNS, allocated_text
from stocktake.cli.options import complete_node
from stocktake.cli.screen import Column, answer_list
from stocktake.cli.session import Session
from stocktake.views.finding import find_node
from stocktake.views.nodes import history_rows
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
    """Show how full NODE was over time, the oldest first.

    Figures are allocated/capacity, by the reserves and ratios of today; dedicated
    CPUs are among the vCPUs. There is a row for each interval (history.interval_s) in which a figure
    changed; it holds until the next one. What is older is kept by the hour, then
    by the day, then dropped: see the settings of the section history.
    """
    back = span_of(since, where="--since")
    node = find_node(session.ledger, node_name)
    history = session.ledger.history(node.uuid, since_s=back.total_seconds())
    found = history_rows(node, session.ledger.entries(node.uuid), history)
    columns = (
        Column("FROM"),
        *(Column(title, right=True) for title, _ in RESOURCE_COLUMNS.values() if title != "PCPUS"),
        Column("VMS", right=True, weight=1),
    )
    return answer_list(
        session,
        found,
        columns,
        lambda one: (moment(one.at), *map(allocated_text, one.resources.values()), str(one.running_vms)),
        empty=f"There is no history of {node.hypervisor_hostname} yet.",
        advice="A refresh in which a figure changes adds to it, unless history.interval_s is 0.",
    )
