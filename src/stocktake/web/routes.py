"""
The whole front on a page. Invariant: what is not in this list can't be asked, and what is can be asked by its roles
only.

Each noun's file has its routes beside its handlers; each room of the front is one line here.
"""

from stocktake.web import nova, placement
from stocktake.web.api import about, changes, claims, fleet, ledger, nodes, promises
from stocktake.web.calls import Route
from stocktake.web.nova import hypervisors, services
from stocktake.web.pages import ROUTES as PAGES

ROUTES: tuple[Route, ...] = (
    *about.ROUTES,
    *nodes.ROUTES,
    *promises.ROUTES,
    *claims.ROUTES,
    *fleet.ROUTES,
    *ledger.ROUTES,
    *changes.ROUTES,
    *PAGES,
    *nova.ROUTES,
    *hypervisors.ROUTES,
    *services.ROUTES,
    *nova.REST,
    *placement.ROUTES,
)
