"""
`/v1/instances`, `/v1/migrations`, `/v1/orphans`: instances, moves, and guests without either. Invariant: the ledger's
own words.
"""

from typing import Annotated, Literal

from msgspec import Meta

from stocktake.errors import NotFound
from stocktake.model.access import OPERATORS, READERS
from stocktake.model.workload import Instance, Migration
from stocktake.views.finding import find_instance, find_node
from stocktake.views.problems import UnmanagedGuest, unmanaged_guests
from stocktake.web.calls import Call, Text, route
from stocktake.web.paging import Page, PageQuery, RowsQuery, page_of, row_after


class InstancesQuery(RowsQuery, frozen=True, kw_only=True):
    """Which instances."""

    host: Annotated[Text | None, Meta(description="Those of this service.")] = None
    node: Annotated[Text | None, Meta(description="Those on this node, by its name or uuid.")] = None
    deleted: Annotated[bool, Meta(description="Those deleted, too.")] = False


class MigrationsQuery(RowsQuery, frozen=True, kw_only=True):
    """Which migrations."""

    host: Annotated[Text | None, Meta(description="Those from or to this service.")] = None
    node: Annotated[Text | None, Meta(description="Those from or to this node, by its name or uuid.")] = None
    all: Annotated[bool, Meta(description="Settled ones too: confirmed, completed, failed and the like.")] = False


class OrphansQuery(PageQuery, frozen=True, kw_only=True):
    """Which unmanaged guests."""

    host: Annotated[Text | None, Meta(description="Those on nodes of this service.")] = None
    node: Annotated[Text | None, Meta(description="Those on this node, by its name or uuid.")] = None
    kind: Annotated[Literal["orphan", "misplaced"] | None, Meta(description="Those of this kind.")] = None


def instances(call: Call[InstancesQuery, None]) -> Page[Instance]:
    """List the instances, the first made first: machines that have room on a node, whether they run or not."""
    host, node = _place(call, call.query.host, call.query.node)
    found, last = call.web.ledger.instances_page(
        after=row_after(call.query), limit=call.query.limit, host=host, node=node, deleted=call.query.deleted
    )
    return Page(items=found, next=None if last is None else str(last))


def instance(call: Call[None, None]) -> Instance:
    """Show one instance, by its uuid, or by a name that only one has."""
    return find_instance(call.web.ledger, call.path["instance"])


def deleted(call: Call[None, None]) -> None:
    """
    Take a promise back: the next refresh gives its room free.

    The record stays, deleted, and no guest is touched; one that still runs is an orphan from then on. To have the room
    free at once, release it.
    """
    ledger = call.web.ledger
    ledger.delete_instances([find_instance(ledger, call.path["instance"]).uuid])


def migrations(call: Call[MigrationsQuery, None]) -> Page[Migration]:
    """List the migrations in play, by id: moves that hold room on two sides."""
    host, node = _place(call, call.query.host, call.query.node)
    after = row_after(call.query)
    found = call.web.ledger.migrations(host=host, node=node, all=call.query.all)
    rest = [one for one in found if one.id > after]
    shown = tuple(rest[: call.query.limit])
    return Page(items=shown, next=str(shown[-1].id) if len(rest) > len(shown) else None)


def migration(call: Call[None, None]) -> Migration:
    """Show one migration, settled or not, by its id."""
    number = call.path["migration"]
    for one in call.web.ledger.migrations(all=True):
        if str(one.id) == number:
            return one
    raise NotFound(f"there is no migration {number[:40]!r}", remedy="`stocktake migrations --all` lists them.")


def orphans(call: Call[OrphansQuery, None]) -> Page[UnmanagedGuest]:
    """
    List guests without an instance, by node.

    `orphan`: the ledger does not know it. `misplaced`: the ledger has it elsewhere. As of the last refresh.
    """
    ledger, query = call.web.ledger, call.query
    nodes = (find_node(ledger, query.node),) if query.node is not None else ledger.nodes_in_brief(host=query.host)
    nodes = tuple(node for node in nodes if query.host is None or node.host == query.host)
    found = unmanaged_guests(nodes, ledger.unmanaged([node.uuid for node in nodes]))
    asked = [one for one in found if query.kind is None or one.kind == query.kind]
    return page_of(asked, lambda one: (one.node, one.host, one.id), query)


def _place(
    call: Call[InstancesQuery, None] | Call[MigrationsQuery, None], host: str | None, node: str | None
) -> tuple[str | None, str | None]:
    """Read a place: a node that is named says its host too."""
    if node is None:
        return host, None
    found = find_node(call.web.ledger, node)
    return host or found.host, found.hypervisor_hostname


ROUTES = (
    route("GET", "/v1/instances", instances, READERS),
    route("GET", "/v1/instances/{instance}", instance, READERS),
    route("DELETE", "/v1/instances/{instance}", deleted, OPERATORS, status=204),
    route("GET", "/v1/migrations", migrations, READERS),
    route("GET", "/v1/migrations/{migration}", migration, READERS),
    route("GET", "/v1/orphans", orphans, READERS),
)
