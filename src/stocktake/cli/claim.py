"""
`claim`, `keep` and `release`: room for an instance before it is built. Invariant: stdout has its uuid and nothing else.
"""

from collections.abc import Callable, Sequence
from typing import Any

import click

from stocktake.accounting.fit.request import Wanted
from stocktake.accounting.lifecycle import Location
from stocktake.claims import Claimed, Refused, Request
from stocktake.claims.candidates import claim_on, place_of
from stocktake.claims.claims import NEVER_S
from stocktake.cli.commands import Command
from stocktake.cli.options import complete_node, flavor_of, flavor_options
from stocktake.cli.run_command import run_under
from stocktake.cli.screen import hint, screen_of, write, write_json
from stocktake.cli.session import Session
from stocktake.errors import InvalidInput
from stocktake.model.fitting import Limits
from stocktake.views.finding import find_instance, find_node
from stocktake.views.fitting import claimed_shown, wanted_of
from stocktake.views.quantities import nearest

AUTO = "auto"
_LIMITS = ("memory_mb", "vcpus", "pcpus", "disk_gb", "numa_cpu_ratio", "numa_ram_ratio")


@click.command(
    "claim",
    cls=Command,
    example="""
    $ stocktake claim web-1 --node auto --vcpus 2 --memory 4G --disk 20G
    $ stocktake claim web-1 --node kvm-01 --vcpus 2 --memory 4G -- virt-install --uuid {uuid} --name {name} ...
    $ stocktake claim db-1 --node kvm-01 --vcpus 8 --memory 64G --limit memory_mb=120000
    """,
)
@flavor_options
@click.option(
    "--node",
    "node_name",
    default=AUTO,
    metavar="NODE|auto",
    show_default=True,
    help="The node; auto takes the best one with room, as `stocktake fit` lists them.",
    shell_complete=complete_node,
)
@click.option("--uuid", metavar="UUID", help="The instance's uuid, a new one unless given; a repeat claims once.")
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="KEY=NUMBER",
    help=f"How far the node may be filled: {', '.join(_LIMITS)}; no limit unless given.",
)
@click.option(
    "--expires", metavar="SECONDS|never", help="When the claim expires unless it is kept; see claim_expiry_s."
)
@click.option("--project", metavar="PROJECT", help="The project that owns it.")
@click.option("--user", metavar="USER", help="The user who asked for it.")
@click.option("--os-type", metavar="TYPE", help="linux, windows, ...: counted in the node's stats.")
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def claim_command(
    session: Session,
    /,
    *,
    name: str,
    command: tuple[str, ...],
    node_name: str,
    uuid: str | None,
    limits: tuple[str, ...],
    expires: str | None,
    volume_backed: bool,
    project: str | None,
    user: str | None,
    os_type: str | None,
    **options: Any,
) -> int:
    """Claim room for an instance called NAME, and print its uuid.

    The claim counts at once, for everybody. It is kept when a guest with that
    uuid appears, or by `stocktake keep`. It is released by `stocktake release`,
    or when it expires.

    COMMAND after -- runs under the claim: if it succeeds the claim is kept, else
    it is released, and COMMAND's exit code is returned. {uuid}, {name} and
    {node} are replaced in it; STOCKTAKE_UUID, STOCKTAKE_NAME and STOCKTAKE_NODE
    are in its environment.

    Exit code 1, and every reason, if there is no room.
    """
    flavor = flavor_of(**options)
    wanted = wanted_of(flavor, session.settings, volume_backed=volume_backed)
    request = Request(
        name=name, uuid=uuid, flavor=flavor, volume_backed=volume_backed, project_id=project, user_id=user,
        os_type=os_type,
    )  # fmt: skip
    expires_s, most = seconds_of(expires), limits_of(limits)

    def claim(node: str, limits: Limits | None) -> Claimed | Refused:
        return session.claims.build(node, request, limits=limits, expires_s=expires_s)

    claimed = granted(session, node_name, wanted, most, claim, claimed_on=lambda: place_of(session.ledger, uuid))
    if command:
        return run_under(session, claimed, command)
    tell(session, claimed, said=f"{name} on {claimed.instance.node}")
    return 0


def granted(
    session: Session,
    node_name: str,
    wanted: Wanted,
    limits: Limits | None,
    claim: Callable[[str, Limits | None], Claimed | Refused],
    *,
    claimed_on: Callable[[], Location | None] = lambda: None,
) -> Claimed:
    """
    Claim room on the node that was named, or on the best; a repeat without a name, where it was claimed before.

    Raises:
        ClaimRefused: there is no room; has every reason of every node that was tried.
    """
    node = None if node_name == AUTO else find_node(session.ledger, node_name).uuid
    now = session.clock.now()
    return claim_on(
        session.ledger, session.settings, node, wanted, limits=limits, claim=claim, now=now, claimed_on=claimed_on
    )


def tell(session: Session, claimed: Claimed, *, said: str) -> None:
    """Print the uuid for a script, and for a person on stderr what was done."""
    if session.json:
        write_json(session, claimed_shown(claimed))
        return
    write(screen_of(session), claimed.instance.uuid)
    if claimed.expires_at is not None:
        said += f"; expires at {claimed.expires_at:%H:%M:%S} UTC unless it is settled"
    if claimed.unsynced:
        said += f"; Placement does not have it yet: {claimed.unsynced}"
    hint(session, f"{said}.")


def seconds_of(text: str | None) -> float | None:
    """
    Read a number of seconds, or `never`.

    Raises:
        InvalidInput: it is neither.
    """
    if text is None:
        return None
    if text == "never":
        return NEVER_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < NEVER_S:
        raise InvalidInput(f"{text[:40]!r} must be a number of seconds, or never", where="--expires")
    return seconds


def limits_of(pairs: Sequence[str]) -> Limits | None:
    """
    Read `KEY=NUMBER` pairs; None if there is none.

    Raises:
        InvalidInput: an unknown key (names the nearest), or not a number.
    """
    most: dict[str, float] = {}
    for pair in pairs:
        key, _equals, text = pair.partition("=")
        if key not in _LIMITS:
            raise InvalidInput(f"unknown limit {key[:40]!r}.{nearest(key, _LIMITS)}", where="--limit")
        try:
            most[key] = float(text)
        except ValueError:
            most[key] = -1
        # Not a number is not at least 0 either.
        if not most[key] >= 0:
            raise InvalidInput(f"{text[:40]!r} must be a number of 0 or more", where=f"--limit {key}")
    return Limits(**most) if most else None


@click.command(
    "keep",
    cls=Command,
    example="$ stocktake keep 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10",
)
@click.argument("uuid")
@click.pass_obj
def keep_command(session: Session, uuid: str) -> int:
    """Keep the claim of a build or an unshelve: it no longer expires."""
    done = session.claims.keep(find_instance(session.ledger, uuid).uuid)
    tell(session, done, said=f"{done.instance.name or uuid} is kept")
    return 0


@click.command(
    "release",
    cls=Command,
    example="$ stocktake release 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10",
)
@click.argument("uuid")
@click.pass_obj
def release_command(session: Session, uuid: str) -> int:
    """Release the room of the instance UUID, whatever its state; it is free at once.

    No guest is touched: one that still runs is an orphan from then on.
    """
    done = session.claims.release(find_instance(session.ledger, uuid).uuid)
    tell(session, done, said=f"{done.instance.name or uuid} is released")
    return 0
