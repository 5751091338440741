"""
`services`: the agents. Invariant: a disabled service still takes stock; only the scheduler sends it nothing new.
"""

from datetime import datetime
from functools import partial

import click

from stocktake.cli.commands import Commands
from stocktake.cli.screen import COLOURS, Column, Row, TableCell, answer, answer_list
from stocktake.cli.session import Session
from stocktake.views.finding import find_service
from stocktake.views.problems import ServiceShown, service_shown
from stocktake.views.quantities import since


@click.group(
    "services",
    cls=Commands,
    invoke_without_command=True,
    example="""
    $ stocktake services
    $ stocktake services disable compute-7 --reason "new memory, ticket 4711"
    $ stocktake services enable compute-7
    """,
)
@click.pass_context
def services_command(context: click.Context) -> int:
    """List the services (agents), or enable and disable one.

    STATE is `up` if the agent's last heartbeat is within service_down_time.
    STATUS is set by an operator: the scheduler sends nothing new to a `disabled`
    service.
    """
    if context.invoked_subcommand is not None:
        return 0

    session = context.ensure_object(Session)
    services = sorted(session.ledger.services(), key=lambda service: service.host)
    now, down_time_s = session.clock.now(), session.settings.service_down_time
    shown = [service_shown(service, now, down_time_s) for service in services]
    columns = (
        Column("HOST", shrinks=True),
        Column("STATUS"),
        Column("STATE"),
        Column("LAST SEEN", right=True),
        Column("VERSION", weight=1),
        Column("REASON", wraps=True),
    )
    return answer_list(
        session,
        shown,
        columns,
        partial(_row, now),
        empty=f"The ledger {session.ledger.name} has no services yet.",
        advice="`stocktake agent` (or one `stocktake refresh`) makes this host's.",
    )


def _row(now: datetime, service: ServiceShown) -> Row:
    return (
        service.host,
        TableCell("disabled", "yellow") if service.disabled else "enabled",
        TableCell(service.state, COLOURS[service.state]),
        since(service.last_seen_up, now) if service.last_seen_up else "never",
        service.version,
        service.disabled_reason or ("forced down" if service.forced_down else ""),
    )


@services_command.command("enable", example="$ stocktake services enable compute-7")
@click.argument("host")
@click.pass_obj
def enable_command(session: Session, host: str) -> int:
    """Enable the service of HOST: the scheduler may send it new instances again."""
    return _set(session, host, disabled=False, reason=None)


@services_command.command("disable", example='$ stocktake services disable compute-7 --reason "new memory"')
@click.argument("host")
@click.option("--reason", metavar="TEXT", required=True, help="Why; shown with the service.")
@click.pass_obj
def disable_command(session: Session, host: str, reason: str) -> int:
    """Disable the service of HOST: it gets no new instances; its own stay and count.

    Placement gets the trait COMPUTE_STATUS_DISABLED with the agent's next pass.
    """
    return _set(session, host, disabled=True, reason=reason)


def _set(session: Session, host: str, *, disabled: bool, reason: str | None) -> int:
    find_service(session.ledger, host)
    session.ledger.set_service(host, disabled=disabled, reason=reason)
    text = f"{host} is disabled: {reason}" if disabled else f"{host} is enabled"
    return answer(session, session.ledger.service(host), f"{text}. Placement is updated with the agent's next pass.")
