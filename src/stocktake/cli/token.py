"""
`token`: who may use the fleet through its server. Invariant: a token is shown once, when it is made, and never kept.
"""

import secrets
from datetime import datetime

import click

from stocktake.cli.commands import Commands
from stocktake.cli.screen import Column, answer, answer_list
from stocktake.cli.session import Session
from stocktake.errors import InvalidInput
from stocktake.model.access import Role, Token, digest_of
from stocktake.model.value import plain
from stocktake.views.quantities import moment, span_of

_BYTES = 32
# A prefix that scanners for leaked secrets can find.
PREFIX = "stk_"


@click.group(
    "token",
    cls=Commands,
    example="""
    $ stocktake token create --role agent --host compute-7
    $ stocktake token list
    $ stocktake token revoke 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10
    """,
)
def token_command() -> None:
    """Manage who may use the fleet through `stocktake serve`.

    A viewer reads; an operator may do everything; an agent keeps the books of one
    host. As soon as one token exists, every request needs one.
    """


@token_command.command(
    "create",
    example="""
    $ stocktake token create --role operator --note "Ada" --expires 90d
    $ stocktake token create --role agent --host compute-7 > /etc/stocktake/token
    """,
)
@click.option(
    "--role", type=click.Choice(["viewer", "agent", "operator"]), required=True, help="What its bearer may do."
)
@click.option("--host", metavar="HOST", help="The agent's host, as in its setting `host`.")
@click.option("--expires", metavar="TIME", help="Its lifetime: 90d, 12h, 30min; unlimited unless given.")
@click.option("--note", default="", metavar="TEXT", help="Whom it is for, and why.")
@click.pass_obj
def create_command(session: Session, role: Role, host: str | None, expires: str | None, note: str) -> int:
    """Make a token and print it; it can't be shown again."""
    if (role == "agent") != (host is not None):
        raise InvalidInput("--role agent needs --host, and no other role takes it", where="--host")
    secret = PREFIX + secrets.token_urlsafe(_BYTES)
    until = session.clock.now() + span_of(expires, where="--expires") if expires is not None else None
    token = session.database.tokens.add(digest_of(secret), role=role, host=host, note=note, expires_at=until)
    advice = f"Token {token.uuid}, role {role}{f' of {host}' if host else ''}. Store it now: it is not shown again."
    return answer(session, {**plain(token), "token": secret}, secret, advice=advice)


@token_command.command("list", example="$ stocktake token list --json")
@click.pass_obj
def list_command(session: Session) -> int:
    """List the tokens: uuid, role, host, state, note; the secrets are not stored."""
    tokens = session.database.tokens.all()
    columns = (
        Column("TOKEN"),
        Column("ROLE"),
        Column("HOST", shrinks=True),
        Column("STATE"),
        Column("NOTE", wraps=True),
    )
    now = session.clock.now()
    return answer_list(
        session,
        tokens,
        columns,
        lambda one: (one.uuid, one.role, one.host or "", _state(one, now), one.note),
        empty="There are no tokens: anybody on the server's host may read, nobody may write.",
        advice="`stocktake token create --role operator` makes one.",
    )


def _state(token: Token, now: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if not token.good(now):
        return "expired"
    return f"until {moment(token.expires_at)}" if token.expires_at else "good"


@token_command.command("revoke", example="$ stocktake token revoke 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10")
@click.argument("uuid")
@click.pass_obj
def revoke_command(session: Session, uuid: str) -> int:
    """Revoke the token UUID; servers refuse it within seconds."""
    token = session.database.tokens.revoke(uuid)
    text = f"Token {token.uuid} ({token.role}{f' of {token.host}' if token.host else ''}) is revoked."
    return answer(session, token, text)
