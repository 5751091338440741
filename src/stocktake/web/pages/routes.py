"""The pages on a page. Invariant: a page that is not in this list is not there."""

from stocktake.web.calls import Route
from stocktake.web.pages import assets, fit, fleet, live, node, problems, signing

ROUTES: tuple[Route, ...] = (
    *fleet.ROUTES,
    *node.ROUTES,
    *fit.ROUTES,
    *problems.ROUTES,
    *live.ROUTES,
    *signing.ROUTES,
    *assets.ROUTES,
)
