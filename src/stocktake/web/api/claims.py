"""
`/v1/fit`, `/v1/claims` and what becomes of claims. Invariant: a "no" is 409 with every reason, in words and in numbers.

A claim is named by its instance: by the uuid, or by a name that only one has.
"""

from collections.abc import Callable
from typing import Annotated, Literal

from msgspec import Meta

from stocktake.accounting.fit.request import Wanted
from stocktake.accounting.lifecycle import Location, MoveKind
from stocktake.claims import Claimed, Refused, Request
from stocktake.claims.candidates import candidates, claim_on, destination_of, place_of
from stocktake.claims.claims import LONGEST_S, NEVER_S
from stocktake.errors import InvalidInput
from stocktake.model.access import OPERATORS, READERS
from stocktake.model.fitting import Limits
from stocktake.model.value import UUID, Value
from stocktake.model.workload import Flavor
from stocktake.views.finding import find_instance, find_node
from stocktake.views.fitting import ClaimedShown, FitAnswer, answer_of, claimed_shown, wanted_of
from stocktake.web.calls import Call, Text, route
from stocktake.web.context import Web

AUTO = "auto"
_KEY = "Idempotency-Key"
Uuid = Annotated[str, Meta(pattern=f"^{UUID.pattern}$")]
# In how many seconds a claim that nobody settles is given back; null takes the setting claim_expiry_s.
Expiry = Annotated[float, Meta(gt=0, le=LONGEST_S)] | Literal["never"] | None
Somewhere = Annotated[Text, Meta(description="A node's name or uuid, or `auto` for the best one that has room.")]


class Fit(Value, frozen=True, kw_only=True):
    """
    A machine to find a place for.

    Attributes:
        nodes: names or uuids of the nodes to look at; null looks at all.
        pack: fill full nodes first, or spread; null does as the settings say.
    """

    flavor: Flavor
    volume_backed: bool = False
    nodes: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=1000)] | None = None
    pack: bool | None = None


class Build(Value, frozen=True, kw_only=True):
    """
    A machine that is to be built.

    Attributes:
        limits: how far a node may be filled; without one a named node is unlimited but for NUMA cells and PCI devices.
    """

    node: Somewhere = AUTO
    flavor: Flavor
    name: Text | None = None
    uuid: Uuid | None = None
    volume_backed: bool = False
    project_id: Text | None = None
    user_id: Text | None = None
    os_type: Text | None = None
    limits: Limits | None = None
    expires_s: Expiry = None


class Unshelve(Value, frozen=True, kw_only=True):
    """Where a machine that was shelved is to go."""

    node: Somewhere = AUTO
    limits: Limits | None = None
    expires_s: Expiry = None


class Moving(Value, frozen=True, kw_only=True, tag_field="kind"):
    """Where a machine is to go; `kind` says how. A repeat with the same `migration_uuid` is the same move."""

    node: Somewhere = AUTO
    migration_uuid: Uuid | None = None
    limits: Limits | None = None
    expires_s: Expiry = None


class Resize(Moving, frozen=True, kw_only=True, tag="resize"):
    """A resize; `flavor` is what the machine is to have."""

    flavor: Flavor


class Migrate(Moving, frozen=True, kw_only=True, tag="migration"):
    """A cold migration."""


class LiveMigrate(Moving, frozen=True, kw_only=True, tag="live-migration"):
    """A live migration."""


class Evacuate(Moving, frozen=True, kw_only=True, tag="evacuation"):
    """Building it again, because its host is down; `force`: although its agent is alive."""

    force: bool = False


Move = Resize | Migrate | LiveMigrate | Evacuate
_KINDS: dict[type[Moving], MoveKind] = {
    Resize: "resize",
    Migrate: "migration",
    LiveMigrate: "live-migration",
    Evacuate: "evacuation",
}


class Renew(Value, frozen=True, kw_only=True):
    """For how long a claim is extended."""

    expires_s: Expiry = None


def fit(call: Call[None, Fit]) -> FitAnswer:
    """Say where a machine would fit, the best node first, and why not elsewhere; nothing is claimed."""
    web, asked = call.web, call.body
    wanted = wanted_of(asked.flavor, web.settings, volume_backed=asked.volume_backed)
    nodes = None if asked.nodes is None else {find_node(web.ledger, name).uuid for name in asked.nodes}
    now = web.clock.now()
    return answer_of(wanted, candidates(web.ledger, web.settings, wanted, now=now, nodes=nodes, pack=asked.pack))


def build(call: Call[None, Build]) -> ClaimedShown:
    """
    Claim room for a machine that is to be built.

    The claim counts at once, for everybody. It is kept when a guest of its uuid appears, or by `keep`, and given back
    by `release`, or by itself once it has expired.

    A repeat with the same `uuid` and the same content is the same claim, and is answered the same; with other content
    it is refused (409). A header `Idempotency-Key` that is a uuid stands for a `uuid` that the body leaves out.
    """
    web, asked = call.web, call.body
    uuid = _uuid_asked(call)
    wanted = wanted_of(asked.flavor, web.settings, volume_backed=asked.volume_backed)
    request = Request(
        name=asked.name,
        uuid=uuid,
        flavor=asked.flavor,
        volume_backed=asked.volume_backed,
        project_id=asked.project_id,
        user_id=asked.user_id,
        os_type=asked.os_type,
    )

    def claim(node: str, limits: Limits | None) -> Claimed | Refused:
        return web.claims.build(node, request, limits=limits, expires_s=_seconds(asked.expires_s))

    return _claimed(web, asked, wanted, claim, claimed_on=lambda: place_of(web.ledger, uuid))


def unshelve(call: Call[None, Unshelve]) -> ClaimedShown:
    """Claim room for an instance that was shelved and offloaded; `keep` settles it."""
    web, asked = call.web, call.body
    before = find_instance(web.ledger, call.path["instance"])

    def claim(node: str, limits: Limits | None) -> Claimed | Refused:
        return web.claims.unshelve(before.uuid, node, limits=limits, expires_s=_seconds(asked.expires_s))

    wanted = wanted_of(before.flavor, web.settings, volume_backed=before.volume_backed)
    return _claimed(web, asked, wanted, claim)


def move(call: Call[None, Move]) -> ClaimedShown:
    """
    Claim room where an instance is to go; move the machine, then `finish`.

    A resize or a cold migration holds room on both sides until `confirm` or `revert`. `abort` gives up a move that is
    not finished; one that nobody finishes in time is given up by itself.
    """
    web, asked = call.web, call.body
    before = find_instance(web.ledger, call.path["instance"])

    flavor = asked.flavor if isinstance(asked, Resize) else None

    def claim(node: str, limits: Limits | None) -> Claimed | Refused:
        return web.claims.move(
            before.uuid,
            _KINDS[type(asked)],
            node,
            flavor=flavor,
            limits=limits,
            expires_s=_seconds(asked.expires_s),
            force=isinstance(asked, Evacuate) and asked.force,
            migration_uuid=asked.migration_uuid,
        )

    wanted = wanted_of(flavor or before.flavor, web.settings, volume_backed=before.volume_backed)
    return _claimed(web, asked, wanted, claim, claimed_on=lambda: destination_of(web.ledger, asked.migration_uuid))


def renew(call: Call[None, Renew]) -> ClaimedShown:
    """Extend a pending claim from now on; a settled one stays settled."""
    return claimed_shown(call.web.claims.renew(_uuid(call), expires_s=_seconds(call.body.expires_s)))


def keep(call: Call[None, None]) -> ClaimedShown:
    """Settle the claim of a build or an unshelve: its machine is there."""
    return claimed_shown(call.web.claims.keep(_uuid(call)))


def release(call: Call[None, None]) -> ClaimedShown:
    """Release an instance's room, whatever its state: it is free at once, and no guest is touched."""
    return claimed_shown(call.web.claims.release(_uuid(call)))


def finish(call: Call[None, None]) -> ClaimedShown:
    """Take a moving instance to its destination: its machine is there."""
    return claimed_shown(call.web.claims.finish(_uuid(call)))


def confirm(call: Call[None, None]) -> ClaimedShown:
    """Release what a finished move holds at its source."""
    return claimed_shown(call.web.claims.confirm(_uuid(call)))


def revert(call: Call[None, None]) -> ClaimedShown:
    """Take the instance of a finished move back to its source."""
    return claimed_shown(call.web.claims.revert(_uuid(call)))


def abort(call: Call[None, None]) -> ClaimedShown:
    """Give a pending claim back: of a build, an unshelve or a move that is not finished."""
    return claimed_shown(call.web.claims.abort(_uuid(call)))


def _uuid(call: Call[None, None] | Call[None, Renew]) -> str:
    return find_instance(call.web.ledger, call.path["instance"]).uuid


def _uuid_asked(call: Call[None, Build]) -> str | None:
    """Read the claim's uuid: of the body, or the header's."""
    key, uuid = call.request.headers.get(_KEY), call.body.uuid
    if key is None:
        return uuid
    # The header's draft has it in quotes; most who send it have not.
    key = key.strip('"')
    if UUID.fullmatch(key) is None:
        raise InvalidInput(f"{key[:40]!r} is not a uuid", where=_KEY, remedy="Give a new uuid for each claim.")
    if uuid not in {None, key}:
        raise InvalidInput(f"{key} is not the body's uuid {uuid}", where=_KEY, remedy="Give one, or both the same.")
    return key


def _claimed(
    web: Web,
    asked: Build | Unshelve | Moving,
    wanted: Wanted,
    claim: Callable[[str, Limits | None], Claimed | Refused],
    *,
    claimed_on: Callable[[], Location | None] = lambda: None,
) -> ClaimedShown:
    """Claim on the node that was asked for, or on the best one."""
    node = None if asked.node == AUTO else find_node(web.ledger, asked.node).uuid
    now = web.clock.now()
    done = claim_on(
        web.ledger, web.settings, node, wanted, limits=asked.limits, claim=claim, now=now, claimed_on=claimed_on
    )
    return claimed_shown(done)


def _seconds(expiry: float | str | None) -> float | None:
    return NEVER_S if isinstance(expiry, str) else expiry


_OF_ONE = "/v1/instances/{instance}"

ROUTES = (
    route("POST", "/v1/fit", fit, READERS, writes=False),
    route("POST", "/v1/claims", build, OPERATORS, status=201),
    route("POST", f"{_OF_ONE}/keep", keep, OPERATORS),
    route("POST", f"{_OF_ONE}/renew", renew, OPERATORS),
    route("POST", f"{_OF_ONE}/release", release, OPERATORS),
    route("POST", f"{_OF_ONE}/unshelve", unshelve, OPERATORS, status=201),
    route("POST", f"{_OF_ONE}/move", move, OPERATORS, status=201),
    route("POST", f"{_OF_ONE}/finish", finish, OPERATORS),
    route("POST", f"{_OF_ONE}/confirm", confirm, OPERATORS),
    route("POST", f"{_OF_ONE}/revert", revert, OPERATORS),
    route("POST", f"{_OF_ONE}/abort", abort, OPERATORS),
)
