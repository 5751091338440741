"""
`claim`, `keep` and `release`: promise room before a machine is built. Law: stdout has the uuid, and nothing else.
"""

from typing import TYPE_CHECKING, Any

import click

from stocktake.cli.completion import complete_node
from stocktake.cli.flavors import flavor_of, flavor_options, wanted_of
from stocktake.cli.options import Command, nearest
from stocktake.cli.session import Session
from stocktake.errors import ClaimRefused, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from stocktake.accounting.fit import Wanted
    from stocktake.claims import Claimed, Refused
    from stocktake.model.fitting import Limits
    from stocktake.model.workload import Instance

AUTO = "auto"
_LIMITS = ("memory_mb", "vcpus", "pcpus", "disk_gb", "numa_cpu_ratio", "numa_ram_ratio")
_SHOWN_MAX = 5


@click.command(
    "claim",
    short_help="Promise room for a machine, and build it under that promise.",
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
    help="Where; auto takes the best node that has room, as `stocktake fit` lists them.",
    shell_complete=complete_node,
)
@click.option("--uuid", metavar="UUID", help="The machine's uuid; a new one is made unless it is given.")
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="KEY=NUMBER",
    help=f"How far a named node may be filled: {', '.join(_LIMITS)}; none unless given.",
)
@click.option("--expires", metavar="SECONDS|never", help="When it is given back unless it is kept; see claim_expiry_s.")
@click.option("--project", metavar="PROJECT", help="Whose it is.")
@click.option("--user", metavar="USER", help="Who asked for it.")
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
    """Promise room for a machine called NAME, and print its uuid.

    The promise counts at once, for everybody. It is kept when a guest of that
    uuid appears, or by `stocktake keep`, and given back by `stocktake release`,
    or by itself once it has expired.

    With COMMAND after --, that runs under the claim: if it ends well the claim
    is kept, else it is given back, and its exit code is this one's. In it,
    {uuid}, {name} and {node} are replaced; STOCKTAKE_UUID, STOCKTAKE_NAME and
    STOCKTAKE_NODE are in its environment.

    Exit code 1, and every reason, if there is no room.
    """
    from stocktake.claims import Request

    session.command = "claim"
    flavor = flavor_of(**options)
    wanted = wanted_of(flavor, session.settings, volume_backed=volume_backed)
    request = Request(
        name=name, uuid=uuid, flavor=flavor, volume_backed=volume_backed, project_id=project, user_id=user,
        os_type=os_type,
    )  # fmt: skip
    expires_s, most = seconds_of(expires), limits_of(limits)

    def claim(node: str, limits: "Limits | None") -> "Claimed | Refused":
        return session.claims.build(node, request, limits=limits, expires_s=expires_s)

    claimed = granted(session, node_name, wanted, most, claim)
    if command:
        from stocktake.cli.under import run_under

        return run_under(session, claimed, command)
    tell(session, claimed, said=f"{name} on {claimed.instance.node}")
    return 0


def granted(
    session: Session,
    node_name: str,
    wanted: "Wanted",
    limits: "Limits | None",
    claim: "Callable[[str, Limits | None], Claimed | Refused]",
) -> "Claimed":
    """
    Claim on the node that was named, or on the best.

    Raises:
        ClaimRefused: there is no room; every reason, of every node that was asked.
    """
    from stocktake.claims import Claimed
    from stocktake.claims.best import claim_best
    from stocktake.cli.nodes import find_node

    if node_name == AUTO:
        if limits is not None:
            raise InvalidInput("--limit goes with a named node: auto fills each by its capacity", where="--limit")
        done = claim_best(session.ledger, session.settings, wanted, claim, now=session.clock.now())
    else:
        one = claim(find_node(session.ledger, node_name).uuid, limits)
        done = one if isinstance(one, Claimed) else (one,)
    if isinstance(done, Claimed):
        return done
    raise _refusal(done)


def _refusal(refused: "Sequence[Refused]") -> ClaimRefused:
    """Gather every reason of every node; many nodes are counted, `stocktake fit` lists them all."""
    if not refused:
        remedy = "`stocktake refresh` takes stock of this machine."
        return ClaimRefused(["there is no node"], where="ledger", remedy=remedy)
    if len(refused) == 1:
        return refused[0].error()
    reasons = [f"{one.node}: {'; '.join(reason.text for reason in one.reasons)}" for one in refused[:_SHOWN_MAX]]
    if len(refused) > _SHOWN_MAX:
        reasons.append(f"and {len(refused) - _SHOWN_MAX} nodes more")
    return ClaimRefused(reasons, where="no node has room", remedy="`stocktake fit` with the same options lists all.")


def find_instance(session: Session, uuid_or_name: str) -> "Instance":
    """
    Find an instance by its uuid, or by a name that only one has.

    Raises:
        NotFound: there is none, and the nearest; or several.
    """
    found = session.ledger.instances()
    mine = [one for one in found if one.uuid == uuid_or_name] or [one for one in found if one.name == uuid_or_name]
    if len(mine) == 1:
        return mine[0]
    if mine:
        uuids = ", ".join(one.uuid for one in mine[:5])
        raise NotFound(f"several instances are named {uuid_or_name!r}", remedy=f"Give the uuid: {uuids}.")
    known = [name for one in found for name in (one.uuid, one.name) if name]
    remedy = nearest(uuid_or_name, known).strip() or "`stocktake instances` lists them."
    raise NotFound(f"there is no instance {uuid_or_name!r}", remedy=remedy)


def tell(session: Session, claimed: "Claimed", *, said: str) -> None:
    """Print the uuid for a script, and for a person on stderr what was done."""
    from stocktake.cli.screen import hint, screen_of, write, write_json
    from stocktake.model.value import plain

    if session.json:
        write_json(session, {**plain(claimed), "expires_at": plain(claimed.expires_at)})
        return
    write(screen_of(session), claimed.instance.uuid)
    if claimed.expires_at is not None:
        said += f"; given back at {claimed.expires_at:%H:%M:%S} UTC unless it is settled"
    if claimed.unsynced:
        said += f"; the scheduler could not be told yet: {claimed.unsynced}"
    hint(session, f"{said}.")


def seconds_of(text: str | None) -> float | None:
    """
    Read a number of seconds, or `never`.

    Raises:
        InvalidInput: it is neither.
    """
    from stocktake.claims.desk import NEVER_S

    if text is None:
        return None
    if text == "never":
        return NEVER_S
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < NEVER_S:
        raise InvalidInput(f"{text[:40]!r} is no number of seconds, nor never", where="--expires")
    return seconds


def limits_of(pairs: "Sequence[str]") -> "Limits | None":
    """
    Read `KEY=NUMBER` pairs; None if there is none.

    Raises:
        InvalidInput: an unknown key, with the nearest, or no number.
    """
    from stocktake.model.fitting import Limits

    most: dict[str, float] = {}
    for pair in pairs:
        key, _equals, text = pair.partition("=")
        if key not in _LIMITS:
            raise InvalidInput(f"there is no limit {key[:40]!r}.{nearest(key, _LIMITS)}", where="--limit")
        try:
            most[key] = float(text)
        except ValueError:
            raise InvalidInput(f"{text[:40]!r} is no number", where=f"--limit {key}") from None
    return Limits(**most) if most else None


@click.command(
    "keep",
    short_help="Settle a claim: its machine is there.",
    cls=Command,
    example="$ stocktake keep 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10",
)
@click.argument("uuid")
@click.pass_obj
def keep_command(session: Session, uuid: str) -> int:
    """Settle the claim of a build or an unshelve: from now on it does not expire."""
    session.command = "keep"
    done = session.claims.keep(find_instance(session, uuid).uuid)
    tell(session, done, said=f"{done.instance.name or uuid} is kept")
    return 0


@click.command(
    "release",
    short_help="Take a promise back.",
    cls=Command,
    example="$ stocktake release 2f1c0d9e-8a55-4c1e-9d8c-3f8f6f1f7a10",
)
@click.argument("uuid")
@click.pass_obj
def release_command(session: Session, uuid: str) -> int:
    """Take a promise back, whatever its state: its room is free at once.

    No guest is touched: one that still runs is an orphan from then on.
    """
    session.command = "release"
    done = session.claims.release(find_instance(session, uuid).uuid)
    tell(session, done, said=f"{done.instance.name or uuid} is released")
    return 0
