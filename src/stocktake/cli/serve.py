"""
`serve`: the fleet's front. Invariant: no state of its own; what it is told to end, it ends well.
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

    Listens on server.listen, 127.0.0.1:8790 unless set; elsewhere than on
    loopback only with TLS (server.tls_cert) or server.allow_insecure. Who asks
    shows a token: `stocktake token create`. While there is none, whoever is on
    this machine may read.

    Any number of copies may run on one ledger. SIGTERM and Ctrl-C end it once
    what is at hand is done; SIGHUP reads the certificate again.
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
    """Put together what the front works with."""
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
