"""
`move`: room on a move's destination, and its settlement on both nodes. Invariant: no guest is touched.
"""

from collections.abc import Callable
from typing import Any

import click

from stocktake.accounting.lifecycle import MoveKind
from stocktake.claims import Claimed, Refused
from stocktake.cli.claim import granted, seconds_of, tell
from stocktake.cli.commands import Commands
from stocktake.cli.options import complete_node, flavor_of, flavor_options
from stocktake.cli.session import Session
from stocktake.model.fitting import Limits
from stocktake.model.workload import Flavor
from stocktake.views.finding import find_instance
from stocktake.views.fitting import wanted_of

_NODE = click.option(
    "--node", "node_name", required=True, metavar="NODE|auto", help="The destination.", shell_complete=complete_node
)
_EXPIRES = click.option(
    "--expires", metavar="SECONDS|never", help="When the claim expires unless the move is finished."
)


@click.group(
    "move",
    cls=Commands,
    example="""
    $ stocktake move resize UUID --node kvm-02 --vcpus 8 --memory 16G
    $ stocktake move finish UUID
    $ stocktake move confirm UUID
    """,
)
def move_command() -> None:
    """Claim room where an instance is to go, and settle the move.

    Start with resize, migrate, live-migrate, evacuate or unshelve; move the
    guest; then `finish`. A resize or a cold migration takes room on both nodes
    until `confirm` or `revert`. `abort` gives up a move that is not finished; a
    move that is not finished in time expires.
    """


@move_command.command("resize", example="$ stocktake move resize UUID --node auto --vcpus 8 --memory 16G --disk 80G")
@click.argument("uuid")
@flavor_options
@_NODE
@_EXPIRES
@click.pass_obj
def resize_command(
    session: Session, /, *, uuid: str, node_name: str, expires: str | None, volume_backed: bool, **options: Any
) -> int:
    """Claim room for the instance UUID with another flavor, on another node or its own."""
    del volume_backed  # A resize does not change it.
    return _begin(session, uuid, "resize", node_name, expires, flavor=flavor_of(**options))


def _migrate(name: str, kind: MoveKind, text: str) -> None:
    """Add a command that starts a migration."""

    @move_command.command(name, help=text, example=f"$ stocktake move {name} UUID --node kvm-02")
    @click.argument("uuid")
    @_NODE
    @_EXPIRES
    @click.pass_obj
    def migrate_command(session: Session, uuid: str, node_name: str, expires: str | None) -> int:
        return _begin(session, uuid, kind, node_name, expires)


_migrate("migrate", "migration", "Claim room for a cold migration of the instance UUID.")
_migrate("live-migrate", "live-migration", "Claim room for a live migration of the instance UUID.")


@move_command.command("evacuate", example="$ stocktake move evacuate UUID --node auto")
@click.argument("uuid")
@_NODE
@_EXPIRES
@click.option("--force", is_flag=True, help="Even if the agent of the instance's host is alive.")
@click.pass_obj
def evacuate_command(session: Session, uuid: str, node_name: str, expires: str | None, *, force: bool) -> int:
    """Claim room to rebuild the instance UUID on another node, because its host is down."""
    return _begin(session, uuid, "evacuation", node_name, expires, force=force)


@move_command.command("unshelve", example="$ stocktake move unshelve UUID --node auto")
@click.argument("uuid")
@_NODE
@_EXPIRES
@click.pass_obj
def unshelve_command(session: Session, uuid: str, node_name: str, expires: str | None) -> int:
    """Claim room for the shelved and offloaded instance UUID; `stocktake keep` settles it."""

    instance, expires_s = find_instance(session.ledger, uuid), seconds_of(expires)

    def claim(node: str, limits: Limits | None) -> Claimed | Refused:
        return session.claims.unshelve(instance.uuid, node, limits=limits, expires_s=expires_s)

    wanted = wanted_of(instance.flavor, session.settings, volume_backed=instance.volume_backed)
    done = granted(session, node_name, wanted, None, claim)
    tell(session, done, said=f"unshelve of {instance.name or instance.uuid} to {done.instance.node}")
    return 0


def _begin(
    session: Session,
    uuid: str,
    kind: MoveKind,
    node_name: str,
    expires: str | None,
    *,
    flavor: Flavor | None = None,
    force: bool = False,
) -> int:
    instance, expires_s = find_instance(session.ledger, uuid), seconds_of(expires)
    wanted = wanted_of(flavor or instance.flavor, session.settings, volume_backed=instance.volume_backed)

    def claim(node: str, limits: Limits | None) -> Claimed | Refused:
        return session.claims.move(
            instance.uuid, kind, node, flavor=flavor, limits=limits, expires_s=expires_s, force=force
        )

    done = granted(session, node_name, wanted, None, claim)
    to = done.migration.dest_node if done.migration else node_name
    tell(session, done, said=f"{kind} of {instance.name or instance.uuid} to {to}")
    return 0


def _step(name: str, text: str, said: str) -> None:
    """Add a command for a step of a move."""

    @move_command.command(name, help=text, example=f"$ stocktake move {name} UUID")
    @click.argument("uuid")
    @click.pass_obj
    def step_command(session: Session, uuid: str) -> int:

        instance = find_instance(session.ledger, uuid)
        step: Callable[[str], Claimed] = getattr(session.claims, name)
        done = step(instance.uuid)
        where = done.instance.node or "no node"
        tell(session, done, said=f"{instance.name or instance.uuid} {said}; it is on {where}")
        return 0


_step("finish", "Record that the instance UUID is at its destination.", "has moved")
_step("confirm", "Free the room of a finished move of UUID at its source.", "stays at its destination")
_step("revert", "Record that UUID is back at its source, and free its destination.", "is back")
_step("abort", "Give up an unfinished move of UUID, and free its destination.", "does not move")
