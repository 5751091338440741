"""
`serve`: the server of API and pages. Invariant: no state of its own; requests at hand are answered before it ends.
"""

import gc
from typing import TYPE_CHECKING

import click

from stocktake.cli.commands import Command
from stocktake.cli.session import Session
from stocktake.errors import SettingsError

if TYPE_CHECKING:
    from stocktake.web.context import Web


@click.command(
    "serve",
    cls=Command,
    example="""
    $ stocktake serve
    $ stocktake serve --set server.listen=0.0.0.0:8790 --set server.tls_cert=/etc/stocktake/server.pem
    """,
)
@click.pass_obj
def serve_command(session: Session) -> int:
    """Serve the ledger's fleet over HTTP: an API (/v1), and pages.

    Listens on server.listen, 127.0.0.1:8790 unless set; other addresses than
    loopback need TLS (server.tls_cert) or server.allow_insecure. Every request
    needs a token: `stocktake token create`. While no token exists, anybody on
    this host may read.

    Any number of servers may run on one ledger. SIGTERM and Ctrl-C end it after
    the requests at hand; SIGHUP reads the certificate again.
    """
    session.service = True
    gc.set_threshold(*session.collector)
    try:
        from stocktake.web.serving import serve
    except ImportError as error:
        raise SettingsError(
            f"the server's libraries are missing: {error}", remedy="Install stocktake[serve]."
        ) from error

    serve(web_of(session), lambda url: click.echo(f"Serving {session.database.name} on {url}", err=True))
    return 0


def web_of(session: Session) -> "Web":
    """Put together what the server works with."""
    from stocktake.placement.embedded import Embedded
    from stocktake.web.context import Web
    from stocktake.web.serving import is_loopback

    settings = session.settings
    connection = settings.placement.connection
    embedded = settings.placement.mode == "embedded"
    return Web(
        settings=settings,
        ledger=session.database,
        scheduler=session.scheduler,
        claims=session.own_claims,
        clock=session.clock,
        ids=session.ids,
        placement=Embedded(connection, state_path=settings.state_path) if embedded else None,
        loopback=is_loopback(settings.server),
    )
