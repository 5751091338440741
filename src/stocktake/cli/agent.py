"""
`agent`: take stock every minute. Invariant: it ends when told to, or if this host is not who the ledger says it is.
"""

import faulthandler
import gc
import secrets
import sys

import click

from stocktake import __version__
from stocktake.agent.health import AgentHealth
from stocktake.agent.loop import Agent, Journal
from stocktake.cli.commands import Command
from stocktake.cli.refresh import exit_code_of
from stocktake.cli.session import Session, open_context
from stocktake.refresh.context import Context, Override
from stocktake.refresh.run import refresh
from stocktake.settings import read_supervisor
from stocktake.telemetry import Telemetry


@click.command(
    "agent",
    cls=Command,
    example="""
    $ stocktake agent --verbose
    $ stocktake agent --once
    $ systemctl reload stocktake-agent
    """,
)
@click.option("--once", is_flag=True, help="One pass, then end: like `refresh`, with a log instead of tables.")
@click.option(
    "--adopt-identity", is_flag=True, help="This machine replaces the one that had this host's name in the ledger."
)
@click.pass_obj
def agent_command(session: Session, *, once: bool, adopt_identity: bool) -> int:
    """Take stock every update_resources_interval seconds, until stopped.

    Logs to stderr. SIGTERM and Ctrl-C end it after the step at hand; SIGHUP reads
    the settings again. What can't be reached is retried at growing intervals.
    Serves metrics and health checks over HTTP on metrics.listen.
    Exit code 2 if this host is not who the ledger says it is.
    """
    session.service = True
    # A long-lived process needs the collector.
    gc.set_threshold(*session.collector)
    if once:
        result = refresh(session.context, full=True, override=Override(identity=adopt_identity))
        # After the pass, which has checked that this host is who it says it is.
        session.context.ledger.heartbeat(session.settings.host, version=__version__)
        Journal().note_pass(result)
        return exit_code_of(result)

    if sys.__stderr__ is not None:
        # A watchdog ends a program that hangs with SIGABRT: where it hung is then in its log.
        faulthandler.enable(sys.__stderr__)
    telemetry = Telemetry()
    health = AgentHealth(session.clock, telemetry, read_supervisor(), serve=True)

    opened_before: set[str] = set()

    def opened() -> Context:
        settings = session.read_settings()
        session.log_as_asked(settings.log.level, as_json=settings.log.json)
        health.first(settings)
        # A ledger that was there is not made anew: it was removed under us.
        make = settings.database.connection not in opened_before
        context = open_context(settings, session.clock, session.ids, telemetry, make=make)
        opened_before.add(settings.database.connection)
        return context

    agent = Agent(opened, session.clock, secrets.SystemRandom().random, health, adopt_identity=adopt_identity)
    agent.catch_signals()
    agent.run()
    return 0
